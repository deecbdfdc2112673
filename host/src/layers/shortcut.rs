//! Spares a call the layers below that have nothing to do for it: nearly every one. Costs what
//! it looks at: two fields of the request and one word of the slot.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::generation::Token;
use crate::slot::{Pass, Slot, Step, Stride, Visit};

#[derive(Debug)]
pub(crate) struct Shortcut<S> {
    slot: Arc<Slot>,
    /// Whether the layers below always have something to do.
    is_closed: bool,
    inner: S,
}

impl<S> Shortcut<S> {
    pub(super) fn new(slot: Arc<Slot>, is_closed: bool, inner: S) -> Self {
        Self { slot, is_closed, inner }
    }
}

impl<S: Step> Step for Shortcut<S> {
    #[inline]
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if self.is_busy(visit) {
            return self.inner.call(visit, reply);
        }
        let outcome = self.slot.call(visit, reply);
        if outcome.is_err() {
            self.slot.judge_outcome(Pass::Usual, visit, &outcome);
        }
        outcome
    }
}

impl<S: Stride> Stride for Shortcut<S> {
    async fn stride<'a>(&'a self, visit: &'a Visit<'a>, reply: &'a mut Reply) -> Result<(), Error> {
        if self.is_busy(visit) {
            return self.inner.stride(visit, reply).await;
        }
        let outcome = self.slot.stride(visit, reply).await;
        if outcome.is_err() {
            self.slot.judge_outcome(Pass::Usual, visit, &outcome);
        }
        outcome
    }
}

impl<S> Shortcut<S> {
    /// Whether a layer below has something to do.
    #[inline(always)]
    fn is_busy(&self, visit: &Visit<'_>) -> bool {
        let is_busy = self.is_closed || !visit.request.is_plain() || !self.slot.is_calm();
        // A lease may be of another build than the one that the slot's word is about.
        is_busy || visit.lease.is_some_and(Token::checks_input)
    }
}
