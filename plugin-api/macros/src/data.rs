//! `#[data]`: derives serde's traits, and implements `Data` with the shape of the type.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Error, Fields, Ident, LitStr, Meta, Result, Token,
    punctuated::Punctuated,
};

use crate::options::Options;

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = Options::parse(arguments, &["crate"])?;
    let krate = options.krate()?;
    let internal = quote!(#krate::contract::internal);
    let item: DeriveInput = syn::parse2(item)?;
    let name = &item.ident;
    if item.generics.lifetimes().next().is_some() {
        return Err(Error::new_spanned(&item.generics, "contract data cannot borrow"));
    }
    check_recursion(&item)?;
    let is_plain = is_repr_c(&item.attrs)?;
    let container = SerdeOptions::parse(&item.attrs, &["rename_all", "default"])?;
    let text = name.to_string();
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
    let plain = if is_plain { Some(plain(&item, &internal)?) } else { None };
    let serde_path = quote!(#internal::serde).to_string().replace(' ', "");
    let mut generics = item.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(syn::parse_quote!(#krate::contract::Data));
    }
    let (implementation, types, clause) = generics.split_for_impl();
    // serde's own bounds would be `T: Deserialize<'de>`, from which `T: Data` does not follow.
    let bound = item.generics.type_params().next().map(|_| {
        let bounds = item.generics.type_params().map(|parameter| {
            let parameter = &parameter.ident;
            quote!(#parameter: #krate::contract::Data).to_string()
        });
        let bounds = bounds.collect::<Vec<_>>().join(", ");
        quote!(, bound = #bounds)
    });
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

/// Returns the implementations of a plain type.
fn plain(item: &DeriveInput, internal: &TokenStream) -> Result<TokenStream> {
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
    let types = data.fields.iter().map(|field| &field.ty);
    let clone = (!derives(&item.attrs, "Clone")).then(|| {
        quote! {
            #[automatically_derived]
            impl ::core::clone::Clone for #name {
                fn clone(&self) -> Self {
                    *self
                }
            }
        }
    });
    let copy = (!derives(&item.attrs, "Copy")).then(|| {
        quote! {
            #[automatically_derived]
            impl ::core::marker::Copy for #name {}
        }
    });
    Ok(quote! {
        #clone
        #copy

        const _: fn() = || {
            fn is_plain<T: #internal::Plain>() {}
            #(is_plain::<#types>();)*
        };

        // SAFETY: the type is `repr(C)`, and all its fields are plain, as checked above.
        #[automatically_derived]
        unsafe impl #internal::Plain for #name {}
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
    let Some(found) = attributes.iter().find(|attribute| attribute.path().is_ident("repr")) else {
        return Ok(false);
    };
    let representation: Ident = found.parse_args().map_err(|_| {
        Error::new_spanned(
            found,
            "contract data is `#[repr(C)]` without other options, or has no `repr`",
        )
    })?;
    if representation == "C" {
        return Ok(true);
    }
    Err(Error::new_spanned(representation, "contract data is `#[repr(C)]`, or has no `repr`"))
}

/// Rejects a type that contains itself: its shape would be infinite.
fn check_recursion(item: &DeriveInput) -> Result<()> {
    let fields: Vec<_> = match &item.data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(_) => Vec::new(),
    };
    for field in fields {
        if let Some(found) = find(field.ty.to_token_stream(), &item.ident) {
            let message =
                "contract data cannot contain itself; use `hotbay_plugin::contract::Json`";
            return Err(Error::new_spanned(found, message));
        }
    }
    Ok(())
}

fn find(tokens: TokenStream, name: &Ident) -> Option<Ident> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(found) if found == *name || found == "Self" => Some(found),
        TokenTree::Group(group) => find(group.stream(), name),
        _ => None,
    })
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
                let ident = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
                let ident = ident.trim_start_matches("r#");
                let name = match &options.rename {
                    Some(name) => name.clone(),
                    None => container.rule.map_or(ident.to_owned(), |rule| rule.field(ident)),
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
        let ident = variant.ident.to_string();
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

fn check_wire_name(name: &str, at: &dyn ToTokens) -> Result<()> {
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
                let value: LitStr =
                    syn::parse2(option.require_name_value()?.value.to_token_stream())?;
                if name == "rename" {
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
