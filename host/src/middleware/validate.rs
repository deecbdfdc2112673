//! Rejects invalid inputs: first by the manifest's `input_schema`, then by the application's
//! functions. Calls of a contract's methods have typed arguments, and are not checked here.
//!
//! Costs a load if there is neither. A schema costs parsing the input as JSON and walking it: some
//! microseconds for a kilobyte, on the thread of the call and before its lease. If the schema
//! follows references or nests deeper than sixteen levels, the check runs on a thread, which adds
//! some tens of microseconds. Parsing takes up to some tens of times the bytes of the input, so
//! `limits.input_bytes` bounds it and is checked first. The check has a budget of steps and time,
//! and ends at the request's deadline.

use std::fmt;
use std::sync::Arc;

use super::service::{Before, Middleware, panic_error};
use crate::call::{ReplySlot, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::CallPolicy;
use crate::panic::catch_fault;
use crate::slot::{CallScope, PolicyRef, Slot};

/// A function of the application that checks requests.
pub(crate) type Validator = dyn Fn(&Request<'_>) -> Result<(), String> + Send + Sync;

/// Maximum length of a validator's message.
const MAX_MESSAGE_CHARS: usize = 1000;

pub(crate) struct Validate {
    slot: Arc<Slot>,
    validators: Box<[Arc<Validator>]>,
}

impl Middleware for Validate {
    /// The policy that the call was checked against.
    type Guard<'c> = Option<PolicyRef<'c>>;

    #[inline]
    fn before<'c>(
        &'c self,
        scope: &CallScope<'c>,
        _: &mut ReplySlot,
    ) -> Result<Before<Self::Guard<'c>>, Error> {
        if self.has_nothing_to_check(scope) {
            return Ok(Before::Continue(None));
        }
        let policy = self.slot.policy_for(scope);
        let current = policy.get().ok_or_else(|| self.slot.unloaded_error())?;
        self.check(current, scope.request)?;
        Ok(Before::Continue(Some(policy)))
    }

    #[inline]
    fn inner_scope<'c>(
        policy: &'c Self::Guard<'_>,
        scope: &CallScope<'c>,
    ) -> Option<CallScope<'c>> {
        Some(scope.checked_against(policy.as_ref()?.get()?))
    }
}

impl Validate {
    pub(super) fn new(slot: Arc<Slot>, validators: &[Arc<Validator>]) -> Self {
        Self { slot, validators: validators.into() }
    }

    #[inline(always)]
    fn has_nothing_to_check(&self, scope: &CallScope<'_>) -> bool {
        // After a reload, the policy of the call is more accurate than the slot's flag.
        let checks_input = match (scope.policy, scope.lease) {
            (Some(policy), _) => policy.checks_input(),
            (None, Some(instance)) => instance.checks_input(),
            (None, None) => self.slot.checks_input(),
        };
        let has_checks = checks_input || !self.validators.is_empty();
        !has_checks || scope.request.method_request().is_some()
    }

    #[inline(never)]
    fn check(&self, policy: &CallPolicy, request: &Request<'_>) -> Result<(), Error> {
        policy.check_length(&self.slot.name, request)?;
        policy.check_input(&self.slot.name, request)?;
        self.run_validators(request)
    }

    fn run_validators(&self, request: &Request<'_>) -> Result<(), Error> {
        for validator in &self.validators {
            let answer = catch_fault(|| validator(request));
            let answer = answer.map_err(|fault| panic_error(&self.slot, "a validator", fault))?;
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

impl fmt::Debug for Validate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validate")
            .field("validators", &self.validators.len())
            .finish_non_exhaustive()
    }
}
