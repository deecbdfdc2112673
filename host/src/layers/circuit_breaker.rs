//! Refuses calls while the plugin is quarantined, and reports faults. Costs one load.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{Admission, AsyncService, CallScope, Slot, SyncService};

#[derive(Debug)]
pub(crate) struct CircuitBreaker<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> CircuitBreaker<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: SyncService> SyncService for CircuitBreaker<S> {
    #[inline]
    fn call(&self, visit: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        let pass = self.admit(visit)?;
        let outcome = self.inner.call(visit, reply);
        self.record_outcome(pass, visit, &outcome);
        outcome
    }
}

impl<S: AsyncService> AsyncService for CircuitBreaker<S> {
    async fn call_async<'a>(
        &'a self,
        visit: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        let pass = self.admit(visit)?;
        let outcome = self.inner.call_async(visit, reply).await;
        self.record_outcome(pass, visit, &outcome);
        outcome
    }
}

impl<S> CircuitBreaker<S> {
    #[inline]
    fn admit(&self, visit: &CallScope<'_>) -> Result<Admission, Error> {
        let pass = self.slot.admit(visit)?;
        if let (Admission::Probe(probe), Some(standing)) = (&pass, visit.state) {
            standing.mark_probe(probe.number);
        }
        Ok(pass)
    }

    #[inline]
    fn record_outcome(&self, pass: Admission, visit: &CallScope<'_>, outcome: &Result<(), Error>) {
        if !matches!((outcome, &pass), (Ok(()), Admission::Normal)) {
            self.slot.record_outcome(pass, visit, outcome);
        }
    }
}
