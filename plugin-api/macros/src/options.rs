//! The arguments of the macros.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Error, Expr, ExprLit, Lit, LitStr, MetaNameValue, Path, Result, Token};

/// The arguments of a macro, by name.
pub(crate) struct Options {
    values: Vec<(String, LitStr)>,
}

impl Options {
    /// Parses `name = "value", …`, with these names.
    pub(crate) fn parse(tokens: TokenStream, known: &[&str]) -> Result<Self> {
        let parser = Punctuated::<MetaNameValue, Token![,]>::parse_terminated;
        let mut values: Vec<(String, LitStr)> = Vec::new();
        for option in parser.parse2(tokens)? {
            let name = option.path.get_ident().map(ToString::to_string).unwrap_or_default();
            if !known.contains(&name.as_str()) {
                let known = known.join("`, `");
                let message = format!("unknown option; expected one of `{known}`");
                return Err(Error::new_spanned(&option.path, message));
            }
            let Expr::Lit(ExprLit { lit: Lit::Str(value), .. }) = &option.value else {
                return Err(Error::new_spanned(&option.value, "expected a string"));
            };
            if values.iter().any(|(known, _)| *known == name) {
                return Err(Error::new_spanned(&option.path, "duplicate option"));
            }
            values.push((name, value.clone()));
        }
        Ok(Self { values })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&LitStr> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns the path of `hotbay_plugin`.
    pub(crate) fn krate(&self) -> Result<TokenStream> {
        match self.get("crate") {
            Some(path) => path.parse::<Path>().map(|path| quote!(#path)),
            None => Ok(quote!(::hotbay_plugin)),
        }
    }
}

/// Parses `MAJOR.MINOR`.
pub(crate) fn version(text: &LitStr) -> Result<(u32, u32)> {
    let value = text.value();
    let parts = value.split_once('.');
    let parts = parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    // Without `+1.0` and `1.00`.
    let parts = parts.filter(|(major, minor): &(u32, u32)| format!("{major}.{minor}") == value);
    parts.ok_or_else(|| Error::new_spanned(text, "expected a version such as \"1.0\""))
}
