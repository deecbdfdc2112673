//! A queue as workers without a thread see it: they never sleep at it, and go home when there is
//! nothing to do.

use std::sync::Arc;

use super::line::{Gate, Risen, Seat};
use super::queue::Queue;
use super::work::Work;
use crate::sync::lock;

impl Queue {
    /// Ends what the worker was at, and takes the first work; with none, the worker goes home,
    /// and another is to be started for what comes.
    pub(crate) fn take_now(&self, seat: Seat) -> Option<Arc<dyn Work>> {
        self.rise(seat, true)
    }

    /// Ends what the worker was at; the worker goes home.
    pub(crate) fn leave(&self, seat: Seat) {
        let none = self.rise(seat, false);
        debug_assert!(none.is_none(), "a worker that leaves takes nothing");
    }

    fn rise(&self, seat: Seat, goes_on: bool) -> Option<Arc<dyn Work>> {
        let mut inner = lock(&self.inner);
        let Risen { ended, .. } = inner.rise(seat);
        if ended.is_some() && inner.gate != Gate::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let work = if goes_on { inner.begin_task(seat) } else { None };
        if work.is_none() && inner.epoch == seat.epoch {
            inner.workers -= 1;
        }
        drop(inner);
        // Not under the lock: it may be the last that holds a plugin's memory.
        drop(ended);
        work
    }
}
