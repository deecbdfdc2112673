//! A queue as workers without a thread see it: they never sleep at it, and go home when there is
//! nothing to do.

use std::sync::Arc;

use super::job::Job;
use super::queue::Queue;
use super::queue_inner::{FinishedJob, QueueState, WorkerId};
use crate::sync::lock;

impl Queue {
    /// Ends what the worker was at, and takes the first work; with none, the worker goes home,
    /// and another is to be started for what comes.
    pub(crate) fn try_next(&self, seat: WorkerId) -> Option<Arc<dyn Job>> {
        self.finish_job(seat, true)
    }

    /// Ends what the worker was at; the worker goes home.
    pub(crate) fn deregister(&self, seat: WorkerId) {
        let none = self.finish_job(seat, false);
        debug_assert!(none.is_none(), "a worker that leaves takes nothing");
    }

    fn finish_job(&self, seat: WorkerId, goes_on: bool) -> Option<Arc<dyn Job>> {
        let mut inner = lock(&self.inner);
        let FinishedJob { job: ended, .. } = inner.finish_job(seat);
        if ended.is_some() && inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let work = if goes_on { inner.start_next_async(seat) } else { None };
        if work.is_none() && inner.epoch == seat.epoch {
            inner.workers -= 1;
        }
        drop(inner);
        // Not under the lock: it may be the last that holds a plugin's memory.
        drop(ended);
        work
    }
}
