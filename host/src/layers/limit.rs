//! Bounds the calls that run at once: `limits.in_flight`. Costs one load where there is no
//! limit; where there is one, all callers count in one place.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{Slot, Step, Stride, Visit};

#[derive(Debug)]
pub(crate) struct Limit<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> Limit<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: Step> Step for Limit<S> {
    #[inline]
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if self.slot.limits_in_flight() {
            return self.limited(visit, reply);
        }
        self.inner.call(visit, reply)
    }
}

impl<S: Step> Limit<S> {
    #[cold]
    fn limited(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        let _entered = self.slot.enter()?;
        self.inner.call(visit, reply)
    }
}

impl<S: Stride> Stride for Limit<S> {
    async fn stride<'a>(&'a self, visit: &'a Visit<'a>, reply: &'a mut Reply) -> Result<(), Error> {
        // The calls of a group were counted together.
        let is_counted = !self.slot.limits_in_flight() || visit.place.is_some();
        let _entered = if is_counted { None } else { self.slot.enter()? };
        self.inner.stride(visit, reply).await
    }
}
