//! Rejects invalid inputs: first by the manifest's `input_schema`, then by the application's
//! functions.
//!
//! Costs a load if there is neither. A schema costs parsing the input as JSON and walking it: some
//! microseconds for a kilobyte, on the thread of the call and before its lease. If the schema
//! follows references or nests deeper than sixteen levels, the check runs on a thread, which adds
//! some tens of microseconds. Parsing takes up to some tens of times the bytes of the input, so
//! `limits.input_bytes` bounds it and is checked first. The check has a budget of steps and time,
//! and ends at the request's deadline.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::panic_error;
use crate::call::{Reply, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::CallPolicy;
use crate::slot::{AsyncService, CallScope, Slot, SyncService};

/// A function of the application that checks requests.
pub(crate) type Validator = dyn Fn(&Request<'_>) -> Result<(), String> + Send + Sync;

/// Maximum length of a validator's message.
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
            answer.map_err(|reason| self.invalid_input(reason))?;
        }
        Ok(())
    }

    #[cold]
    fn invalid_input(&self, mut reason: String) -> Error {
        if let Some((end, _)) = reason.char_indices().nth(MAX_MESSAGE_CHARS) {
            reason.truncate(end);
            reason.push('…');
        }
        let message = "was not called: the application rejected the input";
        Error::new(ErrorKind::InvalidInput, message).caused_by(reason).of(&self.slot.name)
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
        // After a reload, the policy of the call is more accurate than the slot's flag.
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
