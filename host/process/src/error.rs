//! The crate's errors: one opaque type for starts and calls, the text that explains a failure, and
//! the ways in which a call can fail.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use hotbay_plugin::{Fault, PluginError};

/// A text that explains a failure, and a hint on how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What failed, and why.
    pub message: String,
    /// Advice on how to fix it.
    pub hint: Option<String>,
}

impl Diagnosis {
    /// Creates a diagnosis with a hint.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }

    /// Replaces the message by `map` of it.
    #[must_use]
    pub fn map_message(self, map: impl FnOnce(String) -> String) -> Self {
        Self { message: map(self.message), ..self }
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

impl StdError for Diagnosis {}

/// The steps of a start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Restores the private copy of the program.
    Stage,
    /// Queries the capabilities.
    Capabilities,
    /// Delivers the configuration.
    Config,
    /// Starts the program.
    Launch,
    /// Reads the address that the program printed.
    Location,
    /// Polls the program until it accepts calls.
    Ready,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stage => "stage",
            Self::Capabilities => "capabilities",
            Self::Config => "config",
            Self::Launch => "launch",
            Self::Location => "location",
            Self::Ready => "ready",
        })
    }
}

/// The classes of an [`Error`], by how a caller can handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller cancelled the call.
    Cancelled,
    /// The deadline passed.
    DeadlineExceeded,
    /// The connection closed before the response arrived.
    Disconnected,
    /// The request cannot be sent.
    InvalidInput,
    /// The response is too large.
    InvalidOutput,
    /// The host cannot wait for a response.
    Overloaded,
    /// The program violates the protocol.
    Protocol,
    /// The process was stopped.
    Retired,
    /// The program did not start.
    StartFailed,
    /// The program did not stop cleanly.
    StopFailed,
    /// The program does not have the endpoint.
    Unsupported,
}

/// The reason a start, a call or a stop failed. One pointer wide.
///
/// `Display` prints the error itself; its cause is its source.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    step: Option<Step>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    cause: Option<Diagnosis>,
    /// Whether the process exited with code 0 during its start, as an idle process does.
    has_exited_with_success: bool,
}

/// The parts of an [`Error`], for its conversion into another one.
#[derive(Debug)]
pub struct ErrorParts {
    /// The class of the error.
    pub kind: ErrorKind,
    /// The message.
    pub message: Cow<'static, str>,
    /// Advice on how to fix it.
    pub hint: Option<Cow<'static, str>>,
    /// How long to wait before a retry, if known.
    pub retry_after: Option<Duration>,
    /// The cause.
    pub cause: Option<Diagnosis>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            step: None,
            message: message.into(),
            hint: None,
            retry_after: None,
            cause: None,
            has_exited_with_success: false,
        }))
    }

    /// Returns the error of a start that failed at `step`.
    pub fn at(step: Step, reason: impl Into<Diagnosis>) -> Self {
        let mut error = Self::of_diagnosis(ErrorKind::StartFailed, reason);
        error.0.step = Some(step);
        error
    }

    pub(crate) fn of_diagnosis(kind: ErrorKind, reason: impl Into<Diagnosis>) -> Self {
        let Diagnosis { message, hint } = reason.into();
        let mut error = Self::new(kind, message);
        error.0.hint = hint.map(Cow::Owned);
        error
    }

    pub(crate) fn with_hint(mut self, hint: &'static str) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub(crate) fn caused_by(mut self, cause: impl Into<Diagnosis>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    pub(crate) fn exited_with_success(mut self, has_exited_with_success: bool) -> Self {
        self.0.has_exited_with_success = has_exited_with_success;
        self
    }

    pub(crate) fn has_exited_with_success(&self) -> bool {
        self.0.has_exited_with_success
    }

    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the step of a start that failed, or `None` for other errors.
    pub fn step(&self) -> Option<Step> {
        self.0.step
    }

    /// Returns advice on how to fix the error.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Returns message and hint.
    pub fn into_diagnosis(self) -> Diagnosis {
        let Inner { message, hint, .. } = *self.0;
        Diagnosis { message: message.into_owned(), hint: hint.map(Cow::into_owned) }
    }

    /// Returns the parts of the error.
    pub fn into_parts(self) -> ErrorParts {
        let Inner { kind, message, hint, retry_after, cause, .. } = *self.0;
        ErrorParts { kind, message, hint, retry_after, cause }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("step", &self.0.step)
            .field("message", &self.0.message)
            .field("hint", &self.0.hint)
            .field("cause", &self.0.cause)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_ref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// The reason a call failed.
#[derive(Debug)]
pub enum Failure {
    /// The plugin returned an error.
    Plugin(PluginError),
    /// The plugin panicked.
    Panic(Fault),
    /// The call could not be made, or its result could not be received.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_one_word_and_displays_only_itself() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let error = Error::new(ErrorKind::StartFailed, "was not called").caused_by("it exited");
        assert_eq!(error.to_string(), "was not called");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("it exited"));
        let error = Error::at(Step::Launch, Diagnosis::new("no", "fix it"));
        assert_eq!((error.step(), error.hint()), (Some(Step::Launch), Some("fix it")));
        assert_eq!(error.into_diagnosis(), Diagnosis::new("no", "fix it"));
    }
}
