//! The attempts of one call with several providers, and the error that they amount to.

use std::ops::ControlFlow;
use std::time::Instant;

use super::fallback::{OnFailure, RetryPolicy, may_try_next};
use crate::call::Request;
use crate::error::{Error, bug};
use crate::handle::PluginHandle;

/// The attempts of one call.
pub(super) struct Attempts {
    on_failure: OnFailure,
    policy: RetryPolicy,
    /// In the order of the attempts.
    errors: Vec<Error>,
}

impl Attempts {
    pub(super) fn new(on_failure: OnFailure, request: &Request<'_>) -> Self {
        Self { on_failure, policy: RetryPolicy::of(request), errors: Vec::new() }
    }

    /// Records a failure; returns whether to try the next provider.
    pub(super) fn failed(&mut self, plugin: &PluginHandle, error: Error) -> ControlFlow<()> {
        let tries_next = self.on_failure == OnFailure::NextProvider
            && may_try_next(&error, &self.policy, Instant::now());
        self.errors.push(error.of_if_unset(plugin.name()));
        if tries_next { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Returns the first error, with the others in its message.
    pub(super) fn error(self) -> Error {
        let mut errors = self.errors.into_iter();
        match errors.next() {
            Some(first) => first.also_tried(errors.as_slice()),
            None => bug!("a lookup returned no provider and no error"),
        }
    }
}
