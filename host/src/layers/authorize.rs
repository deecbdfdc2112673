//! Refuses requests that name an operation which the plugin was not granted. Costs a null check
//! where the request names none, and a look into a small set where it does.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{AsyncService, CallScope, Slot, SyncService};

#[derive(Debug)]
pub(crate) struct Authorize<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> Authorize<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: SyncService> SyncService for Authorize<S> {
    #[inline]
    fn call(&self, visit: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        if visit.request.named_operation().is_none() {
            return self.inner.call(visit, reply);
        }
        self.check_and_call(visit, reply)
    }
}

impl<S: SyncService> Authorize<S> {
    #[inline(never)]
    fn check_and_call(&self, visit: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.slot.with_policy(visit, |visit, terms| {
            terms.check_operation(&self.slot.name, visit.request)?;
            self.inner.call(visit, reply)
        })
    }
}

impl<S: AsyncService> AsyncService for Authorize<S> {
    async fn call_async<'a>(
        &'a self,
        visit: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        if visit.request.named_operation().is_none() {
            return self.inner.call_async(visit, reply).await;
        }
        let terms = visit.leased_policy().ok_or_else(|| self.slot.unloaded_error())?;
        terms.check_operation(&self.slot.name, visit.request)?;
        let visit = CallScope { policy: Some(terms), ..*visit };
        self.inner.call_async(&visit, reply).await
    }
}
