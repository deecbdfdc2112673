//! Rejects calls that were cancelled or whose deadline has passed. Costs two loads if the request
//! has neither token nor deadline, and reads the clock if it has a deadline.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{AsyncService, CallScope, Slot, SyncService};

#[derive(Debug)]
pub(crate) struct Deadline<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> Deadline<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: SyncService> SyncService for Deadline<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        if scope.request.is_bounded() {
            self.slot.check_active(scope.request)?;
        }
        self.inner.call(scope, reply)
    }
}

impl<S: AsyncService> AsyncService for Deadline<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        if scope.request.is_bounded() {
            self.slot.check_active(scope.request)?;
        }
        self.inner.call_async(scope, reply).await
    }
}
