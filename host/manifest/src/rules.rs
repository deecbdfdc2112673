//! The rules for single values of a manifest, shared by its parser and its builder. An invalid
//! value returns what was expected; the caller adds the position.

use std::str::FromStr;

use semver::Version;

use super::Limits;
use super::fields::{self, LIMITS, Shape};
use crate::name::PluginName;

/// Completes the sentence "expected …"; `None` if the field's own wording is sufficient.
pub(crate) type Expected = Option<String>;

/// Maximum number of characters of a package's name.
const MAX_PACKAGE_CHARS: usize = 64;

/// Parses any type that implements `FromStr`.
pub(crate) fn parsed<T: FromStr>(text: &str) -> Result<T, Expected> {
    text.parse().map_err(|_| None)
}

pub(crate) fn name(text: &str) -> Result<PluginName, Expected> {
    PluginName::new(text).map_err(|_| None)
}

pub(crate) fn package(text: &str) -> Result<String, Expected> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let is_valid = (1..=MAX_PACKAGE_CHARS).contains(&text.len()) && text.chars().all(is_allowed);
    is_valid.then(|| text.to_owned()).ok_or(None)
}

/// Parses a full version. Suggests a complete one if only the end is missing.
pub(crate) fn version(text: &str) -> Result<Version, Expected> {
    Version::parse(text).map_err(|_| {
        let complete = [".0", ".0.0"].map(|end| format!("{}{end}", text.trim_start_matches('v')));
        let complete = complete.iter().find(|text| Version::parse(text).is_ok());
        complete.map(|text| format!("MAJOR.MINOR.PATCH, for example `{text}`"))
    })
}

/// Returns the default stem of a package's library.
pub(crate) fn default_stem(package: &str) -> String {
    package.replace('-', "_")
}

/// Checks a bare stem. Rejects the prefix `lib`, which would be doubled, unless the package has it.
pub(crate) fn stem(text: &str, package: &str) -> Result<String, Expected> {
    let suffixes = [".so", ".dylib", ".dll"];
    let without_suffix = suffixes.into_iter().find_map(|suffix| text.strip_suffix(suffix));
    let bare = without_suffix.unwrap_or(text);
    let bare = match bare.strip_prefix("lib") {
        Some(rest) if !rest.is_empty() && bare != default_stem(package) => rest,
        _ => bare,
    };
    let is_invalid = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    if bare.is_empty() || bare.contains(is_invalid) || bare.contains("..") {
        return Err(None);
    }
    if bare != text {
        return Err(Some(format!("the bare stem `{bare}`, without platform prefix and suffix")));
    }
    Ok(text.to_owned())
}

/// Checks that a path stays inside the plugin's folder on every platform.
pub(crate) fn inside_folder(text: &str) -> Result<String, Expected> {
    let absolute = text.starts_with(['/', '\\']) || text.contains(':');
    let has_parent = text.split(['/', '\\']).any(|part| part == "..");
    let is_valid =
        !text.is_empty() && !absolute && !has_parent && !text.chars().any(char::is_control);
    is_valid.then(|| text.to_owned()).ok_or(None)
}

/// Checks an argument that every system can pass.
pub(crate) fn argument(text: &str) -> Result<String, Expected> {
    // Linux accepts 128 KiB, including the final NUL.
    const MAX_BYTES: usize = (128 << 10) - 1;
    if text.contains('\0') {
        return Err(Some("a string without NUL".to_owned()));
    }
    if text.len() > MAX_BYTES {
        return Err(Some(format!("a string of at most {MAX_BYTES} bytes")));
    }
    Ok(text.to_owned())
}

pub(crate) fn not_blank(text: &str) -> Result<String, Expected> {
    (!text.trim().is_empty()).then(|| text.to_owned()).ok_or(None)
}

/// Checks the path of an endpoint.
pub(crate) fn endpoint(text: &str) -> Result<String, Expected> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._~:@%+-".contains(c);
    let is_valid = text.split('/').all(|part| !part.is_empty() && part.chars().all(is_allowed));
    is_valid.then(|| text.to_owned()).ok_or(None)
}

/// Checks a permission: `call:` needs a plugin's name; the application may define others.
pub(crate) fn permission(text: &str) -> Result<String, Expected> {
    let is_valid = match text.split_once(':') {
        Some(("call", name)) => PluginName::new(name).is_ok(),
        _ if text == "call" => false,
        _ => {
            let is_allowed = |c| matches!(c, 'a'..='z' | '0'..='9' | ':' | '.' | '_' | '-');
            text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_allowed)
        }
    };
    is_valid.then(|| text.to_owned()).ok_or(None)
}

/// Checks that a number is within the bounds of `shape`.
pub(crate) fn check_bounds(number: u64, shape: &Shape) -> Result<u64, Expected> {
    match *shape {
        Shape::Number { min, .. } if number < min => Err(Some(format!("at least {min}"))),
        Shape::Number { max, .. } if number > max => Err(Some(format!("at most {max}"))),
        _ => Ok(number),
    }
}

/// Returns the first limit out of bounds: its name, the number, and the expected bound.
pub(crate) fn limits(limits: &Limits) -> Result<(), (&'static str, u64, Expected)> {
    for (name, number) in limits.entries() {
        let (Some(number), Some(field)) = (number, fields::find(LIMITS, name)) else {
            continue;
        };
        check_bounds(number, &field.shape).map_err(|expected| (name, number, expected))?;
    }
    Ok(())
}
