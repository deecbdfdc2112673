//! Formats a message up to a maximum size. The rest is neither kept nor formatted.

use std::fmt::{self, Write};

use crate::services::MAX_LINE_BYTES;
use crate::text::{CUT, start_of};

/// A text that ends with [`CUT`] if it was truncated.
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
