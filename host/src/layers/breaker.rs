//! Refuses calls while the plugin is quarantined, and reports faults. Costs one load.

use std::sync::Arc;

use crate::call::Reply;
use crate::error::Error;
use crate::slot::{Pass, Slot, Step, Stride, Visit};

#[derive(Debug)]
pub(crate) struct Breaker<S> {
    slot: Arc<Slot>,
    inner: S,
}

impl<S> Breaker<S> {
    pub(super) fn new(slot: Arc<Slot>, inner: S) -> Self {
        Self { slot, inner }
    }
}

impl<S: Step> Step for Breaker<S> {
    #[inline]
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        let pass = self.admit(visit)?;
        let outcome = self.inner.call(visit, reply);
        self.judge(pass, visit, &outcome);
        outcome
    }
}

impl<S: Stride> Stride for Breaker<S> {
    async fn stride<'a>(&'a self, visit: &'a Visit<'a>, reply: &'a mut Reply) -> Result<(), Error> {
        let pass = self.admit(visit)?;
        let outcome = self.inner.stride(visit, reply).await;
        self.judge(pass, visit, &outcome);
        outcome
    }
}

impl<S> Breaker<S> {
    #[inline]
    fn admit(&self, visit: &Visit<'_>) -> Result<Pass, Error> {
        let pass = self.slot.admit(visit)?;
        if let (Pass::Probe(probe), Some(standing)) = (&pass, visit.standing) {
            standing.be_probe(probe.number);
        }
        Ok(pass)
    }

    #[inline]
    fn judge(&self, pass: Pass, visit: &Visit<'_>, outcome: &Result<(), Error>) {
        if !matches!((outcome, &pass), (Ok(()), Pass::Usual)) {
            self.slot.judge_outcome(pass, visit, outcome);
        }
    }
}
