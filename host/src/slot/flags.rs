//! What calls of a plugin have to look at, in one word: zero where there is nothing, which is
//! nearly always. Each bit has one writer; readers act on what they see and no more.

use std::sync::atomic::{AtomicU8, Ordering};

/// The word.
#[derive(Debug, Default)]
pub(crate) struct SlotFlags(AtomicU8);

/// Something that calls have to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotFlag {
    /// The plugin is quarantined, or its host ends.
    Health = 1,
    /// Inputs have to fit a schema.
    Schema = 2,
    /// The calls that run at once are limited.
    InFlight = 4,
}

impl SlotFlags {
    /// Whether there is nothing to look at.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Whether this is to be looked at.
    #[inline]
    pub(crate) fn has(&self, reason: SlotFlag) -> bool {
        self.0.load(Ordering::Relaxed) & reason as u8 != 0
    }

    pub(crate) fn set(&self, reason: SlotFlag, on: bool) {
        if on {
            self.0.fetch_or(reason as u8, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!(reason as u8), Ordering::Relaxed);
        }
    }
}
