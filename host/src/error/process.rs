//! Errors of processes as errors of this crate. Their types are not public here.

use hotbay_process::{ErrorKind as ProcessErrorKind, ErrorParts, Step};

use super::{Error, ErrorKind, LoadStep};

impl Error {
    /// Converts the error of a process.
    #[cold]
    pub(crate) fn of_process(error: hotbay_process::Error) -> Self {
        let ErrorParts { kind, message, hint, retry_after, cause } = error.into_parts();
        let kind = match kind {
            ProcessErrorKind::Cancelled => ErrorKind::Cancelled,
            ProcessErrorKind::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            ProcessErrorKind::Disconnected => ErrorKind::Disconnected,
            ProcessErrorKind::InvalidInput => ErrorKind::InvalidInput,
            ProcessErrorKind::InvalidOutput => ErrorKind::InvalidOutput,
            ProcessErrorKind::Overloaded => ErrorKind::Overloaded,
            ProcessErrorKind::Protocol => ErrorKind::Protocol,
            ProcessErrorKind::Retired => ErrorKind::Retired,
            ProcessErrorKind::StartFailed => ErrorKind::StartFailed,
            ProcessErrorKind::StopFailed => ErrorKind::Plugin,
            ProcessErrorKind::Unsupported => ErrorKind::Unsupported,
        };
        let mut error = Self::new(kind, message).with_optional_hint(hint);
        if let Some(wait) = retry_after {
            error = error.with_retry_after(wait);
        }
        match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    }
}

impl LoadStep {
    /// Converts a step of the start of a process; `Launch` if the error is about none.
    pub(crate) fn of_process(step: Option<Step>) -> Self {
        match step {
            Some(Step::Stage) => Self::Stage,
            Some(Step::Capabilities) => Self::Capabilities,
            Some(Step::Config) => Self::Config,
            Some(Step::Launch) | None => Self::Launch,
            Some(Step::Location) => Self::Location,
            Some(Step::Ready) => Self::Ready,
        }
    }
}
