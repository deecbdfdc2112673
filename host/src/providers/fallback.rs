//! Whether the next provider is tried after one that failed. Pure: time is an argument.

use std::time::Instant;

use crate::call::Request;
use crate::error::{Error, ErrorKind};

/// What becomes of a call whose provider could not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// The next provider is tried, if the call may be made again.
    #[default]
    NextProvider,
    /// The error is the answer.
    Error,
}

/// What the kind of an error says about the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    /// The plugin was not entered.
    NotRun,
    /// The plugin may have been entered, and did not come to an answer.
    MayHaveRun,
    /// It is an answer: others would say the same, or are not to be asked.
    Answer,
}

/// Whether the next provider is tried after `error`, which answered `request`.
pub(super) fn goes_on(error: &Error, request: &Terms, now: Instant) -> bool {
    if request.deadline.is_some_and(|deadline| deadline <= now) {
        return false;
    }
    match trace(error) {
        Trace::NotRun => true,
        Trace::MayHaveRun => request.is_idempotent,
        Trace::Answer => false,
    }
}

/// What of a request decides whether it may be sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    is_idempotent: bool,
    deadline: Option<Instant>,
}

impl Terms {
    pub(super) fn of(request: &Request<'_>) -> Self {
        Self { is_idempotent: request.is_idempotent(), deadline: request.deadline() }
    }
}

fn trace(error: &Error) -> Trace {
    match error.kind() {
        ErrorKind::Quarantined
        | ErrorKind::Overloaded
        | ErrorKind::Retired
        | ErrorKind::NotFound
        | ErrorKind::StartFailed => Trace::NotRun,
        ErrorKind::Disconnected
        | ErrorKind::Protocol
        | ErrorKind::Panicked
        | ErrorKind::DeadlineExceeded => Trace::MayHaveRun,
        ErrorKind::Plugin if error.plugin_error().is_some_and(|own| own.is_retryable()) => {
            Trace::MayHaveRun
        }
        _ => Trace::Answer,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hotbay_plugin::PluginError;

    use super::*;

    #[test]
    fn what_may_have_run_is_sent_again_only_if_it_may_run_twice() {
        let now = Instant::now();
        let check = |error: &Error, usual: bool, idempotent: bool| {
            let goes_on_with =
                |is_idempotent, deadline| goes_on(error, &Terms { is_idempotent, deadline }, now);
            assert_eq!(goes_on_with(false, None), usual, "{error:?}");
            assert_eq!(goes_on_with(true, None), idempotent, "{error:?}");
            let later = Some(now + Duration::from_secs(1));
            assert_eq!(goes_on_with(true, later), idempotent, "{error:?}");
            assert!(!goes_on_with(true, Some(now)), "there is no time left: {error:?}");
        };
        let of = |kind| Error::new(kind, "failed");
        for kind in [
            ErrorKind::Quarantined,
            ErrorKind::Overloaded,
            ErrorKind::Retired,
            ErrorKind::NotFound,
            ErrorKind::StartFailed,
        ] {
            check(&of(kind), true, true);
        }
        for kind in [
            ErrorKind::Disconnected,
            ErrorKind::Protocol,
            ErrorKind::Panicked,
            ErrorKind::DeadlineExceeded,
        ] {
            check(&of(kind), false, true);
        }
        for kind in [
            ErrorKind::InvalidInput,
            ErrorKind::InvalidOutput,
            ErrorKind::PermissionDenied,
            ErrorKind::Cancelled,
            ErrorKind::LayerPanicked,
            ErrorKind::Shutdown,
            ErrorKind::Unsupported,
            ErrorKind::Internal,
        ] {
            check(&of(kind), false, false);
        }
        let own = |error| of(ErrorKind::Plugin).caused_by(error);
        check(&own(PluginError::new(1, "no")), false, false);
        check(&own(PluginError::new(1, "later").retryable()), false, true);
    }
}
