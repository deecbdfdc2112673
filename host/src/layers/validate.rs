//! Refuses inputs that do not fit: first the manifest's `input_schema`, then the application's
//! own functions.
//!
//! Costs a load where there is neither. A schema costs reading the input as JSON and walking it,
//! some microseconds for a kilobyte, in the thread that runs the call and before its lease; and
//! a thread for the check, some tens of microseconds, where the schema follows references or
//! nests deeper than sixteen steps in all. What is read takes up to some tens of times the bytes
//! of the input, so `limits.input_bytes` bounds it, and is looked at first. The check itself has
//! a budget of steps and time, and ends at the request's deadline.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::panic_error;
use crate::call::{Reply, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::CallPolicy;
use crate::slot::{AsyncService, CallScope, Slot, SyncService};

/// A function of the application that looks at requests.
pub(crate) type Validator = dyn Fn(&Request<'_>) -> Result<(), String> + Send + Sync;

/// Most characters of what a validator says.
const MAX_MESSAGE_CHARS: usize = 1000;

pub(crate) struct Validate<S> {
    slot: Arc<Slot>,
    validators: Box<[Arc<Validator>]>,
    inner: S,
}

impl<S> Validate<S> {
    pub(super) fn new(slot: Arc<Slot>, validators: &[Arc<Validator>], inner: S) -> Self {
        Self { slot, validators: validators.into(), inner }
    }

    fn run_validators(&self, request: &Request<'_>) -> Result<(), Error> {
        for validator in &self.validators {
            let answer = catch_unwind(AssertUnwindSafe(|| validator(request)));
            let answer =
                answer.map_err(|payload| panic_error(&self.slot, "a validator", payload))?;
            answer.map_err(|why| self.invalid_input(why))?;
        }
        Ok(())
    }

    #[cold]
    fn invalid_input(&self, mut why: String) -> Error {
        if let Some((end, _)) = why.char_indices().nth(MAX_MESSAGE_CHARS) {
            why.truncate(end);
            why.push('…');
        }
        let message = "was not called: the application does not accept the input";
        Error::new(ErrorKind::InvalidInput, message).caused_by(why).of(&self.slot.name)
    }
}

impl<S: SyncService> SyncService for Validate<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        if self.has_nothing_to_check(scope) {
            return self.inner.call(scope, reply);
        }
        self.check_and_call(scope, reply)
    }
}

impl<S: AsyncService> AsyncService for Validate<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        if self.has_nothing_to_check(scope) {
            return self.inner.call_async(scope, reply).await;
        }
        let policy = scope.leased_policy().ok_or_else(|| self.slot.unloaded_error())?;
        self.check(policy, scope.request)?;
        let scope = CallScope { policy: Some(policy), ..*scope };
        self.inner.call_async(&scope, reply).await
    }
}

impl<S: SyncService> Validate<S> {
    #[inline(never)]
    fn check_and_call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.slot.with_policy(scope, |scope, policy| {
            self.check(policy, scope.request)?;
            self.inner.call(scope, reply)
        })
    }
}

impl<S> Validate<S> {
    #[inline(always)]
    fn has_nothing_to_check(&self, scope: &CallScope<'_>) -> bool {
        // What the call was judged by says it better than the slot, where there was a reload.
        let checks_input = match (scope.policy, scope.lease) {
            (Some(policy), _) => policy.checks_input(),
            (None, Some(instance)) => instance.checks_input(),
            (None, None) => self.slot.checks_input(),
        };
        !checks_input && self.validators.is_empty()
    }

    fn check(&self, policy: &CallPolicy, request: &Request<'_>) -> Result<(), Error> {
        policy.check_length(&self.slot.name, request)?;
        policy.check_input(&self.slot.name, request)?;
        self.run_validators(request)
    }
}

impl<S: fmt::Debug> fmt::Debug for Validate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validate")
            .field("validators", &self.validators.len())
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
