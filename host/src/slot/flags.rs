//! Conditions that calls of a plugin must check, in one word: nearly always zero. Each bit has one
//! writer; readers rely on nothing else when they see it.

use std::sync::atomic::{AtomicU8, Ordering};

/// A set of [`SlotFlag`]s.
#[derive(Debug, Default)]
pub(crate) struct SlotFlags(AtomicU8);

/// A condition that calls must check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotFlag {
    /// The plugin is quarantined, or its host is shutting down.
    Health = 1,
    /// Inputs are validated against a schema.
    Schema = 2,
    /// The number of concurrent calls is limited.
    InFlight = 4,
}

impl SlotFlags {
    /// Returns whether no flag is set.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Returns whether `flag` is set.
    #[inline]
    pub(crate) fn has(&self, flag: SlotFlag) -> bool {
        self.0.load(Ordering::Relaxed) & flag as u8 != 0
    }

    pub(crate) fn set(&self, flag: SlotFlag, on: bool) {
        if on {
            self.0.fetch_or(flag as u8, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!(flag as u8), Ordering::Relaxed);
        }
    }
}
