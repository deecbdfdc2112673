//! Numbers of generations, names of plugins, and ids as hexadecimal text.

use std::fmt;
use std::num::NonZeroU64;

pub use hotbay_manifest::{InvalidName, PluginName};

/// The number of one load of a plugin, counted from 1 for each plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct GenerationId(NonZeroU64);

impl GenerationId {
    /// The first generation. Not zero, so that a result of a reply is not larger than a reply.
    pub(crate) const FIRST: Self = Self(NonZeroU64::MIN);

    /// Returns the generation after `others` generations.
    pub(crate) const fn after(others: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(others))
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Formats bytes as two lower-case hexadecimal digits each.
pub(crate) struct Hex<'b>(pub(crate) &'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
