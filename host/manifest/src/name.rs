//! Names of plugins, and the known name that a misspelled one means.

use std::fmt;
use std::sync::Arc;

/// The name of a plugin in a host: `[a-z][a-z0-9-]{0,63}`.
///
/// Cheap to clone; compares as text.
///
/// ```
/// use hotbay::PluginName;
///
/// assert_eq!(PluginName::new("json-query")?.as_str(), "json-query");
/// assert!(PluginName::new("Json Query").is_err());
/// # Ok::<(), hotbay::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(Arc<str>);

/// Maximum length of a [`PluginName`].
const MAX_NAME_CHARS: usize = 64;

impl PluginName {
    /// Validates a name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is empty, too long, starts with anything but `a-z`, or contains
    /// anything but `a-z`, `0-9` and `-`.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let starts_valid = name.starts_with(|c: char| c.is_ascii_lowercase());
        let is_valid = name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
        if starts_valid && is_valid && name.len() <= MAX_NAME_CHARS {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName(name.chars().take(MAX_NAME_CHARS + 1).collect()))
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for PluginName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for PluginName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for PluginName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The error of a text that is not a valid [`PluginName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName(String);

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a valid plugin name; expected a lower-case letter, then at most 63 of `a-z`, \
             `0-9` and `-`",
            self.0
        )
    }
}

impl std::error::Error for InvalidName {}

/// Maximum length of a word that is compared with known ones; the comparison is quadratic.
const MAX_COMPARED_BYTES: usize = 64;

/// Returns the known word that `word` probably means, for a hint such as "did you mean `x`?".
///
/// Case does not count, and `_` counts as `-`. Up to a quarter of the letters may differ.
///
/// ```
/// # use hotbay_manifest::nearest;
/// assert_eq!(nearest("Transfrm", ["filter", "transform"]), Some("transform"));
/// assert_eq!(nearest("counter", ["filter", "transform"]), None);
/// ```
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let normalized = |text: &str| text.to_lowercase().replace('_', "-");
    let word = normalized(word);
    let compared = |name| {
        let known = normalized(name);
        (strsim::osa_distance(&word, &known), strsim::jaro_winkler(&word, &known), name)
    };
    // Among names at the same distance, the most similar one.
    let (distance, _, name) = known.into_iter().map(compared).min_by(|one, other| {
        let by_distance = one.0.cmp(&other.0).then_with(|| other.1.total_cmp(&one.1));
        by_distance.then_with(|| one.2.cmp(other.2))
    })?;
    (distance <= name.len().div_ceil(4)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::MANIFEST;

    #[test]
    fn only_similar_word_is_suggested() {
        let check = |word: &str, expect: Option<&str>| {
            let known = MANIFEST.iter().map(|field| field.name);
            assert_eq!(nearest(word, known), expect, "{word}");
        };
        check("verison", Some("version"));
        check("Version", Some("version"));
        check("config-schema", Some("config_schema"));
        check("permission", Some("permissions"));
        assert_eq!(nearest("requird", ["require", "required"]), Some("required"));
        assert_eq!(nearest("requir", ["required", "require"]), Some("require"));
        check("api_version", None);
        check("color", None);
        check("", None);
        check(&"n".repeat(1 << 20), None);
    }
}
