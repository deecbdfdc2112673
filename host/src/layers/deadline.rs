//! Refuses calls that nobody waits for any more. Costs two loads where the request names neither
//! a deadline nor a token, and a look at the clock where it names a deadline.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{Slot, Step, Stride, Visit};

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

impl<S: Step> Step for Deadline<S> {
    #[inline]
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if visit.request.is_bounded() {
            self.slot.is_still_wanted(visit.request)?;
        }
        self.inner.call(visit, reply)
    }
}

impl<S: Stride> Stride for Deadline<S> {
    async fn stride<'a>(&'a self, visit: &'a Visit<'a>, reply: &'a mut Reply) -> Result<(), Error> {
        if visit.request.is_bounded() {
            self.slot.is_still_wanted(visit.request)?;
        }
        self.inner.stride(visit, reply).await
    }
}
