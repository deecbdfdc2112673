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
const MESSAGE_CHARS_MAX: usize = 1000;

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
        if let Some((end, _)) = why.char_indices().nth(MESSAGE_CHARS_MAX) {
            why.truncate(end);
            why.push('…');
        }
        let message = "was not called: the application does not accept the input";
        Error::new(ErrorKind::InvalidInput, message).caused_by(why).of(&self.slot.name)
    }
}

impl<S: SyncService> SyncService for Validate<S> {
    #[inline]
    fn call(&self, visit: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        if self.has_nothing_to_check(visit) {
            return self.inner.call(visit, reply);
        }
        self.check_and_call(visit, reply)
    }
}

impl<S: AsyncService> AsyncService for Validate<S> {
    async fn call_async<'a>(
        &'a self,
        visit: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        if self.has_nothing_to_check(visit) {
            return self.inner.call_async(visit, reply).await;
        }
        let terms = visit.leased_policy().ok_or_else(|| self.slot.unloaded_error())?;
        self.check(terms, visit.request)?;
        let visit = CallScope { policy: Some(terms), ..*visit };
        self.inner.call_async(&visit, reply).await
    }
}

impl<S: SyncService> Validate<S> {
    #[inline(never)]
    fn check_and_call(&self, visit: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.slot.with_policy(visit, |visit, terms| {
            self.check(terms, visit.request)?;
            self.inner.call(visit, reply)
        })
    }
}

impl<S> Validate<S> {
    #[inline(always)]
    fn has_nothing_to_check(&self, visit: &CallScope<'_>) -> bool {
        // What the call was judged by says it better than the slot, where there was a reload.
        let checks_input = match (visit.policy, visit.lease) {
            (Some(terms), _) => terms.checks_input(),
            (None, Some(token)) => token.checks_input(),
            (None, None) => self.slot.checks_input(),
        };
        !checks_input && self.validators.is_empty()
    }

    fn check(&self, terms: &CallPolicy, request: &Request<'_>) -> Result<(), Error> {
        terms.check_length(&self.slot.name, request)?;
        terms.check_input(&self.slot.name, request)?;
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
