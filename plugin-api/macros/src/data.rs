//! `#[data]`: derives serde's traits, and implements `Data` with the shape of the type.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::parse_quote;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Error, Field, Fields, Generics, Ident, Lifetime,
    LitStr, Meta, Result, Token, TypePath, WherePredicate,
};

use crate::options::Options;
use crate::spans::{ends, respanned};
use crate::types::{is_byte_vector, leaves};

/// Names with another meaning in the text of contracts. A type `u32` without fields would have the same
/// text as the number, but cross in another form.
const RESERVED: [&str; 17] = [
    "bool", "char", "enum", "f32", "f64", "i16", "i32", "i64", "i8", "json", "plain", "string",
    "u16", "u32", "u64", "u8", "unit",
];

/// Expands the macro. If the type is invalid, it still exists, so that its uses are valid.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut item: DeriveInput = syn::parse2(item)?;
    expand_type(arguments, &item).or_else(|error| {
        let error = error.into_compile_error();
        // Without serde's macros, its attributes would be unknown.
        let is_other = |one: &Attribute| !one.path().is_ident("serde") && !is_conditional(one);
        all_attributes(&mut item).for_each(|found| found.retain(is_other));
        Ok(quote!(#error #item))
    })
}

/// Returns the attributes of the type, its variants and its fields.
fn all_attributes(item: &mut DeriveInput) -> impl Iterator<Item = &mut Vec<Attribute>> {
    let mut found = vec![&mut item.attrs];
    match &mut item.data {
        Data::Struct(data) => found.extend(data.fields.iter_mut().map(|field| &mut field.attrs)),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                found.push(&mut variant.attrs);
                found.extend(variant.fields.iter_mut().map(|field| &mut field.attrs));
            }
        }
        Data::Union(data) => {
            found.extend(data.fields.named.iter_mut().map(|field| &mut field.attrs));
        }
    }
    found.into_iter()
}

