//! Types as they are written: those of std that consist of data.

use quote::ToTokens as _;
use syn::{GenericArgument, PathArguments, Type};

/// The generic types of std that are data if their parts are.
const GENERIC: [&str; 6] = ["BTreeMap", "BTreeSet", "HashMap", "HashSet", "Option", "Vec"];

/// Types that are always data, unless the author has other types of these names.
const DATA: [&str; 13] =
    ["bool", "char", "f32", "f64", "i16", "i32", "i64", "i8", "String", "u16", "u32", "u64", "u8"];

/// Returns the types that a type consists of, as far as it is written: `T` of `Vec<T>`, and nothing
/// of `Vec<u8>`.
///
/// If these are data, so is the type.
pub(crate) fn leaves(found: &Type) -> Vec<&Type> {
    match found {
        Type::Paren(inner) => leaves(&inner.elem),
        Type::Group(inner) => leaves(&inner.elem),
        Type::Tuple(parts) if !parts.elems.is_empty() => {
            parts.elems.iter().flat_map(leaves).collect()
        }
        Type::Path(path) if DATA.iter().any(|name| path.path.is_ident(name)) => Vec::new(),
        Type::Path(path) if path.qself.is_none() => {
            let last = path.path.segments.last();
            let last = last.filter(|last| GENERIC.iter().any(|name| last.ident == name));
            let Some(PathArguments::AngleBracketed(arguments)) = last.map(|last| &last.arguments)
            else {
                return vec![found];
            };
            let parts = arguments.args.iter().filter_map(|argument| match argument {
                GenericArgument::Type(part) => Some(part),
                _ => None,
            });
            parts.flat_map(leaves).collect()
        }
        _ => vec![found],
    }
}

/// Returns whether a type is written as `Vec<u8>`.
pub(crate) fn is_byte_vector(found: &Type) -> bool {
    match found {
        Type::Paren(inner) => is_byte_vector(&inner.elem),
        Type::Group(inner) => is_byte_vector(&inner.elem),
        found => found.to_token_stream().to_string().replace(' ', "") == "Vec<u8>",
    }
}
