//! Skips the middleware below if none of them has anything to do for a call, which is the usual case.
//! Costs a check of two fields of the request and one word of the slot.

use std::sync::Arc;

use crate::call::ReplySlot;
use crate::error::Error;
use crate::generation::InstanceRef;
use crate::slot::{Admission, AsyncService, CallScope, Slot, SyncService};

#[derive(Debug)]
pub(crate) struct FastPath<S> {
    slot: Arc<Slot>,
    /// Whether a middleware below always has something to do.
    is_disabled: bool,
    inner: S,
}

impl<S> FastPath<S> {
    pub(super) fn new(slot: Arc<Slot>, is_disabled: bool, inner: S) -> Self {
        Self { slot, is_disabled, inner }
    }
}

impl<S: SyncService> SyncService for FastPath<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        if self.needs_slow_path(scope) {
            return self.inner.call(scope, reply);
        }
        let outcome = self.slot.call(scope, reply);
        if outcome.is_err() {
            self.slot.record_outcome(Admission::Normal, scope, &outcome);
        }
        outcome
    }
}

impl<S: AsyncService> AsyncService for FastPath<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut ReplySlot,
    ) -> Result<(), Error> {
        if self.needs_slow_path(scope) {
            return self.inner.call_async(scope, reply).await;
        }
        let outcome = self.slot.call_async(scope, reply).await;
        if outcome.is_err() {
            self.slot.record_outcome(Admission::Normal, scope, &outcome);
        }
        outcome
    }
}

impl<S> FastPath<S> {
    /// Returns whether a layer below has something to do.
    #[inline(always)]
    fn needs_slow_path(&self, scope: &CallScope<'_>) -> bool {
        let needs_check =
            self.is_disabled || !scope.request.is_plain() || !self.slot.fast_path_ok();
        // A lease may be of another generation than the one that the slot's flags describe.
        needs_check || scope.lease.is_some_and(InstanceRef::checks_input)
    }
}