fn expand_type(arguments: TokenStream, item: &DeriveInput) -> Result<TokenStream> {
    let options = Options::parse(arguments, &["crate"])?;
    let krate = options.krate()?;
    let internal = quote!(#krate::contract::internal);
    let name = &item.ident;
    if let Some(lifetime) = item.generics.lifetimes().next() {
        return Err(Error::new_spanned(lifetime, "contract data cannot borrow"));
    }
    check_conditions(item)?;
    check_fields(item)?;
    let is_plain = is_repr_c(&item.attrs)?;
    let container = SerdeOptions::parse(&item.attrs, &["rename_all", "default"])?;
    let text = wire_name(name);
    check_wire_name(&text, name)?;
    if RESERVED.contains(&text.as_str()) {
        let message = format!("`{text}` has another meaning in contracts; choose another name");
        return Err(Error::new_spanned(name, message));
    }
    let shape = match &item.data {
        Data::Struct(data) => {
            let fields = fields(&data.fields, &internal, &container)?;
            quote!(#internal::Shape::Struct { name: #text, is_plain: #is_plain, fields: #fields })
        }
        Data::Enum(data) => {
            let variants = variants(data, &internal, &container)?;
            quote!(#internal::Shape::Enum { name: #text, variants: &[#(#variants),*] })
        }
        Data::Union(data) => {
            return Err(Error::new_spanned(data.union_token, "a union cannot cross a contract"));
        }
    };
    let (form, list_form) =
        if is_plain { (quote!(Copied), quote!(List)) } else { (quote!(Encoded), quote!(Encoded)) };
    let bounds = Bounds::new(item, &krate, is_plain);
    let plain = if is_plain { Some(plain(item, &internal, &bounds)?) } else { None };
    let internal_path = internal.to_string().replace(' ', "");
    let serde_path = format!("{internal_path}::serde");
    let generics = bounds.of(&item.generics);
    let (implementation, types, clause) = generics.split_for_impl();
    // serde's own bounds would be `T: Deserialize<'de>`, from which `T: Data` does not follow.
    let bound = item.generics.type_params().next().map(|_| {
        let bounds = bounds.parameters.iter().map(ToString::to_string);
        let bounds = bounds.collect::<Vec<_>>().join(", ");
        quote!(, bound = #bounds)
    });
    let item = bounds.for_serde(item, &format!("{internal_path}::bytes"));
    Ok(quote! {
        #[derive(#internal::serde::Serialize, #internal::serde::Deserialize)]
        #[serde(crate = #serde_path #bound)]
        #item

        #plain

        #[automatically_derived]
        impl #implementation #krate::contract::Data for #name #types #clause {
            const SHAPE: #internal::Shape = #shape;
            type Form = #internal::#form;
            type ListForm = #internal::#list_form;
        }
    })
}

/// The bounds of all implementations: what each field must be.
///
/// Since all have them, the compiler reports a field that cannot cross once, at the place of its
/// type.
struct Bounds {
    parameters: Vec<TokenStream>,
    /// Those of each field, in the order of [`all_fields`].
    fields: Vec<Option<FieldBounds>>,
}

/// The bounds of one field, all with the same place: serde parses them from a literal.
struct FieldBounds {
    predicates: Vec<TokenStream>,
    place: Span,
}

impl Bounds {
    fn new(item: &DeriveInput, krate: &TokenStream, is_plain: bool) -> Self {
        let data = quote!(#krate::contract::Data);
        let parameters = item.generics.type_params().map(|parameter| &parameter.ident);
        let bound = is_plain.then(|| quote!(+ #krate::contract::internal::Plain));
        let bound = quote!(#data #bound);
        let fields = all_fields(&item.data).into_iter().map(|field| {
            let types = if is_plain { vec![&field.ty] } else { leaves(&field.ty) };
            let place = ends(types.first()?).0;
            let predicates =
                types.into_iter().map(|found| respanned(quote!(#found: #bound), place));
            Some(FieldBounds { predicates: predicates.collect(), place })
        });
        let parameters = parameters.map(|name| quote!(#name: #data)).collect();
        Self { parameters, fields: fields.collect() }
    }

    /// Adds them to these generics.
    fn of(&self, generics: &Generics) -> Generics {
        let mut generics = generics.clone();
        let clause = generics.make_where_clause();
        let of_fields = self.fields.iter().flatten().flat_map(|field| &field.predicates);
        let all = self.parameters.iter().chain(of_fields);
        clause.predicates.extend(all.map(|bound| -> WherePredicate { parse_quote!(#bound) }));
        generics
    }

    /// Returns the type with the bounds in attributes for serde, and with the module that serializes
    /// byte vectors as a whole instead of byte by byte.
    fn for_serde(&self, item: &DeriveInput, bytes_module: &str) -> DeriveInput {
        let mut item = item.clone();
        let fields: Vec<&mut Field> = match &mut item.data {
            Data::Struct(data) => data.fields.iter_mut().collect(),
            Data::Enum(data) => {
                data.variants.iter_mut().flat_map(|variant| &mut variant.fields).collect()
            }
            Data::Union(_) => Vec::new(),
        };
        for (field, bounds) in fields.into_iter().zip(&self.fields) {
            if is_byte_vector(&field.ty) {
                field.attrs.push(parse_quote!(#[serde(with = #bytes_module)]));
            }
            let Some(bounds) = bounds else { continue };
            let predicates = bounds.predicates.iter().map(ToString::to_string);
            let text = predicates.collect::<Vec<_>>().join(", ");
            let text = LitStr::new(&text, bounds.place);
            field.attrs.push(parse_quote!(#[serde(bound = #text)]));
        }
        item
    }
}

/// Returns the implementations of a plain type.
fn plain(item: &DeriveInput, internal: &TokenStream, bounds: &Bounds) -> Result<TokenStream> {
    let name = &item.ident;
    let Data::Struct(data) = &item.data else {
        return Err(Error::new_spanned(name, "only a struct can be `#[repr(C)]` contract data"));
    };
    if let Some(parameter) = item.generics.params.first() {
        let message = "`#[repr(C)]` contract data cannot be generic";
        return Err(Error::new_spanned(parameter, message));
    }
    if matches!(data.fields, Fields::Unit) {
        let message = "`#[repr(C)]` contract data needs a field";
        return Err(Error::new_spanned(name, message));
    }
    let types: Vec<_> = data.fields.iter().map(|field| &field.ty).collect();
    let members: Vec<_> = data.fields.members().collect();
    let variables: Vec<_> = (0..types.len()).map(|at| format_ident!("field_{at}")).collect();
    let generics = bounds.of(&item.generics);
    let clause = &generics.where_clause;
    let clone = (!derives(&item.attrs, "Clone")).then(|| {
        quote! {
            #[automatically_derived]
            impl ::core::clone::Clone for #name #clause {
                fn clone(&self) -> Self {
                    *self
                }
            }
        }
    });
    let copy = (!derives(&item.attrs, "Copy")).then(|| {
        quote! {
            #[automatically_derived]
            impl ::core::marker::Copy for #name #clause {}
        }
    });
    Ok(quote! {
        #clone
        #copy

        const _: () = {
            // Fails if a macro after this one changes the fields.
            #[allow(dead_code, reason = "only checked")]
            fn fields(value: #name) -> (#(#types,)*) #clause {
                let #name { #(#members: #variables),* } = value;
                (#(#variables,)*)
            }
        };
        const _: () = ::core::assert!(
            #internal::is_repr_c(
                ::core::mem::size_of::<#name>(),
                ::core::mem::align_of::<#name>(),
                &[#((::core::mem::size_of::<#types>(), ::core::mem::align_of::<#types>())),*],
            ),
            "the type is not laid out as `#[repr(C)]`",
        );

        // SAFETY: the type is `repr(C)`, as checked above, and all its fields are plain: its bounds.
        #[automatically_derived]
        unsafe impl #internal::Plain for #name #clause {}
    })
}

/// Returns whether the author derives this trait.
fn derives(attributes: &[Attribute], name: &str) -> bool {
    let mut derived = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
    derived.any(|attribute| {
        let parser = Punctuated::<syn::Path, Token![,]>::parse_terminated;
        let paths = attribute.parse_args_with(parser).unwrap_or_default();
        paths.iter().any(|path| path.segments.last().is_some_and(|last| last.ident == name))
    })
}

/// Returns whether the type has `#[repr(C)]`.
fn is_repr_c(attributes: &[Attribute]) -> Result<bool> {
    const MESSAGE: &str = "contract data has no `repr`, or `#[repr(C)]` without other options";
    let mut representations = attributes.iter().filter(|it| it.path().is_ident("repr"));
    let Some(first) = representations.next() else { return Ok(false) };
    let is_c = first.parse_args::<Ident>().is_ok_and(|name| name == "C");
    match representations.next() {
        None if is_c => Ok(true),
        None => Err(Error::new_spanned(first, MESSAGE)),
        Some(second) => Err(Error::new_spanned(second, MESSAGE)),
    }
}

/// Rejects attributes that would change the type after its shape is written.
fn check_conditions(item: &DeriveInput) -> Result<()> {
    struct Check(Result<()>);

    impl<'ast> Visit<'ast> for Check {
        fn visit_attribute(&mut self, found: &'ast Attribute) {
            if is_conditional(found) && self.0.is_ok() {
                self.0 = Err(Error::new_spanned(found, "contract data cannot be conditional"));
            }
        }
    }

    let mut check = Check(Ok(()));
    // The compiler has evaluated those of the type itself.
    check.visit_data(&item.data);
    check.0
}

fn is_conditional(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr")
}

/// Rejects types of fields that borrow, or contain the type itself: its shape would be infinite.
fn check_fields(item: &DeriveInput) -> Result<()> {
    struct Check<'i>(&'i Ident, Result<()>);

    impl Check<'_> {
        fn fail(&mut self, tokens: &impl ToTokens, message: &str) {
            if self.1.is_ok() {
                self.1 = Err(Error::new_spanned(tokens, message));
            }
        }
    }

    impl<'ast> Visit<'ast> for Check<'_> {
        fn visit_lifetime(&mut self, found: &'ast Lifetime) {
            self.fail(found, "contract data cannot borrow");
        }

        fn visit_type_path(&mut self, found: &'ast TypePath) {
            let is_self = found.path.segments.first().is_some_and(|first| first.ident == "Self");
            let is_own = found.path.segments.len() == 1
                && found.path.segments.first().is_some_and(|first| first.ident == *self.0);
            if is_self || is_own {
                let message =
                    "contract data cannot contain itself; use `hotbay_plugin::contract::Json`";
                self.fail(found, message);
            }
            visit::visit_type_path(self, found);
        }
    }

    let mut check = Check(&item.ident, Ok(()));
    for field in all_fields(&item.data) {
        check.visit_type(&field.ty);
    }
    check.1
}

fn all_fields(data: &Data) -> Vec<&Field> {
    match data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(data) => data.fields.named.iter().collect(),
    }
}

fn fields(found: &Fields, internal: &TokenStream, container: &SerdeOptions) -> Result<TokenStream> {
    match found {
        Fields::Unit => Ok(quote!(#internal::Fields::Unit)),
        Fields::Unnamed(found) => {
            for field in &found.unnamed {
                SerdeOptions::parse(&field.attrs, &[])?;
            }
            let types = found.unnamed.iter().map(|field| &field.ty);
            Ok(quote!(#internal::Fields::Unnamed(&[#(<#types as #internal::Data>::SHAPE),*])))
        }
        Fields::Named(found) => {
            let mut parts = Vec::new();
            for field in &found.named {
                let options = SerdeOptions::parse(&field.attrs, &["rename", "default"])?;
                let ident = field.ident.as_ref().map(wire_name).unwrap_or_default();
                let name = match &options.rename {
                    Some(name) => name.clone(),
                    None => container.rule.map_or(ident.clone(), |rule| rule.field(&ident)),
                };
                check_wire_name(&name, field)?;
                let (found, has_default) =
                    (&field.ty, options.has_default || container.has_default);
                parts.push(quote! {
                    #internal::Field {
                        name: #name,
                        shape: <#found as #internal::Data>::SHAPE,
                        has_default: #has_default,
                    }
                });
            }
            Ok(quote!(#internal::Fields::Named(&[#(#parts),*])))
        }
    }
}

fn variants(
    data: &DataEnum,
    internal: &TokenStream,
    container: &SerdeOptions,
) -> Result<Vec<TokenStream>> {
    let variants = data.variants.iter().map(|variant| {
        let options = SerdeOptions::parse(&variant.attrs, &["rename", "rename_all"])?;
        let ident = wire_name(&variant.ident);
        let name = match &options.rename {
            Some(name) => name.clone(),
            None => container.rule.map_or(ident.clone(), |rule| rule.variant(&ident)),
        };
        check_wire_name(&name, variant)?;
        let fields = fields(&variant.fields, internal, &options)?;
        Ok(quote!(#internal::Variant { name: #name, fields: #fields }))
    });
    variants.collect()
}

/// Returns the name of a type, a method, an argument or a part on the wire.
pub(crate) fn wire_name(name: &Ident) -> String {
    name.to_string().trim_start_matches("r#").to_owned()
}

/// Rejects names that the text of contracts cannot have.
pub(crate) fn check_wire_name(name: &str, at: &dyn ToTokens) -> Result<()> {
    let is_valid = |char: char| char.is_alphanumeric() || char == '_' || char == '-';
    if !name.is_empty() && name.chars().all(is_valid) {
        return Ok(());
    }
    let message = "the name on the wire may have letters, digits, `_` and `-`";
    Err(Error::new_spanned(at, message))
}

/// The attributes of serde that the shape reflects.
#[derive(Default)]
struct SerdeOptions {
    rename: Option<String>,
    rule: Option<Rule>,
    has_default: bool,
}

impl SerdeOptions {
    fn parse(attributes: &[Attribute], allowed: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            let parser = Punctuated::<Meta, Token![,]>::parse_terminated;
            for option in attribute.parse_args_with(parser)? {
                let name = option.path().get_ident().map(ToString::to_string).unwrap_or_default();
                if !allowed.contains(&name.as_str()) {
                    let message =
                        format!("`#[serde({name})]` here is not supported in contract data");
                    return Err(Error::new_spanned(&option, message));
                }
                if name == "default" {
                    options.has_default = true;
                    continue;
                }
                let value: LitStr = match &option {
                    Meta::NameValue(pair) => syn::parse2(pair.value.to_token_stream())?,
                    _ => {
                        let message = format!("expected `{name} = \"…\"`");
                        return Err(Error::new_spanned(&option, message));
                    }
                };
                if name == "rename" {
                    check_wire_name(&value.value(), &value)?;
                    options.rename = Some(value.value());
                } else {
                    options.rule = Some(Rule::parse(&value)?);
                }
            }
        }
        Ok(options)
    }
}

/// A rule of `rename_all`.
#[derive(Clone, Copy)]
enum Rule {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Rule {
    fn parse(text: &LitStr) -> Result<Self> {
        Ok(match text.value().as_str() {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "snake_case" => Self::Snake,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return Err(Error::new_spanned(text, "unknown rule")),
        })
    }

    /// Applies the rule to a name in snake case.
    fn field(self, name: &str) -> String {
        match self {
            Self::Lower | Self::Snake => name.to_owned(),
            Self::Upper | Self::ScreamingSnake => name.to_ascii_uppercase(),
            Self::Pascal => pascal(name),
            Self::Camel => lower_first(&pascal(name)),
            Self::Kebab => name.replace('_', "-"),
            Self::ScreamingKebab => name.to_ascii_uppercase().replace('_', "-"),
        }
    }

    /// Applies the rule to a name in Pascal case.
    fn variant(self, name: &str) -> String {
        match self {
            Self::Lower => name.to_ascii_lowercase(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Pascal => name.to_owned(),
            Self::Camel => lower_first(name),
            Self::Snake => snake(name),
            Self::ScreamingSnake => snake(name).to_ascii_uppercase(),
            Self::Kebab => snake(name).replace('_', "-"),
            Self::ScreamingKebab => snake(name).to_ascii_uppercase().replace('_', "-"),
        }
    }
}

fn pascal(name: &str) -> String {
    let mut result = String::new();
    let mut is_start = true;
    for char in name.chars() {
        if char == '_' {
            is_start = true;
        } else if std::mem::take(&mut is_start) {
            result.push(char.to_ascii_uppercase());
        } else {
            result.push(char);
        }
    }
    result
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + chars.as_str())
}

fn snake(name: &str) -> String {
    let mut result = String::new();
    for (at, char) in name.char_indices() {
        if at > 0 && char.is_uppercase() {
            result.push('_');
        }
        result.push(char.to_ascii_lowercase());
    }
    result
}
