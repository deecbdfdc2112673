//! `#[contract]`: checks the trait, and generates its methods as types, its description, its table
//! and its proxy.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::parse_quote;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Error, FnArg, GenericArgument, Ident, ItemTrait, Lifetime, LitStr, Pat,
    PathArguments, ReceiverKind, Result, ReturnType, Safety, TraitItem, TraitItemFn, Type,
    TypeParamBound, TypePath, TypeReference,
};

use crate::data::{check_wire_name, wire_name};
use crate::options::{Options, version};
use crate::spans::{ends, respanned};
use crate::types::leaves;

/// Maximum number of arguments of a method.
const MAX_ARGUMENTS: usize = 12;

/// Names of methods that every proxy has, which a contract cannot have.
const RESERVED: [&str; 14] = [
    "accepting",
    "clone",
    "idempotent",
    "into",
    "on_failure",
    "pin",
    "pooled",
    "to_owned",
    "transport",
    "try_into",
    "with_cancellation_token",
    "with_deadline",
    "with_timeout",
    "with_trace",
];

/// A method of the contract.
struct Method {
    name: Ident,
    /// The type that stands for it.
    marker: Ident,
    arguments: Vec<Argument>,
    /// Its result, or an item of the stream that it returns.
    output: Type,
    error: Type,
    since: Option<LitStr>,
    permission: Option<String>,
    has_default: bool,
    kind: Kind,
    /// The method as declared, without a body and the macro's attributes.
    declared: TraitItemFn,
}

/// How a method answers.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Sync,
    Async,
    Stream,
}

