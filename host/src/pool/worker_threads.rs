//! The threads of one owner: workers at a queue, and errands that are waited for. All of them
//! are joined before the owner lets go of what they ran.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use tokio::sync::oneshot;

use super::{Epoch, Job, JobOutcome, OpeningThread, WorkerId};
use crate::panic::{catch_panic, drop_panic};
use crate::sync::{deadline_in, lock};

/// Whoever has work for workers.
pub(crate) trait WorkSource: Send + Sync {
    /// A place for a worker of `epoch`.
    fn register(&self, epoch: Epoch) -> WorkerId;
    /// What a worker does next; none: it goes home.
    fn next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>>;
    /// As [`next`](Self::next), but returns `None` at once when nothing is queued.
    fn try_next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>>;
    /// A worker that never sleeps goes home, whatever it was at.
    fn deregister(&self, worker: WorkerId);
    /// Whether its work may run as tasks.
    fn supports_async(&self) -> bool;
    /// Takes work back that could not be done on this worker.
    fn requeue(self: Arc<Self>, worker: WorkerId, job: Arc<dyn Job>);
}

/// Threads under one name that end together.
pub(crate) struct WorkerThreads {
    name: String,
    stack_bytes: usize,
    /// Threads at the queue at once.
    pub(crate) max_workers: u32,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// How an errand ended.
#[must_use]
pub(crate) enum RunOutcome<T> {
    /// With this.
    Completed(T),
    /// It still runs; its thread is kept.
    TimedOut,
    /// The system gave no thread for it.
    SpawnFailed(io::Error),
}

impl WorkerThreads {
    /// Creates a set without threads. `name` is what debuggers show.
    pub(crate) fn new(name: String, stack_bytes: u64, max_workers: u32) -> Self {
        Self {
            name,
            stack_bytes: usize::try_from(stack_bytes).unwrap_or(usize::MAX),
            max_workers,
            threads: Mutex::default(),
        }
    }

    /// Runs `errand` on a thread of its own and waits for it, at most `wait_max`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> RunOutcome<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let spawned = self.builder().spawn(move || {
            let _ = sender.send(errand());
        });
        let thread = match spawned {
            Ok(thread) => thread,
            Err(error) => return RunOutcome::SpawnFailed(error),
        };
        match receiver.recv_timeout(timeout) {
            Ok(done) => {
                // Thread-locals of the errand are gone after this.
                let _ = thread.join();
                RunOutcome::Completed(done)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.add(thread);
                RunOutcome::TimedOut
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let _ = thread.join();
                RunOutcome::SpawnFailed(io::Error::other("its thread ended without a word"))
            }
        }
    }

    /// Starts a thread that is to open a library. It is not one of those that are joined here.
    pub(crate) fn opening_thread(&self) -> io::Result<OpeningThread> {
        OpeningThread::spawn(self.builder())
    }

    /// Runs `errand` on a thread of its own; the ticket waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<oneshot::Receiver<T>> {
        let (sender, receiver) = oneshot::channel();
        let thread = self.builder().spawn(move || {
            let _ = sender.send(errand());
        })?;
        self.add(thread);
        Ok(receiver)
    }

    /// Starts a worker for one epoch, which tells its work that it is of `generation`.
    pub(crate) fn spawn_worker(
        &self,
        source: Arc<dyn WorkSource>,
        epoch: Epoch,
        generation: u64,
    ) -> io::Result<()> {
        let thread = self.builder().spawn(move || {
            let worker = source.register(epoch);
            while let Some(job) = Arc::clone(&source).next(worker) {
                match catch_panic(|| Arc::clone(&job).run(generation)) {
                    Ok(JobOutcome::Completed) => {}
                    Ok(JobOutcome::StaleEpoch) => Arc::clone(&source).requeue(worker, job),
                    // What unwinds out of work is not the plugin's, and no reason to stop.
                    Err(message) => {
                        drop_panic(|| job.panicked());
                        tracing::error!(message, "work of the host's own panicked on a worker");
                    }
                }
            }
        })?;
        self.add(thread);
        Ok(())
    }

    fn add(&self, thread: JoinHandle<()>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Joins the threads that end within `wait_max`; tells how many still run.
    pub(crate) fn join(&self, timeout: Duration) -> usize {
        let deadline = deadline_in(timeout);
        let mut left = std::mem::take(&mut *lock(&self.threads));
        loop {
            let (ended, running): (Vec<_>, Vec<_>) =
                left.into_iter().partition(JoinHandle::is_finished);
            for thread in ended {
                let _ = thread.join();
            }
            left = running;
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
            // std has no join with a limit.
            std::thread::sleep(Duration::from_micros(200));
        }
        let count = left.len();
        lock(&self.threads).append(&mut left);
        count
    }

    fn builder(&self) -> Builder {
        Builder::new().name(self.name.clone()).stack_size(self.stack_bytes)
    }
}

impl fmt::Debug for WorkerThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("name", &self.name).finish_non_exhaustive()
    }
}
