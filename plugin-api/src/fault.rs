//! What can go wrong in a plugin: an error that its author answers with, and a fault that
//! nobody meant. Both are plain data and cross every layer unchanged.

use std::error::Error;
use std::fmt;

use serde_json::Value;

use crate::text::write_escaped;

/// An error that a plugin answers with, on purpose.
///
/// Code and details are the author's own; they reach the caller unchanged. A message is cut at
/// 16 KiB, and details of more than 64 KiB reach the caller as the start of their text. `Display`
/// escapes control characters, all but line ends and tabs, and marks that turn text around;
/// [`message`](Self::message) does not. The helpers of this
/// crate use the code 400 for input or configuration that cannot be read.
#[derive(Clone, PartialEq)]
pub struct PluginError(Box<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    code: i32,
    message: String,
    retryable: bool,
    details: Option<Value>,
}

impl PluginError {
    /// The code of helpers of this crate for input that cannot be read.
    pub const BAD_INPUT: i32 = 400;

    /// Makes an error with the author's `code` and a message for people.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner { code, message, retryable: false, details: None }))
    }

    /// Says that the same call may succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Adds what a program may want to know.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// The author's code.
    pub fn code(&self) -> i32 {
        self.0.code
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// What a program may want to know.
    pub fn details(&self) -> Option<&Value> {
        self.0.details.as_ref()
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0.message)?;
        write!(f, " (code {})", self.0.code)
    }
}

impl fmt::Debug for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginError")
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("retryable", &self.0.retryable)
            .field("details", &self.0.details)
            .finish()
    }
}

impl Error for PluginError {}

/// What a plugin never meant to happen: a panic, caught inside the plugin.
///
/// A message is cut at 16 KiB, a location at 1 KiB. `Display` escapes control characters, all but
/// line ends and tabs, and marks that turn text around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    message: String,
    location: Option<String>,
    frames: Vec<usize>,
}

impl Fault {
    #[doc(hidden)]
    pub fn new(message: String, location: Option<String>, frames: Vec<usize>) -> Self {
        Self { message, location, frames }
    }

    /// The panic's message, or a note that its payload was no text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// `file:line:column` of the panic; none after `resume_unwind`, which tells nobody.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Return addresses, innermost first; empty unless the host asked for them.
    pub fn frames(&self) -> &[usize] {
        &self.frames
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("panicked: ")?;
        write_escaped(f, &self.message)?;
        let Some(location) = &self.location else { return Ok(()) };
        f.write_str(" (at ")?;
        write_escaped(f, location)?;
        f.write_str(")")
    }
}

impl Error for Fault {}
