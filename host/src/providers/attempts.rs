//! One call on its way from provider to provider: what failed so far, and what that comes to.

use std::ops::ControlFlow;
use std::time::Instant;

use super::fallback::{OnFailure, Terms, goes_on};
use crate::call::Request;
use crate::error::{Error, bug};
use crate::handle::PluginHandle;

/// The attempts of one call.
pub(super) struct Attempts {
    on_failure: OnFailure,
    policy: Terms,
    /// In the order of the attempts.
    errors: Vec<Error>,
}

impl Attempts {
    pub(super) fn new(on_failure: OnFailure, request: &Request<'_>) -> Self {
        Self { on_failure, policy: Terms::of(request), errors: Vec::new() }
    }

    /// Notes that a provider failed; says whether the next one is tried.
    pub(super) fn failed(&mut self, plugin: &PluginHandle, error: Error) -> ControlFlow<()> {
        let may_go_on = self.on_failure == OnFailure::NextProvider
            && goes_on(&error, &self.policy, Instant::now());
        self.errors.push(error.of_if_unset(plugin.name()));
        if may_go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// What all the failures come to: the first one, which says what became of the others.
    pub(super) fn error(self) -> Error {
        let mut errors = self.errors.into_iter();
        match errors.next() {
            Some(first) => first.also_tried(errors.as_slice()),
            None => bug!("a contract had no provider, and nobody said so"),
        }
    }
}
