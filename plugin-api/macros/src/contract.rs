//! `#[contract]`: checks the trait, and generates its methods as types, its description, its table
//! and its proxy.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse_quote;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Error, FnArg, GenericArgument, Ident, ItemTrait, LitStr, Pat, PathArguments, ReceiverKind,
    Result, ReturnType, Safety, TraitItem, TraitItemFn, Type, TypeParamBound, TypePath,
    TypeReference,
};

use crate::options::{Options, version};

/// Maximum number of arguments of a method.
const MAX_ARGUMENTS: usize = 12;

/// Names of the proxy's own methods, which a contract cannot have.
const RESERVED: [&str; 6] =
    ["pin", "pooled", "transport", "with_cancellation_token", "with_deadline", "with_timeout"];

/// A method of the contract.
struct Method {
    name: Ident,
    /// The type that stands for it.
    marker: Ident,
    arguments: Vec<Argument>,
    output: Type,
    error: Type,
    since: Option<LitStr>,
    permission: Option<String>,
    has_default: bool,
    is_async: bool,
    /// The method as declared, without a body and the macro's attributes.
    declared: TraitItemFn,
}

struct Argument {
    name: Ident,
    /// Its kind, a type of `argument.rs`.
    kind: TokenStream,
}

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(arguments, &["name", "version", "crate"])?;
    let mut item: ItemTrait = syn::parse2(item)?;
    let missing =
        |what| Error::new_spanned(&item.ident, format!("expected `{what}` in `#[contract(…)]`"));
    let name = options.get("name").ok_or_else(|| missing("name = \"…\""))?.clone();
    let own_version = options.get("version").ok_or_else(|| missing("version = \"1.0\""))?.clone();
    check_name(&name)?;
    check_trait(&item)?;
    let versions = version(&own_version)?;
    // Called on many threads; and the futures of default bodies borrow the value.
    item.supertraits.push(parse_quote!(::core::marker::Send));
    item.supertraits.push(parse_quote!(::core::marker::Sync));
    let krate = options.krate()?;
    let internal = quote!(#krate::contract::internal);
    let mut errors: Option<Error> = None;
    let mut methods = Vec::new();
    for member in &mut item.items {
        match Method::parse(member, versions, &internal) {
            Ok(method) => methods.push(method),
            Err(error) => match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            },
        }
    }
    if let Some(errors) = errors {
        return Err(errors);
    }
    let trait_name = &item.ident;
    let types =
        methods.iter().enumerate().map(|(at, method)| method.types(trait_name, &internal, at));
    let proxy_methods = methods.iter().map(|method| method.proxy(trait_name, &internal));
    let defaults = methods
        .iter()
        .filter(|method| method.has_default)
        .map(|method| method.without_default(trait_name, &methods));
    let entries = methods.iter().map(|method| match method.is_async {
        true => quote!(entry_async),
        false => quote!(entry),
    });
    let served = methods.iter().map(|method| match method.is_async {
        true => quote!(served_async),
        false => quote!(served),
    });
    let markers: Vec<_> = methods.iter().map(|method| &method.marker).collect();
    Ok(quote! {
        #item

        #[allow(
            missing_debug_implementations, non_camel_case_types, unused_qualifications, clippy::all,
            clippy::pedantic, clippy::nursery, reason = "generated"
        )]
        const _: () = {
            #(#types)*
            #(#defaults)*

            impl #krate::contract::Contract for dyn #trait_name {
                const DESCRIPTION: &'static #internal::Description = &#internal::Description {
                    name: #name,
                    version: #own_version,
                    methods: &[#(<#markers as #internal::Method>::SHAPE),*],
                };
            }

            impl<__T: #trait_name + 'static, const LINKED: bool> #internal::ServedBy<__T, LINKED>
                for dyn #trait_name
            {
                const METHODS: &'static [#internal::RawMethod] =
                    &[#(#internal::#entries::<__T, #markers, LINKED>()),*];
                const SERVED: &'static [#internal::ServedMethod<__T>] =
                    &[#(#internal::#served::<__T, #markers>()),*];
            }

            impl<__T: #krate::contract::Transport> #trait_name
                for #krate::contract::Proxy<dyn #trait_name, __T>
            {
                #(#proxy_methods)*
            }
        };
    })
}

