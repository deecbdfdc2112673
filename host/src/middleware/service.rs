//! What a middleware is, and the service that it forms with the one inside it. A call runs on the
//! caller's thread or as a future; a middleware is written once for both.

use hotbay_plugin::Fault;

use crate::call::ReplySlot;
use crate::error::{Error, ErrorKind};
use crate::slot::{AsyncService, CallScope, Slot, SyncService};

/// Code before and after a call.
pub(super) trait Middleware: Send + Sync {
    /// Held while the inner call runs, and dropped when the future of the call is dropped.
    type Guard<'c>: Send;

    /// Runs before the inner call, and rejects the call with an error.
    fn before<'c>(
        &'c self,
        scope: &CallScope<'c>,
        reply: &mut ReplySlot,
    ) -> Result<Before<Self::Guard<'c>>, Error>;

    /// Returns the scope of the inner call, if it differs.
    #[inline(always)]
    fn inner_scope<'c>(
        _guard: &'c Self::Guard<'_>,
        _scope: &CallScope<'c>,
    ) -> Option<CallScope<'c>> {
        None
    }

    /// Runs after the inner call.
    #[inline(always)]
    fn after(
        &self,
        _guard: Self::Guard<'_>,
        _scope: &CallScope<'_>,
        _reply: &ReplySlot,
        _outcome: &Result<(), Error>,
    ) {
    }
}

/// What a middleware decided before the inner call.
#[must_use]
pub(super) enum Before<G> {
    /// The inner call runs.
    Continue(G),
    /// The middleware filled the reply, so no inner call runs.
    Answered,
}

/// A middleware around a service.
#[derive(Debug)]
pub(crate) struct Layered<M, S> {
    middleware: M,
    inner: S,
}

impl<M, S> Layered<M, S> {
    pub(super) fn new(middleware: M, inner: S) -> Self {
        Self { middleware, inner }
    }
}

impl<M: Middleware, S: SyncService> SyncService for Layered<M, S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        let guard = match self.middleware.before(scope, reply)? {
            Before::Continue(guard) => guard,
            Before::Answered => return Ok(()),
        };
        let outcome = match M::inner_scope(&guard, scope) {
            None => self.inner.call(scope, reply),
            Some(scope) => self.inner.call(&scope, reply),
        };
        self.middleware.after(guard, scope, reply, &outcome);
        outcome
    }
}

impl<M: Middleware, S: AsyncService> AsyncService for Layered<M, S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut ReplySlot,
    ) -> Result<(), Error> {
        let guard = match self.middleware.before(scope, reply)? {
            Before::Continue(guard) => guard,
            Before::Answered => return Ok(()),
        };
        let outcome = {
            let inner_scope = M::inner_scope(&guard, scope).unwrap_or(*scope);
            self.inner.call_async(&inner_scope, reply).await
        };
        self.middleware.after(guard, scope, reply, &outcome);
        outcome
    }
}

/// Returns the error of a call during which `what` of the application panicked.
#[cold]
pub(super) fn panic_error(slot: &Slot, what: &str, fault: Fault) -> Error {
    let message = format!("did not complete the call: {what} of the application failed");
    Error::new(ErrorKind::LayerPanicked, message).caused_by(fault).of(&slot.name)
}
