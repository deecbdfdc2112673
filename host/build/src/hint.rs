//! Errors with advice for the user.

use std::error::Error;
use std::fmt;

use crate::print::message;

/// An error with a hint, which is not part of its message.
#[derive(Debug)]
pub struct Hinted {
    message: String,
    hint: String,
}

impl Hinted {
    /// Creates an error from a message and a hint.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Hinted {}

/// Returns the hint of an error or of one of its causes.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    // The first finds a hint given as context, the second one of a source.
    let hinted = error.downcast_ref::<Hinted>();
    let hinted = hinted.or_else(|| error.chain().find_map(|cause| cause.downcast_ref()));
    hinted.map(|hinted: &Hinted| hinted.hint.as_str())
}

/// Prints an error with its causes on stderr, and its hint on the next line.
pub fn print_error(error: &anyhow::Error) {
    message(format_args!("error: {error:#}"));
    if let Some(hint) = hint_of(error) {
        message(format_args!("  hint: {hint}"));
    }
}