/// Checks the name of a contract.
fn check_name(name: &LitStr) -> Result<()> {
    let value = name.value();
    let is_valid = value.starts_with(|char: char| char.is_ascii_lowercase())
        && value
            .chars()
            .all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-_.".contains(char))
        && value.len() <= 64;
    if is_valid {
        return Ok(());
    }
    let message = "the name of a contract is at most 64 lower-case letters, digits, `-`, `_` and `.`, \
                   and begins with a letter";
    Err(Error::new_spanned(name, message))
}

fn check_trait(item: &ItemTrait) -> Result<()> {
    if let Some(generics) = item.generics.params.first() {
        return Err(Error::new_spanned(generics, "a contract cannot be generic"));
    }
    if let Some(unsafety) = &item.unsafety {
        return Err(Error::new_spanned(unsafety, "a contract cannot be unsafe"));
    }
    for bound in &item.supertraits {
        let is_allowed = matches!(bound, TypeParamBound::Trait(bound)
            if bound.path.is_ident("Send") || bound.path.is_ident("Sync"));
        if !is_allowed {
            let message = "a contract cannot have supertraits other than `Send` and `Sync`";
            return Err(Error::new_spanned(bound, message));
        }
    }
    Ok(())
}

impl Method {
    /// Checks a member of the trait, and removes the macro's attributes from it.
    fn parse(member: &mut TraitItem, contract: (u32, u32), internal: &TokenStream) -> Result<Self> {
        let TraitItem::Fn(function) = member else {
            return Err(Error::new_spanned(member, "a contract can only have methods"));
        };
        let (since, permission) = take_attributes(function, contract)?;
        let signature = &function.sig;
        let name = signature.ident.clone();
        let invalid =
            |span: &dyn quote::ToTokens, message: &str| Err(Error::new_spanned(span, message));
        if RESERVED.contains(&name.to_string().as_str()) {
            return invalid(&name, "the name is one of the proxy's own methods");
        }
        if let Some(parameter) = signature.generics.params.first() {
            return invalid(parameter, "a method of a contract cannot be generic");
        }
        if let Some(clause) = &signature.generics.where_clause {
            return invalid(clause, "a method of a contract cannot have a `where` clause");
        }
        if let Safety::Unsafe(token) = &signature.safety {
            return invalid(token, "a method of a contract cannot be `unsafe`");
        }
        if let Some(abi) = &signature.abi {
            return invalid(abi, "a method of a contract cannot have an ABI");
        }
        let mut inputs = signature.inputs.iter();
        match inputs.next() {
            Some(FnArg::Receiver(receiver))
                if matches!(receiver.kind, ReceiverKind::Reference(_, None, None)) => {}
            Some(FnArg::Receiver(receiver)) => {
                return invalid(receiver, "a method of a contract takes `&self`");
            }
            _ => return invalid(&name, "a method of a contract takes `&self`"),
        }
        let mut arguments = Vec::new();
        for input in inputs {
            let FnArg::Typed(input) = input else { continue };
            if arguments.len() == MAX_ARGUMENTS {
                return invalid(input, "a method of a contract has at most 12 arguments");
            }
            let Pat::Ident(pattern) = &*input.pat else {
                return invalid(&input.pat, "an argument needs a name, not a pattern");
            };
            if pattern.ident == "_" || pattern.subpat.is_some() || pattern.by_ref.is_some() {
                return invalid(pattern, "an argument needs a name, not a pattern");
            }
            check_type(&input.ty, Position::Argument)?;
            arguments.push(Argument {
                name: pattern.ident.clone(),
                kind: kind_of(&input.ty, internal)?,
            });
        }
        let (output, error) = result_types(&signature.output, &name)?;
        let marker = format_ident!("Method_{}", name.to_string().trim_start_matches("r#"));
        let has_default = function.default.is_some();
        let is_async = function.sig.asyncness.is_some();
        if is_async {
            return_future(function);
        }
        let mut declared = function.clone();
        declared.default = None;
        declared.attrs.clear();
        declared.sig.generics.where_clause = None;
        Ok(Self {
            name,
            marker,
            arguments,
            output,
            error,
            since,
            permission,
            has_default,
            is_async,
            declared,
        })
    }

