//! The rules for single values of a manifest, shared by its reader and its builder.
//! A broken rule answers with what was wanted; places and paths are the caller's.

use std::str::FromStr;

use semver::Version;

use super::Limits;
use super::fields::{self, LIMITS, Shape};
use crate::id::PluginName;

/// Completes the sentence "wanted …"; `None` when the field's own wording says it all.
pub(crate) type Wanted = Option<String>;

/// Most characters of a package's name.
const PACKAGE_CHARS_MAX: usize = 64;

/// Anything that reads itself: requirements, digests, words.
pub(crate) fn parsed<T: FromStr>(text: &str) -> Result<T, Wanted> {
    text.parse().map_err(|_| None)
}

pub(crate) fn name(text: &str) -> Result<PluginName, Wanted> {
    PluginName::new(text).map_err(|_| None)
}

pub(crate) fn package(text: &str) -> Result<String, Wanted> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let good = (1..=PACKAGE_CHARS_MAX).contains(&text.len()) && text.chars().all(known);
    good.then(|| text.to_owned()).ok_or(None)
}

/// A full version; one that only lacks its end is told what it probably should be.
pub(crate) fn version(text: &str) -> Result<Version, Wanted> {
    Version::parse(text).map_err(|_| {
        let complete = [".0", ".0.0"].map(|end| format!("{}{end}", text.trim_start_matches('v')));
        let complete = complete.iter().find(|text| Version::parse(text).is_ok());
        complete.map(|text| format!("MAJOR.MINOR.PATCH, for example `{text}`"))
    })
}

/// The stem that a package's library has by default.
pub(crate) fn default_stem(package: &str) -> String {
    package.replace('-', "_")
}

/// A bare stem. `lib` in front is refused, as it would be doubled, unless the package has it.
pub(crate) fn stem(text: &str, package: &str) -> Result<String, Wanted> {
    let suffixes = [".so", ".dylib", ".dll"];
    let ending = suffixes.into_iter().find_map(|suffix| text.strip_suffix(suffix));
    let bare = ending.unwrap_or(text);
    let bare = match bare.strip_prefix("lib") {
        Some(rest) if !rest.is_empty() && bare != default_stem(package) => rest,
        _ => bare,
    };
    let strange = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    if bare.is_empty() || bare.contains(strange) || bare.contains("..") {
        return Err(None);
    }
    if bare != text {
        return Err(Some(format!("the bare stem `{bare}`; prefix and suffix are the platform's")));
    }
    Ok(text.to_owned())
}

/// A file that stays inside the plugin's folder on every platform.
pub(crate) fn inside_folder(text: &str) -> Result<String, Wanted> {
    let absolute = text.starts_with(['/', '\\']) || text.contains(':');
    let climbs = text.split(['/', '\\']).any(|part| part == "..");
    let good = !text.is_empty() && !absolute && !climbs && !text.chars().any(char::is_control);
    good.then(|| text.to_owned()).ok_or(None)
}

/// An argument that every system can pass.
pub(crate) fn argument(text: &str) -> Result<String, Wanted> {
    // Linux takes 128 KiB for one, with the zero at its end.
    const BYTES_MAX: usize = (128 << 10) - 1;
    if text.contains('\0') {
        return Err(Some("a text without NUL, which no system passes as an argument".to_owned()));
    }
    if text.len() > BYTES_MAX {
        return Err(Some(format!("a text of at most {BYTES_MAX} bytes, as arguments may have")));
    }
    Ok(text.to_owned())
}

pub(crate) fn contract(text: &str) -> Result<String, Wanted> {
    (!text.trim().is_empty()).then(|| text.to_owned()).ok_or(None)
}

/// `call:` needs a plugin's name; other words are the application's own.
pub(crate) fn permission(text: &str) -> Result<String, Wanted> {
    let good = match text.split_once(':') {
        Some(("call", name)) => PluginName::new(name).is_ok(),
        _ if text == "call" => false,
        _ => {
            let known = |c| matches!(c, 'a'..='z' | '0'..='9' | ':' | '.' | '_' | '-');
            text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(known)
        }
    };
    good.then(|| text.to_owned()).ok_or(None)
}

/// A number within the bounds that the table gives `shape`.
pub(crate) fn within(number: u64, shape: &Shape) -> Result<u64, Wanted> {
    match *shape {
        Shape::Number { min, .. } if number < min => {
            Err(Some(format!("at least {min}; leave it out for the host's own limit")))
        }
        Shape::Number { max, .. } if number > max => Err(Some(format!("at most {max}"))),
        _ => Ok(number),
    }
}

/// The first limit that is out of its bounds: its name, the number, and what was wanted.
pub(crate) fn limits(limits: &Limits) -> Result<(), (&'static str, u64, Wanted)> {
    for (name, number) in limits.entries() {
        let (Some(number), Some(field)) = (number, fields::find(LIMITS, name)) else {
            continue;
        };
        within(number, &field.shape).map_err(|wanted| (name, number, wanted))?;
    }
    Ok(())
}
