//! The queue as seen by workers without a thread, which never wait.

use std::sync::Arc;

use super::job::Job;
use super::queue::Queue;
use super::queue_inner::{FinishedJob, QueueState, WorkerId};
use crate::sync::lock;

impl Queue {
    /// Finishes the worker's job and starts the next one. Without one, the worker is deregistered
    /// and must exit.
    pub(crate) fn try_next(&self, worker: WorkerId) -> Option<Arc<dyn Job>> {
        self.finish_and_start(worker, true)
    }

    /// Finishes the worker's job and deregisters the worker.
    pub(crate) fn deregister(&self, worker: WorkerId) {
        let none = self.finish_and_start(worker, false);
        debug_assert!(none.is_none(), "a worker that exits takes no job");
    }

    fn finish_and_start(&self, worker: WorkerId, starts_next: bool) -> Option<Arc<dyn Job>> {
        let mut inner = lock(&self.inner);
        let FinishedJob { job: finished, .. } = inner.finish_job(worker);
        if finished.is_some() && inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let job = if starts_next { inner.start_next_async(worker) } else { None };
        if job.is_none() && inner.epoch == worker.epoch {
            inner.workers -= 1;
        }
        drop(inner);
        // Not under the lock: it may be the last that holds a plugin's memory.
        drop(finished);
        job
    }
}
