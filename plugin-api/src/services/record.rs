//! Log lines, and the reasons a service of the host fails: what the API and the ABI of the services
//! have in common.

use std::error::Error;
use std::fmt;

/// Maximum length in bytes of a line's message, and of its fields as JSON. The rest is truncated.
#[doc(hidden)]
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// An operation failed.
    Error = 1,
    /// Something unexpected happened.
    Warn = 2,
    /// Normal operation.
    Info = 3,
    /// Details for debugging.
    Debug = 4,
    /// Very detailed output.
    Trace = 5,
}

impl Level {
    /// Returns the level with the given code; an unknown code is [`Level::Trace`].
    #[doc(hidden)]
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Error,
            2 => Self::Warn,
            3 => Self::Info,
            4 => Self::Debug,
            _ => Self::Trace,
        }
    }
}

/// The reason a service of the host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceError {
    /// The plugin was stopped.
    Closed,
    /// The `permissions` of the manifest do not include this service.
    Denied,
    /// The host does not offer this service, or is overloaded.
    Unavailable,
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the plugin was stopped",
            Self::Denied => {
                "permission denied: the manifest's `permissions` do not include this service"
            }
            Self::Unavailable => "the host does not offer this service, or is overloaded",
        })
    }
}

impl Error for ServiceError {}

/// A log line.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Severity.
    pub level: Level,
    /// The part of the plugin that logs; empty for the plugin itself.
    pub target: &'a str,
    /// Message.
    pub message: &'a str,
    /// Fields: a JSON object as text, or the empty string.
    ///
    /// A value is plain JSON, or a tagged object for types that JSON lacks: `{"u64":5}`,
    /// `{"f64":"0.1"}`, `{"debug":"Some(1)"}`.
    pub fields: &'a str,
    /// Source file; empty if unknown.
    pub file: &'a str,
    /// Line in the source file; 0 if unknown.
    pub line: u32,
}
