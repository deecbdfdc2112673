//! Names of plugins.

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
