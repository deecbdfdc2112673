//! Conversions between the errors of this crate and those of typed calls.

use hotbay_plugin::contract::{CallError, CallErrorKind, Incompatible};

use super::{Error, ErrorKind};

/// Returns whether a plugin was not called, since it does not serve the contract or the method.
pub(crate) fn is_not_served(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::NotProvided => true,
        // Code in this process may also return a code that is unknown to this host.
        ErrorKind::Incompatible => {
            let source = std::error::Error::source(error);
            source.is_some_and(|source| source.is::<Incompatible>())
        }
        _ => false,
    }
}

impl From<Error> for CallError {
    /// Keeps the error as the source, and the plugin's own error.
    #[cold]
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Plugin => CallErrorKind::Plugin,
            ErrorKind::Panicked => CallErrorKind::Panicked,
            ErrorKind::NotProvided => CallErrorKind::NotProvided,
            ErrorKind::InvalidInput => CallErrorKind::InvalidInput,
            ErrorKind::InvalidOutput | ErrorKind::Protocol => CallErrorKind::InvalidOutput,
            ErrorKind::PermissionDenied => CallErrorKind::PermissionDenied,
            ErrorKind::DeadlineExceeded => CallErrorKind::DeadlineExceeded,
            ErrorKind::Cancelled => CallErrorKind::Cancelled,
            ErrorKind::Overloaded => CallErrorKind::Overloaded,
            ErrorKind::Circular => CallErrorKind::Circular,
            ErrorKind::NotFound
            | ErrorKind::Quarantined
            | ErrorKind::Retired
            | ErrorKind::Disconnected
            | ErrorKind::Shutdown => CallErrorKind::Unavailable,
            _ => CallErrorKind::Other,
        };
        let mut converted = Self::new(kind, error.to_string());
        // The unload of its build ended a call that has a generation.
        let is_aborted = error.kind() == ErrorKind::Retired && error.generation().is_some();
        if is_aborted || error.kind() == ErrorKind::Disconnected {
            converted = converted.that_may_have_run();
        }
        if let Some(hint) = error.hint() {
            converted = converted.with_hint(hint.to_owned());
        }
        if let Some(own) = error.plugin_error() {
            converted = converted.with_plugin_error(own.clone());
        }
        converted.with_source(error)
    }
}

impl From<CallError> for Error {
    /// Returns the error of this crate that caused the typed call to fail, or one like it.
    #[cold]
    fn from(error: CallError) -> Self {
        let source = std::error::Error::source(&error);
        if let Some(own) = source.and_then(|source| source.downcast_ref::<Self>()) {
            return own.cloned();
        }
        let kind = match error.kind() {
            CallErrorKind::Plugin => ErrorKind::Plugin,
            CallErrorKind::Panicked => ErrorKind::Panicked,
            CallErrorKind::NotProvided => ErrorKind::NotProvided,
            CallErrorKind::InvalidInput => ErrorKind::InvalidInput,
            CallErrorKind::InvalidOutput => ErrorKind::InvalidOutput,
            CallErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            CallErrorKind::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            CallErrorKind::Cancelled => ErrorKind::Cancelled,
            CallErrorKind::Overloaded => ErrorKind::Overloaded,
            CallErrorKind::Circular => ErrorKind::Circular,
            CallErrorKind::Unavailable => ErrorKind::Retired,
            _ => ErrorKind::Internal,
        };
        let converted = Self::new(kind, error.to_string());
        let converted = converted.with_optional_hint(error.hint().map(str::to_owned));
        match (error.plugin_error(), error.shared_source()) {
            (Some(own), _) => converted.caused_by(own.clone()),
            // Without the error itself, whose message it has.
            (None, Some(cause)) => converted.caused_by_shared(cause),
            (None, None) => converted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GenerationId;

    #[test]
    fn call_that_may_have_run_is_not_retryable() {
        let of = |kind| Error::new(kind, "it failed");
        let aborted = of(ErrorKind::Retired).in_generation(GenerationId::after(0));
        for error in [of(ErrorKind::Disconnected), aborted] {
            let error = CallError::from(error);
            assert_eq!(error.kind(), CallErrorKind::Unavailable);
            assert!(!error.is_retryable(), "{error:?}");
        }
        for kind in [ErrorKind::Retired, ErrorKind::NotFound, ErrorKind::Quarantined] {
            assert!(CallError::from(of(kind)).is_retryable(), "{kind:?}");
        }
    }
}
