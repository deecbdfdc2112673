//! Failures of a plugin: errors that it returns, and faults (panics). Both are plain data and pass
//! through the host unchanged.

use std::error::Error;
use std::fmt;

use serde_json::Value;

use crate::text::write_escaped;

/// An error that a plugin returns.
///
/// The author chooses code and details, which reach the caller unchanged. A message is truncated at
/// 16 KiB; details over 64 KiB reach the caller as the start of their JSON text. The helpers of
/// this crate use the code 400 for input or configuration that cannot be parsed.
///
/// `Display` escapes control characters except line ends and tabs, and characters that change the
/// direction of text; [`message`](Self::message) does not.
///
/// ```
/// use hotbay_plugin::PluginError;
/// use serde_json::json;
///
/// let error = PluginError::new(7, "row not found").retryable().with_details(json!({ "row": 12 }));
/// assert_eq!(error.to_string(), "row not found (code 7)");
/// assert!(error.is_retryable());
/// assert_eq!(error.details(), Some(&json!({ "row": 12 })));
/// ```
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
    /// The code that this crate uses for input that cannot be parsed.
    pub const BAD_INPUT: i32 = 400;

    /// Creates an error with the author's `code` and a message for people.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner { code, message, retryable: false, details: None }))
    }

    /// Marks the error as retryable: the same call may succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Adds details for programs.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Returns the author's code.
    pub fn code(&self) -> i32 {
        self.0.code
    }

    /// Returns the message for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Returns the details for programs.
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

/// A panic that was caught inside a plugin.
///
/// A message is truncated at 16 KiB, a location at 1 KiB. `Display` escapes control characters
/// except line ends and tabs, and characters that change the direction of text.
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

    /// Returns the panic's message, or a placeholder if its payload is not a string.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns `file:line:column` of the panic, or `None` after `resume_unwind`.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Returns the return addresses, innermost first; empty unless the host requested them.
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
