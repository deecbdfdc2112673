//! Rejects calls while the plugin is quarantined, and records faults. Costs one load.

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
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        let admission = self.admit(scope)?;
        let outcome = self.inner.call(scope, reply);
        self.record_outcome(admission, scope, &outcome);
        outcome
    }
}

impl<S: AsyncService> AsyncService for CircuitBreaker<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        let admission = self.admit(scope)?;
        let outcome = self.inner.call_async(scope, reply).await;
        self.record_outcome(admission, scope, &outcome);
        outcome
    }
}

impl<S> CircuitBreaker<S> {
    #[inline]
    fn admit(&self, scope: &CallScope<'_>) -> Result<Admission, Error> {
        let admission = self.slot.admit(scope)?;
        if let (Admission::Probe(probe), Some(state)) = (&admission, scope.state) {
            state.mark_probe(probe.number);
        }
        Ok(admission)
    }

    #[inline]
    fn record_outcome(
        &self,
        admission: Admission,
        scope: &CallScope<'_>,
        outcome: &Result<(), Error>,
    ) {
        if !matches!((outcome, &admission), (Ok(()), Admission::Normal)) {
            self.slot.record_outcome(admission, scope, outcome);
        }
    }
}
