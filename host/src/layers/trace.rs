//! A span around each call, at debug level. Without a listener it costs one load.

use std::sync::Arc;

use tracing::Level;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{Slot, Step, Visit};

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

impl<S: Step> Step for Trace<S> {
    #[inline]
    fn call(&self, visit: Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if tracing::level_enabled!(Level::DEBUG) {
            self.traced(visit, reply)
        } else {
            self.inner.call(visit, reply)
        }
    }
}

impl<S: Step> Trace<S> {
    #[cold]
    fn traced(&self, visit: Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        let bytes = visit.request.as_bytes().len();
        let span = tracing::debug_span!("call", plugin = %self.slot.name, bytes);
        let outcome = span.in_scope(|| self.inner.call(visit, reply));
        if let Err(error) = &outcome {
            span.in_scope(|| tracing::debug!(error = error.full_message(), "call failed"));
        }
        outcome
    }
}
