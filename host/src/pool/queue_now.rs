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
    pub(crate) fn try_next(&self, worker: WorkerId) -> Option<Arc<dyn Job>> {
        self.finish_job(worker, true)
    }

    /// Ends what the worker was at; the worker goes home.
    pub(crate) fn deregister(&self, worker: WorkerId) {
        let none = self.finish_job(worker, false);
        debug_assert!(none.is_none(), "a worker that leaves takes nothing");
    }

    fn finish_job(&self, worker: WorkerId, goes_on: bool) -> Option<Arc<dyn Job>> {
        let mut inner = lock(&self.inner);
        let FinishedJob { job: ended, .. } = inner.finish_job(worker);
        if ended.is_some() && inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let job = if goes_on { inner.start_next_async(worker) } else { None };
        if job.is_none() && inner.epoch == worker.epoch {
            inner.workers -= 1;
        }
        drop(inner);
        // Not under the lock: it may be the last that holds a plugin's memory.
        drop(ended);
        job
    }
}
