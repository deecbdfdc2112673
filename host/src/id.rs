//! Names and numbers that tell plugins, generations and calls apart.
//! Nothing here knows what stands behind them.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

/// The name of a plugin in a host: `[a-z][a-z0-9-]{0,63}`.
///
/// Cheap to clone; compares as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(Arc<str>);

/// Most characters of a [`PluginName`].
const MAX_NAME_CHARS: usize = 64;

impl PluginName {
    /// Checks `name` against the rule for names.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] when it is empty, too long, starts with anything but `a-z`, or holds
    /// anything but `a-z`, `0-9` and `-`.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        let rest = name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
        if starts && rest && name.len() <= MAX_NAME_CHARS {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName(name.chars().take(MAX_NAME_CHARS + 1).collect()))
        }
    }

    /// The name as text.
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

/// A text that cannot be a [`PluginName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName(String);

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no plugin name; wanted a lower-case letter, then at most 63 of `a-z`, `0-9`, `-`",
            self.0
        )
    }
}

impl std::error::Error for InvalidName {}

/// The number of one load of one plugin, counted from 1 in each plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationId(NonZeroU64);

impl GenerationId {
    /// The first one. Not zero, so that a result of a reply is no larger than a reply.
    pub(crate) const FIRST: Self = Self(NonZeroU64::MIN);

    /// The one after so many others.
    pub(crate) const fn after(others: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(others))
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
