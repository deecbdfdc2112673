//! Refuses calls that nobody waits for any more. Costs two loads where the request names neither
//! a deadline nor a token, and a look at the clock where it names a deadline.

use std::sync::Arc;
use std::time::Instant;

use crate::call::Reply;
use crate::error::{Error, ErrorKind};
use crate::slot::{Slot, Step, Visit};

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
    fn call(&self, visit: Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if visit.request.is_bounded() {
            self.check(&visit)?;
        }
        self.inner.call(visit, reply)
    }
}

impl<S> Deadline<S> {
    fn check(&self, visit: &Visit<'_>) -> Result<(), Error> {
        if visit.request.is_taken_back() {
            let message = "was not called: its caller took the call back";
            return Err(Error::new(ErrorKind::Cancelled, message).of(&self.slot.name));
        }
        match visit.request.deadline() {
            Some(deadline) if deadline <= Instant::now() => {
                Err(self.slot.late("was not called: the deadline had passed"))
            }
            _ => Ok(()),
        }
    }
}
