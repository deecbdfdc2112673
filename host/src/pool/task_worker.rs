//! Workers without a thread: tasks on a runtime, each of which does what waits and then goes
//! home. None sleeps, so that none is there for nothing.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;

use super::quiet::{message_of, quietly};
use super::{Employer, Epoch, Ran, Seat, Work};

/// Starts a worker for one epoch on `runtime`, which tells its work that it is of `generation`.
pub(crate) fn hire_on(
    runtime: &Handle,
    employer: Arc<dyn Employer>,
    epoch: Epoch,
    generation: u64,
) {
    let seat = Some(employer.sit(epoch));
    let mut worker = Worker { employer, seat, work: None };
    runtime.spawn(async move {
        while let Some(work) = worker.next() {
            worker.run(work, generation).await;
        }
    });
}

/// A worker, which leaves its seat however it ends: a runtime that ends drops what it runs.
struct Worker {
    employer: Arc<dyn Employer>,
    /// None once it went home.
    seat: Option<Seat>,
    /// What it is at.
    work: Option<Arc<dyn Work>>,
}

impl Worker {
    fn next(&mut self) -> Option<Arc<dyn Work>> {
        let seat = self.seat.take()?;
        let work = Arc::clone(&self.employer).next_now(seat)?;
        (self.seat, self.work) = (Some(seat), Some(Arc::clone(&work)));
        Some(work)
    }

    async fn run(&mut self, work: Arc<dyn Work>, generation: u64) {
        let run = AssertUnwindSafe(async { Arc::clone(&work).run_later(generation).await });
        let ran = run.catch_unwind().await;
        self.work = None;
        match ran {
            Ok(Ran::Done) => {}
            Ok(Ran::NotHere) => {
                let Some(seat) = self.seat else { return };
                Arc::clone(&self.employer).hand_back(seat, work);
                // Whoever changes the generation is not to be kept from it.
                tokio::task::yield_now().await;
            }
            // What unwinds out of work is not the plugin's, and no reason to stop.
            Err(payload) => {
                quietly(|| work.broke());
                let message = message_of(payload);
                tracing::error!(message, "work of the host's own panicked in a task");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            quietly(|| work.broke());
        }
        if let Some(seat) = self.seat.take() {
            self.employer.leave(seat);
        }
    }
}