    /// Returns the names of the arguments as a list of pairs.
    fn pairs(&self) -> TokenStream {
        self.arguments.iter().rev().fold(quote!(()), |rest, argument| {
            let name = &argument.name;
            quote!((#name, #rest))
        })
    }

    fn names(&self) -> Vec<&Ident> {
        self.arguments.iter().map(|argument| &argument.name).collect()
    }

    /// Returns the type that stands for the method.
    fn types(&self, trait_name: &Ident, internal: &TokenStream, at: usize) -> TokenStream {
        let Self { name, marker, output, error, has_default, is_async, .. } = self;
        let kinds = self.arguments.iter().rev().fold(quote!(()), |rest, argument| {
            let kind = &argument.kind;
            quote_spanned!(kind.span()=> (#kind, #rest))
        });
        let text = wire_name(name);
        let argument_texts = self.arguments.iter().map(|argument| wire_name(&argument.name));
        let since = optional(self.since.as_ref());
        let permission = optional(self.permission.as_ref());
        let (pairs, names) = (self.pairs(), self.names());
        let kind = if *is_async { quote!(Async) } else { quote!(Sync) };
        let serves = if *is_async {
            quote! {
                impl<__T: #trait_name> #internal::ServesAsync<__T> for #marker {
                    fn call<'__a>(
                        target: &'__a __T,
                        #pairs: #internal::ArgumentTypes<'__a, Self>,
                    ) -> impl ::core::future::Future<
                        Output = ::core::result::Result<Self::Output, Self::Error>,
                    > + ::core::marker::Send + '__a {
                        <__T as #trait_name>::#name(target, #(#names),*)
                    }
                }
            }
        } else {
            quote! {
                impl<__T: #trait_name + ?Sized> #internal::Serves<__T> for #marker {
                    #[inline]
                    fn call(
                        target: &__T,
                        #pairs: #internal::ArgumentTypes<'_, Self>,
                    ) -> ::core::result::Result<Self::Output, Self::Error> {
                        <__T as #trait_name>::#name(target, #(#names),*)
                    }
                }
            }
        };
        quote! {
            struct #marker;

            impl #internal::Method for #marker {
                type Arguments = #kinds;
                type Output = #output;
                type Error = #error;
                const SHAPE: #internal::MethodShape = #internal::MethodShape {
                    name: #text,
                    since: #since,
                    permission: #permission,
                    has_default: #has_default,
                    kind: #internal::MethodKind::#kind,
                    names: &[#(#argument_texts),*],
                    arguments: <Self::Arguments as #internal::Arguments>::SHAPES,
                    output: <Self::Output as #internal::Data>::SHAPE,
                };
                const INDEX: usize = #at;
            }

            #serves
        }
    }

    /// Returns the method of the proxy.
    fn proxy(&self, trait_name: &Ident, internal: &TokenStream) -> TokenStream {
        let Self { name, marker, .. } = self;
        let (pairs, names, signature) = (self.pairs(), self.names(), &self.declared.sig);
        let (call, awaited) = match self.is_async {
            true => (quote!(__call_async), Some(quote!(.await))),
            false => (quote!(__call), None),
        };
        let otherwise = self.has_default.then(|| {
            let default = default_name(name);
            quote! {
                ::core::result::Result::Err(__error) if #internal::is_not_provided(&__error) => {
                    let #pairs = __arguments;
                    <#default<'_, Self> as #trait_name>::#name(&#default(self), #(#names),*) #awaited
                }
            }
        });
        let body = quote! {
                let __arguments = #pairs;
                match self.#call::<#marker>(&__arguments) #awaited {
                    ::core::result::Result::Ok(__output) => ::core::result::Result::Ok(__output),
                    #otherwise
                    ::core::result::Result::Err(__error) => {
                        ::core::result::Result::Err(::core::convert::From::from(__error))
                    }
                }
        };
        if self.is_async {
            return quote!(#signature { async move { #body } });
        }
        quote! {
            #[inline]
            #signature { #body }
        }
    }

    /// Returns a type whose implementation of the trait has the default body of this method, and
    /// passes all others on.
    fn without_default(&self, trait_name: &Ident, methods: &[Self]) -> TokenStream {
        let default = default_name(&self.name);
        let others = methods.iter().filter(|other| other.name != self.name).map(|other| {
            let (name, names, signature) = (&other.name, other.names(), &other.declared.sig);
            quote!(#signature { <__T as #trait_name>::#name(self.0, #(#names),*) })
        });
        quote! {
            struct #default<'a, __T>(&'a __T);

            impl<__T: #trait_name> #trait_name for #default<'_, __T> {
                #(#others)*
            }
        }
    }
}

