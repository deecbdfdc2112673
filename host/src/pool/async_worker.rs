//! Workers without a thread: tasks on a runtime, each of which runs queued jobs and exits when
//! nothing is queued. None of them waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;

use super::{Epoch, Job, JobOutcome, WorkSource, WorkerId};
use crate::panic::{drop_panic, panic_message};

/// Starts a worker for one epoch on `runtime`; its jobs run on `generation`.
pub(crate) fn spawn_async_worker(
    runtime: &Handle,
    source: Arc<dyn WorkSource>,
    epoch: Epoch,
    generation: u64,
) {
    let worker = Some(source.register(epoch));
    let mut worker = Worker { source, worker, job: None };
    runtime.spawn(async move {
        while let Some(job) = worker.next() {
            worker.run(job, generation).await;
        }
    });
}

/// A worker. Deregisters however it ends: a runtime that shuts down drops its tasks.
struct Worker {
    source: Arc<dyn WorkSource>,
    /// `None` once it has deregistered.
    worker: Option<WorkerId>,
    /// The running job.
    job: Option<Arc<dyn Job>>,
}

impl Worker {
    fn next(&mut self) -> Option<Arc<dyn Job>> {
        let worker = self.worker.take()?;
        let job = Arc::clone(&self.source).try_next(worker)?;
        (self.worker, self.job) = (Some(worker), Some(Arc::clone(&job)));
        Some(job)
    }

    async fn run(&mut self, job: Arc<dyn Job>, generation: u64) {
        let run = AssertUnwindSafe(async { Arc::clone(&job).run_async(generation).await });
        let outcome = run.catch_unwind().await;
        self.job = None;
        match outcome {
            Ok(JobOutcome::Completed) => {}
            Ok(JobOutcome::StaleEpoch) => {
                let Some(worker) = self.worker else { return };
                Arc::clone(&self.source).requeue(worker, job);
                // Gives way to the task that changes the generation.
                tokio::task::yield_now().await;
            }
            // The plugin's panics are caught elsewhere: this one is a bug of the host.
            Err(payload) => {
                drop_panic(|| job.panicked());
                let message = panic_message(payload);
                tracing::error!(message, "a job panicked in a task");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            drop_panic(|| job.panicked());
        }
        if let Some(worker) = self.worker.take() {
            self.source.deregister(worker);
        }
    }
}
