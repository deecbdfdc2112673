//! The cause of an error as a text, with advice apart from it.

use std::error::Error;
use std::fmt;

/// A text that explains a failure, and a hint on how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

#[cfg(all(unix, feature = "process"))]
impl Diagnosis {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }

    /// Replaces the message by `map` of it.
    pub(crate) fn map_message(self, map: impl FnOnce(String) -> String) -> Self {
        Self { message: map(self.message), ..self }
    }
}

impl Diagnosis {
    /// Returns the hint of the error.
    pub(super) fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

impl<T: Into<String>> From<T> for Diagnosis {
    /// Creates a diagnosis without a hint.
    fn from(message: T) -> Self {
        Self { message: message.into(), hint: None }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Diagnosis {}
