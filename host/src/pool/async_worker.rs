//! Workers without a thread: tasks on a runtime, each of which does what waits and then goes
//! home. None sleeps, so that none is there for nothing.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;

use super::panic::{drop_panic, panic_message};
use super::{Epoch, Job, JobOutcome, WorkSource, WorkerId};

/// Starts a worker for one epoch on `runtime`, which tells its work that it is of `generation`.
pub(crate) fn spawn_async_worker(
    runtime: &Handle,
    employer: Arc<dyn WorkSource>,
    epoch: Epoch,
    generation: u64,
) {
    let seat = Some(employer.register(epoch));
    let mut worker = Worker { employer, seat, work: None };
    runtime.spawn(async move {
        while let Some(work) = worker.next() {
            worker.run(work, generation).await;
        }
    });
}

/// A worker, which leaves its seat however it ends: a runtime that ends drops what it runs.
struct Worker {
    employer: Arc<dyn WorkSource>,
    /// None once it went home.
    seat: Option<WorkerId>,
    /// What it is at.
    work: Option<Arc<dyn Job>>,
}

impl Worker {
    fn next(&mut self) -> Option<Arc<dyn Job>> {
        let seat = self.seat.take()?;
        let work = Arc::clone(&self.employer).try_next(seat)?;
        (self.seat, self.work) = (Some(seat), Some(Arc::clone(&work)));
        Some(work)
    }

    async fn run(&mut self, work: Arc<dyn Job>, generation: u64) {
        let run = AssertUnwindSafe(async { Arc::clone(&work).run_async(generation).await });
        let ran = run.catch_unwind().await;
        self.work = None;
        match ran {
            Ok(JobOutcome::Completed) => {}
            Ok(JobOutcome::StaleEpoch) => {
                let Some(seat) = self.seat else { return };
                Arc::clone(&self.employer).requeue(seat, work);
                // Whoever changes the generation is not to be kept from it.
                tokio::task::yield_now().await;
            }
            // What unwinds out of work is not the plugin's, and no reason to stop.
            Err(payload) => {
                drop_panic(|| work.panicked());
                let message = panic_message(payload);
                tracing::error!(message, "work of the host's own panicked in a task");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            drop_panic(|| work.panicked());
        }
        if let Some(seat) = self.seat.take() {
            self.employer.deregister(seat);
        }
    }
}
