//! The macros of typed contracts: see `hotbay_plugin::contract`. They generate safe code, except for
//! the mark of plain types, and name everything by the path of `hotbay_plugin`.

mod contract;
mod data;
mod options;
mod spans;
mod types;

use proc_macro::TokenStream;

/// Turns a trait into a contract, which libraries, programs and compiled-in plugins can serve.
///
/// Takes `name = "…"` and `version = "MAJOR.MINOR"`. See the module `hotbay_plugin::contract`, which also lists what
/// may cross. On methods:
///
/// - `#[since("MAJOR.MINOR")]` names the version that added the method. Plugins built against an
///   earlier one get the default body, or the call fails with `NotProvided`.
/// - `#[permission("write")]` names an operation that the plugin needs permission for;
///   `#[permission]` alone uses the name of the method.
///
/// Within a crate that renames `hotbay-plugin`, `crate = "path"` names it.
#[proc_macro_attribute]
pub fn contract(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(contract::expand(arguments.into(), item.into()))
}

/// Makes a struct or an enum contract data: derives serde's traits and implements
/// `hotbay_plugin::contract::Data`.
///
/// A struct with `#[repr(C)]` and only numbers, `bool`, `char` and such structs as fields crosses
/// without serialization; it also derives `Clone` and `Copy`. Of serde's attributes, `rename`,
/// `rename_all` and `default` are allowed.
#[proc_macro_attribute]
pub fn data(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(data::expand(arguments.into(), item.into()))
}

fn expand(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(|error| error.into_compile_error()).into()
}