impl Kind {
    /// Returns the functions that create the entries of a table and of a program.
    fn functions(self, internal: &TokenStream) -> (TokenStream, TokenStream) {
        match self {
            Self::Sync => (quote!(#internal::entry), quote!(#internal::served)),
            Self::Async => (quote!(#internal::entry_async), quote!(#internal::served_async)),
            Self::Stream => (quote!(#internal::entry_stream), quote!(#internal::served_stream)),
        }
    }
}

struct Argument {
    name: Ident,
    /// Its kind, a type of `argument.rs`.
    kind: TokenStream,
    /// Its type without references, which is data.
    data: Type,
}

/// Expands the macro. If the trait is invalid, it still exists, so that its uses are valid.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut item: ItemTrait = syn::parse2(item)?;
    expand_trait(arguments, &mut item).or_else(|error| {
        let error = error.into_compile_error();
        Ok(quote! {
            #error

            #[allow(async_fn_in_trait, reason = "not expanded")]
            #item
        })
    })
}

fn expand_trait(arguments: TokenStream, item: &mut ItemTrait) -> Result<TokenStream> {
    // The attributes of all methods are removed, whatever is invalid.
    let attributes: Vec<_> = item.items.iter_mut().map(take_attributes).collect();
    let options = Options::parse(arguments, &["name", "version", "crate"])?;
    let missing =
        |what| Error::new_spanned(&item.ident, format!("expected `{what}` in `#[contract(…)]`"));
    let name = options.get("name").ok_or_else(|| missing("name = \"…\""))?.clone();
    let own_version = options.get("version").ok_or_else(|| missing("version = \"1.0\""))?.clone();
    check_name(&name)?;
    let versions = version(&own_version)?;
    let krate = options.krate()?;
    check_trait(item)?;
    // Called on many threads; and the futures of default bodies borrow the value.
    item.supertraits.push(parse_quote!(::core::marker::Send));
    item.supertraits.push(parse_quote!(::core::marker::Sync));
    let internal = quote!(#krate::contract::internal);
    let mut errors: Option<Error> = None;
    let mut methods = Vec::new();
    for (member, attributes) in item.items.iter_mut().zip(&attributes) {
        match Method::parse(member, attributes, versions, &internal) {
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
    for method in &mut methods {
        method.declare(item);
    }
    let trait_name = &item.ident;
    let types =
        methods.iter().enumerate().map(|(at, method)| method.types(trait_name, &internal, at));
    let proxy_methods = methods.iter().map(|method| method.proxy(trait_name, &internal));
    let defaults = methods
        .iter()
        .filter(|method| method.has_default)
        .map(|method| method.without_default(trait_name, &methods));
    let (entries, served): (Vec<_>, Vec<_>) =
        methods.iter().map(|method| method.kind.functions(&internal)).unzip();
    let markers: Vec<_> = methods.iter().map(|method| &method.marker).collect();
    let predicates: Vec<_> =
        methods.iter().flat_map(|method| method.predicates(&internal)).collect();
    Ok(quote! {
        #item

        #[allow(
            deprecated, missing_debug_implementations, non_camel_case_types, unused_qualifications,
            clippy::all, clippy::pedantic, clippy::nursery, reason = "generated"
        )]
        const _: () = {
            #(#types)*
            #(#defaults)*

            impl #krate::contract::Contract for dyn #trait_name
            where
                #(#predicates,)*
            {
                const DESCRIPTION: &'static #internal::Description = &#internal::Description {
                    name: #name,
                    version: #own_version,
                    methods: &[#(<#markers as #internal::Method>::SHAPE),*],
                };
            }

            impl<__T: #trait_name + 'static, const LINKED: bool> #internal::ServedBy<__T, LINKED>
                for dyn #trait_name
            where
                #(#predicates,)*
            {
                const METHODS: &'static [#internal::RawMethod] =
                    &[#(#entries::<__T, #markers, LINKED>()),*];
                const SERVED: &'static [#internal::ServedMethod<__T>] =
                    &[#(#served::<__T, #markers>()),*];
            }

            impl<__T: #krate::contract::Transport> #trait_name
                for #krate::contract::Proxy<dyn #trait_name, __T>
            where
                #(#predicates,)*
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
    if let Some(clause) = &item.generics.where_clause {
        return Err(Error::new_spanned(clause, "a contract cannot have a `where` clause"));
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
    /// Checks a member of the trait. What the compiler would also reject is removed from it.
    fn parse(
        member: &mut TraitItem,
        attributes: &[Attribute],
        contract: (u32, u32),
        internal: &TokenStream,
    ) -> Result<Self> {
        let TraitItem::Fn(function) = member else {
            return Err(Error::new_spanned(member, "a contract can only have methods"));
        };
        let invalid = |span: &dyn ToTokens, message: &str| Err(Error::new_spanned(span, message));
        if let Some(token) = function.sig.constness.take() {
            return invalid(&token, "a method of a contract cannot be `const`");
        }
        if function.default.is_none() {
            for input in &mut function.sig.inputs {
                let FnArg::Typed(input) = input else { continue };
                let is_name = matches!(&*input.pat, Pat::Ident(pattern)
                    if pattern.by_ref.is_none() && pattern.subpat.is_none() && pattern.mutability.is_none());
                if !is_name {
                    let pattern = std::mem::replace(&mut *input.pat, parse_quote!(_));
                    return invalid(&pattern, "an argument needs a name, not a pattern");
                }
            }
        }
        let (since, permission) = parse_attributes(&function.sig.ident, attributes, contract)?;
        let signature = &function.sig;
        let name = signature.ident.clone();
        check_wire_name(&wire_name(&name), &name)?;
        if RESERVED.contains(&name.to_string().as_str()) {
            return invalid(&name, "every proxy has a method of this name; choose another one");
        }
        let mut conditions = function.attrs.iter();
        if let Some(condition) = conditions.find(|attribute| {
            attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr")
        }) {
            return invalid(condition, "a method of a contract cannot be conditional");
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
            if pattern.subpat.is_some() || pattern.by_ref.is_some() {
                return invalid(pattern, "an argument needs a name, not a pattern");
            }
            check_type(&input.ty, Position::Argument)?;
            let (kind, data) = kind_of(&input.ty, internal)?;
            check_wire_name(&wire_name(&pattern.ident), &pattern.ident)?;
            arguments.push(Argument { name: pattern.ident.clone(), kind, data });
        }
        let (output, error) = result_types(&signature.output, &name)?;
        let (kind, output) = match (item_of_stream(&output), signature.asyncness) {
            (None, None) => (Kind::Sync, output),
            (None, Some(_)) => (Kind::Async, output),
            (Some(item), None) => (Kind::Stream, item.clone()),
            (Some(_), Some(token)) => {
                return invalid(&token, "a method that returns a stream cannot be `async`");
            }
        };
        check_type(&output, Position::Result)?;
        check_type(&error, Position::Result)?;
        let marker = format_ident!("Method_{}", name.to_string().trim_start_matches("r#"));
        let has_default = function.default.is_some();
        let declared = function.clone();
        Ok(Self {
            name,
            marker,
            arguments,
            output,
            error,
            since,
            permission,
            has_default,
            kind,
            declared,
        })
    }

    /// Makes the method of the trait return a future if it is async. Sets the declaration for
    /// implementations.
    fn declare(&mut self, item: &mut ItemTrait) {
        let functions = item.items.iter_mut().filter_map(|member| match member {
            TraitItem::Fn(function) if function.sig.ident == self.name => Some(function),
            _ => None,
        });
        for function in functions {
            if self.kind == Kind::Async {
                return_future(function);
            }
            self.declared = function.clone();
        }
        self.declared.default = None;
        self.declared.attrs.clear();
        self.declared.sig.generics.where_clause = None;
        for input in &mut self.declared.sig.inputs {
            if let FnArg::Typed(input) = input
                && let Pat::Ident(pattern) = &mut *input.pat
            {
                pattern.mutability = None;
            }
        }
    }

    /// Returns predicates that its types can cross.
    ///
    /// All implementations have them, so that the compiler reports a type that cannot cross once, at
    /// its place in the trait.
    fn predicates(&self, internal: &TokenStream) -> Vec<TokenStream> {
        let predicate = |of: &Type, name: &str| {
            let name = format_ident!("{name}");
            let bound = respanned(quote!(: #internal::#name), ends(of).1);
            quote!(#of #bound)
        };
        let data = self.arguments.iter().map(|argument| &argument.data).chain([&self.output]);
        let predicates = data.flat_map(leaves).map(|data| predicate(data, "Data"));
        predicates.chain([predicate(&self.error, "MethodError")]).collect()
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
        let Self { name, marker, output, error, has_default, .. } = self;
        let kinds = self.arguments.iter().rev().fold(quote!(()), |rest, argument| {
            let kind = &argument.kind;
            quote!((#kind, #rest))
        });
        let predicates = self.predicates(internal);
        let text = wire_name(name);
        let argument_texts = self.arguments.iter().map(|argument| wire_name(&argument.name));
        let since = optional(self.since.as_ref());
        let permission = optional(self.permission.as_ref());
        let (pairs, names) = (self.pairs(), self.names());
        let (kind, serves) = match self.kind {
            Kind::Async => (
                quote!(Async),
                quote! {
                    impl<__T: #trait_name> #internal::ServesAsync<__T> for #marker
                    where
                        #(#predicates,)*
                    {
                        fn call<'__a>(
                            target: &'__a __T,
                            #pairs: #internal::ArgumentTypes<'__a, Self>,
                        ) -> impl ::core::future::Future<
                            Output = ::core::result::Result<Self::Output, Self::Error>,
                        > + ::core::marker::Send + '__a {
                            <__T as #trait_name>::#name(target, #(#names),*)
                        }
                    }
                },
            ),
            Kind::Stream => (
                quote!(Stream),
                quote! {
                    impl<__T: #trait_name + ?Sized> #internal::ServesStream<__T> for #marker
                    where
                        #(#predicates,)*
                    {
                        fn call(
                            target: &__T,
                            #pairs: #internal::ArgumentTypes<'_, Self>,
                        ) -> ::core::result::Result<#internal::Stream<Self::Output>, Self::Error> {
                            <__T as #trait_name>::#name(target, #(#names),*)
                        }
                    }
                },
            ),
            Kind::Sync => (
                quote!(Sync),
                quote! {
                    impl<__T: #trait_name + ?Sized> #internal::Serves<__T> for #marker
                    where
                        #(#predicates,)*
                    {
                        #[inline]
                        fn call(
                            target: &__T,
                            #pairs: #internal::ArgumentTypes<'_, Self>,
                        ) -> ::core::result::Result<Self::Output, Self::Error> {
                            <__T as #trait_name>::#name(target, #(#names),*)
                        }
                    }
                },
            ),
        };
        quote! {
            struct #marker;

            impl #internal::Method for #marker
            where
                #(#predicates,)*
            {
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
        let (call, awaited) = match self.kind {
            Kind::Sync => (quote!(__call), None),
            Kind::Async => (quote!(__call_async), Some(quote!(.await))),
            Kind::Stream => (quote!(__call_stream), None),
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
                        ::core::result::Result::Err(#internal::MethodError::of_call(__error))
                    }
                }
        };
        if self.kind == Kind::Async {
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

fn optional(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// Takes `#[since]` and `#[permission]` off a method.
fn take_attributes(member: &mut TraitItem) -> Vec<Attribute> {
    let TraitItem::Fn(function) = member else { return Vec::new() };
    let is_own = |attribute: &mut Attribute| {
        attribute.path().is_ident("since") || attribute.path().is_ident("permission")
    };
    function.attrs.extract_if(.., is_own).collect()
}

/// Returns the version of `#[since]`, if it is not the first, and the operation of `#[permission]`.
fn parse_attributes(
    method: &Ident,
    attributes: &[Attribute],
    contract: (u32, u32),
) -> Result<(Option<LitStr>, Option<String>)> {
    let (mut since, mut permission) = (None, None);
    for attribute in attributes {
        let is_since = attribute.path().is_ident("since");
        if (is_since && since.is_some()) || (!is_since && permission.is_some()) {
            return Err(Error::new_spanned(attribute, "the method already has this attribute"));
        }
        if is_since {
            let text: LitStr = attribute.parse_args()?;
            let added = version(&text)?;
            if added.0 != contract.0 || added > contract {
                let (major, minor) = contract;
                let mut message = format!("expected a version from {major}.0 to {major}.{minor}");
                if added.0 < contract.0 {
                    message.push_str(
                        "; remove `#[since]`: all methods of a new major version are in it",
                    );
                }
                return Err(Error::new_spanned(&text, message));
            }
            since = Some(text);
        } else if attribute.meta.require_path_only().is_ok() {
            permission = Some(wire_name(method));
        } else {
            let text: LitStr = attribute.parse_args()?;
            let value = text.value();
            let is_part = |char: char| !char.is_whitespace() && !char.is_control();
            if value.is_empty() || !value.chars().all(is_part) {
                return Err(Error::new_spanned(text, "expected a word"));
            }
            permission = Some(value);
        }
    }
    let is_first = |text: &LitStr| version(text).is_ok_and(|(_, minor)| minor == 0);
    Ok((since.filter(|text| !is_first(text)), permission))
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
    Ok((output.clone(), error.clone()))
}

/// Returns `T` of `Stream<T>`.
fn item_of_stream(found: &Type) -> Option<&Type> {
    let Type::Path(TypePath { qself: None, path, .. }) = found else { return None };
    item_of_stream_path(path)
}

fn item_of_stream_path(path: &syn::Path) -> Option<&Type> {
    let last = path.segments.last().filter(|last| last.ident == "Stream")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(item) => Some(item),
        _ => None,
    })
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
        fn fail(&mut self, tokens: impl ToTokens, message: &str) {
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

        fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
            self.fail(lifetime, "a lifetime cannot cross a contract");
        }

        fn visit_path(&mut self, path: &'ast syn::Path) {
            if path.segments.first().is_some_and(|segment| segment.ident == "Self") {
                self.fail(path, "`Self` cannot cross a contract");
            }
            if item_of_stream_path(path).is_some() {
                let message = match self.0 {
                    Position::Argument => "a stream cannot be an argument",
                    Position::Result => "a stream is the whole result: `Result<Stream<T>, E>`",
                };
                self.fail(path, message);
            }
            visit::visit_path(self, path);
        }
    }

    let mut check = Check(position, Ok(()));
    check.visit_type(found);
    check.1
}

/// Returns the kind of an argument, and its type without references.
fn kind_of(found: &Type, internal: &TokenStream) -> Result<(TokenStream, Type)> {
    // Errors about the kind are those about the type.
    let (first, last) = ends(found);
    let at = |span: Span, name: &str| {
        let name = Ident::new(name, span);
        respanned(quote!(#internal::#name), span)
    };
    let generic = |name: &str, of: &dyn ToTokens| {
        let (path, open) = (at(first, name), respanned(quote!(<), first));
        let close = respanned(quote!(>), last);
        quote!(#path #open #of #close)
    };
    match found {
        Type::Reference(reference) => match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => {
                Ok((at(first, "Str"), parse_quote!(::std::string::String)))
            }
            Type::Slice(slice) => Ok((generic("Slice", &slice.elem), (*slice.elem).clone())),
            Type::Reference(inner) => {
                Err(Error::new_spanned(inner, "a reference to a reference cannot cross a contract"))
            }
            value => Ok((generic("ByRef", value), value.clone())),
        },
        Type::Paren(inner) => kind_of(&inner.elem, internal),
        Type::Group(inner) => kind_of(&inner.elem, internal),
        _ => match option_of_reference(found) {
            Some(inner) => {
                let (kind, data) = kind_of(inner, internal)?;
                Ok((generic("Maybe", &kind), data))
            }
            None => Ok((generic("ByValue", found), found.clone())),
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
