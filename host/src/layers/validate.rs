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

use super::panicked;
use crate::call::{Reply, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::Terms;
use crate::slot::{Slot, Step, Stride, Visit};

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

    fn ask_the_application(&self, request: &Request<'_>) -> Result<(), Error> {
        for validator in &self.validators {
            let answer = catch_unwind(AssertUnwindSafe(|| validator(request)));
            let answer = answer.map_err(|payload| panicked(&self.slot, "a validator", payload))?;
            answer.map_err(|why| self.refused(why))?;
        }
        Ok(())
    }

    #[cold]
    fn refused(&self, mut why: String) -> Error {
        if let Some((end, _)) = why.char_indices().nth(MESSAGE_CHARS_MAX) {
            why.truncate(end);
            why.push('…');
        }
        let message = "was not called: the application does not accept the input";
        Error::new(ErrorKind::Input, message).caused_by(why).of(&self.slot.name)
    }
}

impl<S: Step> Step for Validate<S> {
    #[inline]
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if self.has_nothing_to_check(visit) {
            return self.inner.call(visit, reply);
        }
        self.judged(visit, reply)
    }
}

impl<S: Stride> Stride for Validate<S> {
    async fn stride<'a>(&'a self, visit: &'a Visit<'a>, reply: &'a mut Reply) -> Result<(), Error> {
        if self.has_nothing_to_check(visit) {
            return self.inner.stride(visit, reply).await;
        }
        let terms = visit.leased_terms().ok_or_else(|| self.slot.gone())?;
        self.judge(terms, visit.request)?;
        let visit = Visit { terms: Some(terms), ..*visit };
        self.inner.stride(&visit, reply).await
    }
}

impl<S: Step> Validate<S> {
    #[inline(never)]
    fn judged(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.slot.with_terms(visit, |visit, terms| {
            self.judge(terms, visit.request)?;
            self.inner.call(visit, reply)
        })
    }
}

impl<S> Validate<S> {
    #[inline(always)]
    fn has_nothing_to_check(&self, visit: &Visit<'_>) -> bool {
        // What the call was judged by says it better than the slot, where there was a reload.
        let checks_input = match (visit.terms, visit.lease) {
            (Some(terms), _) => terms.checks_input(),
            (None, Some(token)) => token.checks_input(),
            (None, None) => self.slot.checks_input(),
        };
        !checks_input && self.validators.is_empty()
    }

    fn judge(&self, terms: &Terms, request: &Request<'_>) -> Result<(), Error> {
        terms.judge_length(&self.slot.name, request)?;
        terms.judge_input(&self.slot.name, request)?;
        self.ask_the_application(request)
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
