//! Decides whether the next provider is tried after a failure, and which error the attempts of one
//! call amount to. Pure: time is an argument.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::call::Request;
use crate::error::{Error, ErrorKind, bug};
use crate::handle::PluginHandle;

/// The policy for calls whose provider failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// The next provider is tried, if the call may be made again.
    #[default]
    NextProvider,
    /// The call fails with the error.
    Error,
}

/// Whether a call ran, according to its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Execution {
    /// The plugin was not called.
    NotRun,
    /// The plugin may have been called, and did not answer.
    MayHaveRun,
    /// The plugin answered, or another provider would fail in the same way.
    Final,
}

/// Returns whether to try the next provider after `error`.
pub(super) fn may_try_next(error: &Error, policy: &RetryPolicy, now: Instant) -> bool {
    if policy.deadline.is_some_and(|deadline| deadline <= now) {
        return false;
    }
    match execution(error) {
        Execution::NotRun => true,
        Execution::MayHaveRun => policy.is_idempotent,
        Execution::Final => false,
    }
}

/// The options of a request that decide whether it may be sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    is_idempotent: bool,
    deadline: Option<Instant>,
}

impl RetryPolicy {
    pub(super) fn new(is_idempotent: bool, deadline: Option<Instant>) -> Self {
        Self { is_idempotent, deadline }
    }

    pub(super) fn of(request: &Request<'_>) -> Self {
        Self::new(request.is_idempotent(), request.deadline())
    }
}

fn execution(error: &Error) -> Execution {
    match error.kind() {
        // An unload aborted it after it had reached the plugin.
        ErrorKind::Retired if error.generation().is_some() => Execution::MayHaveRun,
        ErrorKind::Quarantined
        | ErrorKind::Overloaded
        | ErrorKind::Retired
        | ErrorKind::NotFound
        | ErrorKind::NotProvided
        | ErrorKind::StartFailed => Execution::NotRun,
        ErrorKind::Disconnected
        | ErrorKind::Protocol
        | ErrorKind::Panicked
        | ErrorKind::DeadlineExceeded => Execution::MayHaveRun,
        ErrorKind::Plugin if error.plugin_error().is_some_and(|own| own.is_retryable()) => {
            Execution::MayHaveRun
        }
        _ => Execution::Final,
    }
}

/// The attempts of one call.
pub(super) struct Attempts {
    on_failure: OnFailure,
    policy: RetryPolicy,
    /// In the order of the attempts.
    errors: Vec<Error>,
    /// Whether another provider may be tried.
    may_continue: bool,
}

impl Attempts {
    pub(super) fn new(on_failure: OnFailure, policy: RetryPolicy) -> Self {
        Self { on_failure, policy, errors: Vec::new(), may_continue: true }
    }

    /// Records a failure; returns whether to try the next provider.
    pub(super) fn failed(&mut self, plugin: &PluginHandle, error: Error) -> ControlFlow<()> {
        self.may_continue = self.on_failure == OnFailure::NextProvider
            && may_try_next(&error, &self.policy, Instant::now());
        self.errors.push(error.of_if_unset(plugin.name()));
        if self.may_continue { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Returns the error of the call, with the others in its message: usually the first one.
    ///
    /// `NotProvided` precedes all others if another provider could have been tried: the caller then
    /// runs the default body of the method. Otherwise, it follows all others.
    pub(super) fn error(self) -> Error {
        let Self { mut errors, may_continue, .. } = self;
        if errors.is_empty() {
            return bug!("a lookup returned no provider and no error");
        }
        let is_main = |error: &Error| (error.kind() == ErrorKind::NotProvided) == may_continue;
        let main = errors.remove(errors.iter().position(is_main).unwrap_or(0));
        main.also_tried(&errors)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hotbay_plugin::PluginError;

    use super::*;
    use crate::id::GenerationId;

    #[test]
    fn call_that_may_have_run_is_retried_only_if_idempotent() {
        let now = Instant::now();
        let check = |error: &Error, usual: bool, idempotent: bool| {
            let tries_next = |is_idempotent, deadline| {
                may_try_next(error, &RetryPolicy { is_idempotent, deadline }, now)
            };
            assert_eq!(tries_next(false, None), usual, "{error:?}");
            assert_eq!(tries_next(true, None), idempotent, "{error:?}");
            let later = Some(now + Duration::from_secs(1));
            assert_eq!(tries_next(true, later), idempotent, "{error:?}");
            assert!(!tries_next(true, Some(now)), "the deadline has passed: {error:?}");
        };
        let of = |kind| Error::new(kind, "failed");
        for kind in [
            ErrorKind::Quarantined,
            ErrorKind::Overloaded,
            ErrorKind::Retired,
            ErrorKind::NotFound,
            ErrorKind::NotProvided,
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
        let aborted = of(ErrorKind::Retired).in_generation(GenerationId::after(0));
        check(&aborted, false, true);
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
