//! The workers of one owner: threads at a queue, threads for single jobs, and workers that are tasks
//! of a runtime and exit when nothing is queued. All threads are joined before
//! the owner unloads the code that they ran.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{Epoch, Job, JobOutcome, OpeningThread, WorkerId};
use crate::panic::{catch_panic, drop_panic, panic_message};
use crate::sync::{deadline_in, lock};

/// A source of jobs for workers.
pub(crate) trait WorkSource: Send + Sync {
    /// Returns an id for a worker of `epoch`.
    fn register(&self, epoch: Epoch) -> WorkerId;
    /// Finishes the worker's job and waits for the next one; `None` if the worker must exit.
    fn next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>>;
    /// Takes a job like [`next`](Self::next), but returns `None` at once when nothing is queued.
    fn try_next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>>;
    /// Deregisters a worker that never sleeps, whatever it runs.
    fn deregister(&self, worker: WorkerId);
    /// Returns whether its jobs may run as tasks.
    fn supports_async(&self) -> bool;
    /// Takes a job back that could not run on this worker.
    fn requeue(self: Arc<Self>, worker: WorkerId, job: Arc<dyn Job>);
}

/// A set of threads with the same name.
pub(crate) struct WorkerThreads {
    name: String,
    stack_bytes: usize,
    /// Maximum number of workers.
    pub(crate) max_workers: u32,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The outcome of a job on its own thread.
#[must_use]
pub(crate) enum RunOutcome<T> {
    /// It returned this.
    Completed(T),
    /// It is still running; its thread is kept.
    TimedOut,
    /// Its thread could not be started.
    SpawnFailed(io::Error),
}

impl WorkerThreads {
    /// Creates an empty set. `name` is what debuggers show.
    pub(crate) fn new(name: String, stack_bytes: u64, max_workers: u32) -> Self {
        Self {
            name,
            stack_bytes: usize::try_from(stack_bytes).unwrap_or(usize::MAX),
            max_workers,
            threads: Mutex::default(),
        }
    }

    /// Runs `job` on a new thread and waits for it, at most `timeout`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> RunOutcome<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let spawned = self.builder().spawn(move || {
            let _ = sender.send(job());
        });
        let thread = match spawned {
            Ok(thread) => thread,
            Err(error) => return RunOutcome::SpawnFailed(error),
        };
        match receiver.recv_timeout(timeout) {
            Ok(result) => {
                // Runs the destructors of the thread's thread-locals.
                let _ = thread.join();
                RunOutcome::Completed(result)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.add(thread);
                RunOutcome::TimedOut
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let _ = thread.join();
                let error = io::Error::other("the thread exited without returning a result");
                RunOutcome::SpawnFailed(error)
            }
        }
    }

    /// Starts a thread to open a library. It is not joined with the others.
    pub(crate) fn opening_thread(&self) -> io::Result<OpeningThread> {
        OpeningThread::spawn(self.builder())
    }

    /// Runs `job` on a new thread; the receiver returns its result.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<oneshot::Receiver<T>> {
        let (sender, receiver) = oneshot::channel();
        let thread = self.builder().spawn(move || {
            let _ = sender.send(job());
        })?;
        self.add(thread);
        Ok(receiver)
    }

    /// Starts a worker for one epoch; its jobs run on `generation`.
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
                    // The plugin's panics are caught elsewhere: this one is a bug of the host.
                    Err(message) => {
                        drop_panic(|| job.panicked());
                        tracing::error!(message, "a job panicked on a worker");
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

    /// Joins the threads that exit within `timeout`; returns how many are still running.
    pub(crate) fn join(&self, timeout: Duration) -> usize {
        let deadline = deadline_in(timeout);
        let mut left = std::mem::take(&mut *lock(&self.threads));
        loop {
            let (exited, running): (Vec<_>, Vec<_>) =
                left.into_iter().partition(JoinHandle::is_finished);
            for thread in exited {
                let _ = thread.join();
            }
            left = running;
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
            // std has no join with a time limit.
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
        f.debug_struct("WorkerThreads").field("name", &self.name).finish_non_exhaustive()
    }
}

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
