//! Counts calls and how they ended. Exact, and without a shared counter where calls succeed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::call::Reply;
use crate::error::{Error, ErrorKind};
use crate::slot::{Slot, Step, Visit};

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

impl<S: Step> Step for Meter<S> {
    #[inline]
    fn call(&self, visit: Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        let outcome = self.inner.call(visit, reply);
        self.slot.meter.count(&outcome);
        outcome
    }
}

impl crate::slot::Meter {
    /// Counts one call.
    #[inline]
    pub(crate) fn count(&self, outcome: &Result<(), Error>) {
        self.calls.add(1);
        if let Err(error) = outcome {
            self.count_error(error.kind());
        }
    }

    #[cold]
    fn count_error(&self, kind: ErrorKind) {
        let counter = match kind {
            ErrorKind::Panicked => &self.faults,
            ErrorKind::Quarantined
            | ErrorKind::Retired
            | ErrorKind::Input
            | ErrorKind::Overloaded
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Cancelled
            | ErrorKind::Denied
            | ErrorKind::Layer
            | ErrorKind::Shutdown => &self.refused,
            _ => &self.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
