//! A span around each call at debug level: plugin, generation, call id, and the ids of the
//! request's trace context. Costs one load if no subscriber is enabled.

use std::sync::Arc;

use tracing::field::{Empty, display};
use tracing::{Instrument as _, Level, Span};

use crate::call::ReplySlot;
use crate::error::Error;
use crate::id::Hex;
use crate::slot::{AsyncService, CallScope, Slot, SyncService};

#[derive(Debug)]
pub(crate) struct Trace<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> Trace<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: SyncService> SyncService for Trace<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        if tracing::level_enabled!(Level::DEBUG) {
            self.call_in_span(scope, reply)
        } else {
            self.inner.call(scope, reply)
        }
    }
}

impl<S: AsyncService> AsyncService for Trace<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut ReplySlot,
    ) -> Result<(), Error> {
        let is_enabled = tracing::level_enabled!(Level::DEBUG);
        let span = if is_enabled { self.span(scope) } else { Span::none() };
        let outcome = self.inner.call_async(scope, reply).instrument(span.clone()).await;
        if is_enabled {
            record_outcome(&span, scope, &outcome, reply);
        }
        outcome
    }
}

impl<S: SyncService> Trace<S> {
    #[cold]
    fn call_in_span(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        let span = self.span(scope);
        let outcome = span.in_scope(|| self.inner.call(scope, reply));
        record_outcome(&span, scope, &outcome, reply);
        outcome
    }
}

impl<S> Trace<S> {
    #[cold]
    fn span(&self, scope: &CallScope<'_>) -> Span {
        let span = tracing::debug_span!(
            "call",
            plugin = %self.slot.name,
            generation = Empty,
            call_id = scope.call_id,
            method = ?scope.method,
            operation = scope.request.operation(),
            bytes = scope.request.byte_len(),
            contract = Empty,
            contract_method = Empty,
            trace_id = Empty,
            span_id = Empty,
        );
        if let Some(trace) = scope.request.trace() {
            span.record("trace_id", display(Hex(&trace.trace_id)));
            span.record("span_id", display(Hex(&trace.span_id)));
        }
        if let Some((contract, method)) = scope.request.contract_method() {
            span.record("contract", contract);
            span.record("contract_method", method);
        }
        // Without a lease it is known only when the call has returned.
        if let Some(instance) = scope.lease {
            span.record("generation", instance.generation().id.get());
        }
        span
    }
}

/// Records the outcome of a call in its span.
fn record_outcome(
    span: &Span,
    scope: &CallScope<'_>,
    outcome: &Result<(), Error>,
    reply: &ReplySlot,
) {
    // The generation of a lease was recorded when the span was created; a field that is recorded
    // twice is printed twice.
    let is_leased = scope.lease.is_some();
    match outcome {
        Ok(()) if !is_leased => {
            span.record("generation", reply.generation().get());
        }
        Ok(()) => {}
        Err(error) => {
            if let Some(generation) = error.generation().filter(|_| !is_leased) {
                span.record("generation", generation.get());
            }
            span.in_scope(|| tracing::debug!(error = error.full_message(), "call failed"));
        }
    }
}
