//! What both bridges need to forward a line: its destination, protection against recursion, and a
//! message of a limited size.

use std::cell::Cell;
use std::fmt::{self, Write};

use crate::services::{HostServices, MAX_LINE_BYTES};
use crate::text::{CUT, start_of};

/// Destination of forwarded lines.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// The host of the latest start of this library.
    LatestStart,
    /// The given services, in tests.
    #[cfg(feature = "testing")]
    Fixed(HostServices),
}

impl Destination {
    pub(super) fn services(&self) -> Option<HostServices> {
        match self {
            Self::LatestStart => HostServices::current(),
            #[cfg(feature = "testing")]
            Self::Fixed(services) => Some(services.clone()),
        }
    }
}

thread_local! {
    /// Whether this thread is forwarding a line. Has no destructor.
    static IS_FORWARDING: Cell<bool> = const { Cell::new(false) };
}

/// Held while a thread forwards a line. Lines that are logged meanwhile, by a `Debug`
/// implementation or by the host, are dropped to prevent infinite recursion.
pub(super) struct ForwardGuard;

impl ForwardGuard {
    pub(super) fn enter() -> Option<Self> {
        (!IS_FORWARDING.replace(true)).then_some(Self)
    }
}

impl Drop for ForwardGuard {
    fn drop(&mut self) {
        IS_FORWARDING.set(false);
    }
}

/// A text that ends with [`CUT`] if it was truncated. The rest is neither kept nor formatted.
#[derive(Debug, Default)]
pub(super) struct BoundedText {
    text: String,
    is_cut: bool,
}

impl BoundedText {
    /// Formats a message.
    pub(super) fn format(message: fmt::Arguments<'_>) -> Self {
        let mut text = Self::default();
        // Fails if the text is truncated, or if the author's code fails.
        let _ = text.write_fmt(message);
        text
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl Write for BoundedText {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.is_cut {
            return Err(fmt::Error);
        }
        let remaining = MAX_LINE_BYTES - CUT.len() - self.text.len();
        if more.len() <= remaining {
            self.text.push_str(more);
            return Ok(());
        }
        self.is_cut = true;
        self.text.push_str(start_of(more, remaining));
        self.text.push_str(CUT);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_message_is_truncated_between_characters() {
        let text = BoundedText::format(format_args!("{}", "ä".repeat(MAX_LINE_BYTES)));
        assert!(text.as_str().len() <= MAX_LINE_BYTES);
        assert!(text.as_str().ends_with(&format!("ä{CUT}")));
        assert_eq!(BoundedText::format(format_args!("{} {}", "a", 1)).as_str(), "a 1");
    }

    #[test]
    fn writes_after_truncation_are_dropped() {
        let long = "x".repeat(MAX_LINE_BYTES);
        let text = BoundedText::format(format_args!("{long}{long}end"));
        assert!(text.as_str().ends_with(&format!("x{CUT}")));
    }
}
