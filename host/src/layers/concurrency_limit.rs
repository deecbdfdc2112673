//! Limits the number of concurrent calls (`limits.in_flight`). Costs one load without a limit; with
//! one, all callers share a counter.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{AsyncService, CallScope, Slot, SyncService};

#[derive(Debug)]
pub(crate) struct ConcurrencyLimit<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> ConcurrencyLimit<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: SyncService> SyncService for ConcurrencyLimit<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        if self.slot.limits_in_flight() {
            return self.call_limited(scope, reply);
        }
        self.inner.call(scope, reply)
    }
}

impl<S: SyncService> ConcurrencyLimit<S> {
    #[cold]
    fn call_limited(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        let _guard = self.slot.enter_in_flight()?;
        self.inner.call(scope, reply)
    }
}

impl<S: AsyncService> AsyncService for ConcurrencyLimit<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        // The calls of a batch were counted together.
        let is_counted = !self.slot.limits_in_flight() || scope.batch_slot.is_some();
        let _guard = if is_counted { None } else { self.slot.enter_in_flight()? };
        self.inner.call_async(scope, reply).await
    }
}