/// Makes an async method one that returns a future, which any executor may run.
///
/// The trait stays dyn-compatible, so that `dyn Trait` names the contract.
fn return_future(function: &mut TraitItemFn) {
    let signature = &mut function.sig;
    signature.asyncness = None;
    if let ReturnType::Type(_, found) = &mut signature.output {
        **found = parse_quote! {
            impl ::core::future::Future<Output = #found> + ::core::marker::Send
        };
    }
    let clause = signature.generics.make_where_clause();
    clause.predicates.push(parse_quote!(Self: ::core::marker::Sized));
    if let Some(body) = &mut function.default {
        *body = parse_quote!({ async move #body });
    }
}

fn default_name(method: &Ident) -> Ident {
    format_ident!("Default_{}", method.to_string().trim_start_matches("r#"))
}

/// Returns the name of a method or an argument on the wire.
fn wire_name(name: &Ident) -> String {
    name.to_string().trim_start_matches("r#").to_owned()
}

fn optional(value: Option<impl quote::ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// Takes `#[since]` and `#[permission]` off a method.
fn take_attributes(
    function: &mut TraitItemFn,
    contract: (u32, u32),
) -> Result<(Option<LitStr>, Option<String>)> {
    let (mut since, mut permission, mut error) = (None, None, None);
    let name = function.sig.ident.to_string();
    function.attrs.retain(|attribute| {
        let outcome = if attribute.path().is_ident("since") {
            attribute.parse_args::<LitStr>().and_then(|text| {
                let added = version(&text)?;
                if added.0 != contract.0 || added > contract {
                    let (major, minor) = contract;
                    let message = format!("expected a version from {major}.0 to {major}.{minor}");
                    return Err(Error::new_spanned(&text, message));
                }
                since = (added.1 > 0).then_some(text);
                Ok(())
            })
        } else if attribute.path().is_ident("permission") {
            let operation = match attribute.meta.require_path_only() {
                Ok(_) => Ok(name.clone()),
                Err(_) => attribute.parse_args::<LitStr>().and_then(|text| {
                    let value = text.value();
                    let is_word = !value.is_empty() && !value.contains(char::is_whitespace);
                    if is_word {
                        Ok(value)
                    } else {
                        Err(Error::new_spanned(text, "expected a word"))
                    }
                }),
            };
            operation.map(|operation| permission = Some(operation))
        } else {
            return true;
        };
        if let Err(found) = outcome {
            error.get_or_insert(found);
        }
        false
    });
    match error {
        Some(error) => Err(error),
        None => Ok((since, permission)),
    }
}

/// Returns the types of `Result<T, E>`.
fn result_types(output: &ReturnType, method: &Ident) -> Result<(Type, Type)> {
    const MESSAGE: &str =
        "a method of a contract returns `Result<T, E>`, since the call itself can fail";
    let ReturnType::Type(_, found) = output else {
        return Err(Error::new_spanned(method, MESSAGE));
    };
    let arguments = match &**found {
        Type::Path(TypePath { qself: None, path, .. }) => path.segments.last(),
        _ => None,
    };
    let arguments =
        arguments.filter(|segment| segment.ident == "Result").map(|last| &last.arguments);
    let Some(PathArguments::AngleBracketed(arguments)) = arguments else {
        return Err(Error::new_spanned(found, MESSAGE));
    };
    let types: Vec<_> = arguments.args.iter().collect();
    let [GenericArgument::Type(output), GenericArgument::Type(error)] = types.as_slice() else {
        return Err(Error::new_spanned(found, MESSAGE));
    };
    check_type(output, Position::Result)?;
    check_type(error, Position::Result)?;
    Ok((output.clone(), error.clone()))
}

#[derive(Clone, Copy, PartialEq)]
enum Position {
    Argument,
    Result,
}

/// Rejects types that cannot cross, by what is written.
fn check_type(found: &Type, position: Position) -> Result<()> {
    struct Check(Position, Result<()>);

    impl Check {
        fn fail(&mut self, tokens: impl quote::ToTokens, message: &str) {
            if self.1.is_ok() {
                self.1 = Err(Error::new_spanned(tokens, message));
            }
        }
    }

    impl<'ast> Visit<'ast> for Check {
        fn visit_type(&mut self, found: &'ast Type) {
            match found {
                Type::ImplTrait(_) => self.fail(found, "`impl Trait` cannot cross a contract"),
                Type::TraitObject(_) => self.fail(found, "a trait object cannot cross a contract"),
                Type::Ptr(_) => self.fail(found, "a raw pointer cannot cross a contract"),
                Type::FnPtr(_) => self.fail(found, "a function cannot cross a contract"),
                Type::Infer(_) => self.fail(found, "a contract needs all types written out"),
                _ => visit::visit_type(self, found),
            }
        }

        fn visit_type_reference(&mut self, found: &'ast TypeReference) {
            if self.0 == Position::Result {
                self.fail(found, "a result cannot borrow; return an owned value");
            } else if found.mutability.is_some() {
                self.fail(found, "`&mut` cannot cross a contract; return the new value");
            } else if let Some(lifetime) = &found.lifetime {
                self.fail(lifetime, "a lifetime cannot cross a contract; remove it");
            }
            visit::visit_type_reference(self, found);
        }

        fn visit_path(&mut self, path: &'ast syn::Path) {
            if path.segments.first().is_some_and(|segment| segment.ident == "Self") {
                self.fail(path, "`Self` cannot cross a contract");
            }
            visit::visit_path(self, path);
        }
    }

    let mut check = Check(position, Ok(()));
    check.visit_type(found);
    check.1
}

/// Returns the kind of an argument.
fn kind_of(found: &Type, internal: &TokenStream) -> Result<TokenStream> {
    let span = found.span();
    match found {
        Type::Reference(reference) => match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => {
                Ok(quote_spanned!(span=> #internal::Str))
            }
            Type::Slice(slice) => {
                let item = &slice.elem;
                Ok(quote_spanned!(span=> #internal::Slice<#item>))
            }
            Type::Reference(inner) => {
                Err(Error::new_spanned(inner, "a reference to a reference cannot cross a contract"))
            }
            value => Ok(quote_spanned!(span=> #internal::ByRef<#value>)),
        },
        Type::Paren(inner) => kind_of(&inner.elem, internal),
        Type::Group(inner) => kind_of(&inner.elem, internal),
        _ => match option_of_reference(found) {
            Some(inner) => {
                let kind = kind_of(inner, internal)?;
                Ok(quote_spanned!(span=> #internal::Maybe<#kind>))
            }
            None => Ok(quote_spanned!(span=> #internal::ByValue<#found>)),
        },
    }
}

/// Returns `&T` of `Option<&T>`.
fn option_of_reference(found: &Type) -> Option<&Type> {
    let Type::Path(path) = found else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(inner @ Type::Reference(_)) => Some(inner),
        _ => None,
    }
}
