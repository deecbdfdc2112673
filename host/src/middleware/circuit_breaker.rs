//! Rejects calls while the plugin is quarantined, and records faults. Costs one load.

use std::sync::Arc;

use super::service::{Before, Middleware};
use crate::call::ReplySlot;
use crate::error::Error;
use crate::slot::{Admission, CallScope, Slot};

#[derive(Debug)]
pub(crate) struct CircuitBreaker(pub(super) Arc<Slot>);

impl Middleware for CircuitBreaker {
    type Guard<'c> = Admission;

    #[inline]
    fn before<'c>(
        &'c self,
        scope: &CallScope<'c>,
        _: &mut ReplySlot,
    ) -> Result<Before<Admission>, Error> {
        let admission = self.0.admit(scope)?;
        if let (Admission::Probe(probe), Some(state)) = (&admission, scope.state) {
            state.mark_probe(probe.number);
        }
        Ok(Before::Continue(admission))
    }

    #[inline]
    fn after(
        &self,
        admission: Admission,
        scope: &CallScope<'_>,
        _: &ReplySlot,
        outcome: &Result<(), Error>,
    ) {
        if !matches!((outcome, &admission), (Ok(()), Admission::Normal)) {
            self.0.record_outcome(admission, scope, outcome);
        }
    }
}
