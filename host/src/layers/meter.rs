//! Counts calls and their outcomes: exact, and without a shared counter for calls that succeed.
//! Times one call in 64 of each thread, because reading the clock costs as much as a call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::call::Reply;
use crate::error::{Error, ErrorKind};
use crate::slot::{AsyncService, CallScope, SAMPLED_ONE_IN, Slot, SyncService};
use crate::sync::LocalShard;

#[derive(Debug)]
pub(crate) struct Meter<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> Meter<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: SyncService> SyncService for Meter<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        let calls = self.slot.counters.calls.own();
        let is_timed = is_sampled(calls);
        let outcome =
            if is_timed { self.call_timed(scope, reply) } else { self.inner.call(scope, reply) };
        self.slot.counters.count(calls, scope, &outcome);
        outcome
    }
}

impl<S: AsyncService> AsyncService for Meter<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        let start = Instant::now();
        let outcome = self.inner.call_async(scope, reply).await;
        // The shard of the thread on which the call ends, which was unknown before.
        let calls = self.slot.counters.calls.own();
        if is_sampled(calls) {
            self.slot.counters.latencies.record(start.elapsed());
        }
        self.slot.counters.count(calls, scope, &outcome);
        outcome
    }
}

/// Returns whether this call is timed.
#[inline]
fn is_sampled(calls: LocalShard<'_>) -> bool {
    calls.get() & i64::from(SAMPLED_ONE_IN - 1) == 0
}

impl<S: SyncService> Meter<S> {
    #[cold]
    fn call_timed(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        let start = Instant::now();
        let outcome = self.inner.call(scope, reply);
        self.slot.counters.latencies.record(start.elapsed());
        outcome
    }
}

impl crate::slot::CallCounters {
    /// Counts one call.
    #[inline]
    fn count(&self, calls: LocalShard<'_>, scope: &CallScope<'_>, outcome: &Result<(), Error>) {
        calls.add(1);
        if let Err(error) = outcome {
            self.count_error(scope, error);
        }
    }

    #[cold]
    fn count_error(&self, scope: &CallScope<'_>, error: &Error) {
        let counter = match error.kind() {
            // It reached the plugin. Timeouts are counted when they are noticed.
            ErrorKind::DeadlineExceeded | ErrorKind::Cancelled | ErrorKind::Retired
                if error.generation().is_some() =>
            {
                return;
            }
            // The timer may have counted it already.
            ErrorKind::DeadlineExceeded
                if scope.state.is_some_and(|state| !state.count_timeout_once()) =>
            {
                return;
            }
            ErrorKind::Panicked => &self.faults,
            ErrorKind::Quarantined
            | ErrorKind::Retired
            | ErrorKind::InvalidInput
            | ErrorKind::Overloaded
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Cancelled
            | ErrorKind::PermissionDenied
            | ErrorKind::LayerPanicked
            | ErrorKind::Shutdown => &self.refused,
            _ => &self.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
