//! Rejects requests for an operation that the plugin has no permission for. Costs a null check if
//! the request names none, otherwise a lookup in a small set.

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
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        if scope.request.operation().is_none() {
            return self.inner.call(scope, reply);
        }
        self.check_and_call(scope, reply)
    }
}

impl<S: SyncService> Authorize<S> {
    #[inline(never)]
    fn check_and_call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.slot.with_policy(scope, |scope, policy| {
            policy.check_operation(&self.slot.name, scope.request)?;
            self.inner.call(scope, reply)
        })
    }
}

impl<S: AsyncService> AsyncService for Authorize<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        if scope.request.operation().is_none() {
            return self.inner.call_async(scope, reply).await;
        }
        let policy = scope.leased_policy().ok_or_else(|| self.slot.unloaded_error())?;
        policy.check_operation(&self.slot.name, scope.request)?;
        let scope = CallScope { policy: Some(policy), ..*scope };
        self.inner.call_async(&scope, reply).await
    }
}
