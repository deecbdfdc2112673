//! Refuses requests that name an operation which the plugin was not granted. Costs a null check
//! where the request names none, and a look into a small set where it does.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{Slot, Step, Stride, Visit};

#[derive(Debug)]
pub(crate) struct Permit<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> Permit<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: Step> Step for Permit<S> {
    #[inline]
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if visit.request.named_operation().is_none() {
            return self.inner.call(visit, reply);
        }
        self.judged(visit, reply)
    }
}

impl<S: Step> Permit<S> {
    #[inline(never)]
    fn judged(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.slot.with_terms(visit, |visit, terms| {
            terms.judge_operation(&self.slot.name, visit.request)?;
            self.inner.call(visit, reply)
        })
    }
}

impl<S: Stride> Stride for Permit<S> {
    async fn stride<'a>(&'a self, visit: &'a Visit<'a>, reply: &'a mut Reply) -> Result<(), Error> {
        if visit.request.named_operation().is_none() {
            return self.inner.stride(visit, reply).await;
        }
        let terms = visit.leased_terms().ok_or_else(|| self.slot.gone())?;
        terms.judge_operation(&self.slot.name, visit.request)?;
        let visit = Visit { terms: Some(terms), ..*visit };
        self.inner.stride(&visit, reply).await
    }
}
