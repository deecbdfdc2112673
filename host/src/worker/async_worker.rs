//! Workers that are tasks of a runtime and exit when nothing is queued. A job that has its caller's
//! runtime is a task of that, so that its result changes no thread. The task moves to the host's
//! runtime if the other one shuts down or does not poll it, for example because the caller blocks
//! its thread. Cancelling such a job ends it on the thread that cancels it.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::FutureExt as _;
use futures_util::task::AtomicWaker;
use tokio::runtime::Handle;

use super::caller_runtime::CallerTask;
use super::job::{Job, JobFuture, JobOutcome};
use super::queue_inner::{Epoch, WorkerId};
use super::worker_threads::WorkSource;
use crate::panic::{catch_panic, drop_panic, panic_message};
use crate::sync::lock;

/// Starts a worker for one epoch whose jobs run as tasks, on `generation`: of the caller's runtime
/// if a job has one, else of `host`. `job` is the queued job that needs the worker, if it is known.
pub(crate) fn spawn_async_worker(
    host: &Handle,
    source: Arc<dyn WorkSource>,
    epoch: Epoch,
    generation: u64,
    job: Option<&Arc<dyn Job>>,
) {
    let worker = Some(source.register(epoch));
    let worker = Worker { source, worker, job: None };
    if job.is_some_and(|job| job.caller_runtime().is_some()) {
        worker.start_next(generation, host);
    } else {
        worker.spawn(generation, host);
    }
}

/// A worker without a thread. Deregisters however it ends: a runtime that shuts down drops its
/// tasks.
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

    /// Takes the next job on this thread and starts it.
    fn start_next(mut self, generation: u64, host: &Handle) {
        match self.next() {
            Some(job) if job.caller_runtime().is_some() => {
                SharedTask::start(self, job, generation, host);
            }
            Some(job) => {
                let runtime = host.clone();
                host.spawn(async move {
                    self.run(job, generation).await;
                    self.work(generation, runtime).await;
                });
            }
            None => {}
        }
    }

    /// Takes the next job in a task of `host`.
    fn spawn(self, generation: u64, host: &Handle) {
        host.spawn(self.work(generation, host.clone()));
    }

    async fn work(mut self, generation: u64, host: Handle) {
        while let Some(job) = self.next() {
            if job.caller_runtime().is_some() {
                return SharedTask::start(self, job, generation, &host);
            }
            self.run(job, generation).await;
        }
    }

    async fn run(&mut self, job: Arc<dyn Job>, generation: u64) {
        let run = AssertUnwindSafe(async { Arc::clone(&job).run_async(generation).await });
        let outcome = run.catch_unwind().await.map_err(panic_message);
        if !self.finish(job, outcome) {
            // Gives way to the task that changes the generation.
            tokio::task::yield_now().await;
        }
    }

    /// Handles the end of a job; an error is the message of a panic. Returns false if the job was
    /// queued again, because the worker's epoch is over or about to be.
    fn finish(&mut self, job: Arc<dyn Job>, outcome: Result<JobOutcome, String>) -> bool {
        self.job = None;
        match outcome {
            Ok(JobOutcome::Completed) => {}
            Ok(JobOutcome::StaleEpoch) => {
                if let Some(worker) = self.worker {
                    Arc::clone(&self.source).requeue(worker, job);
                }
                return false;
            }
            // The plugin's panics are caught elsewhere: this one is a bug of the host.
            Err(message) => {
                drop_panic(|| job.panicked());
                tracing::error!(message, "a job panicked in a task");
            }
        }
        true
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

/// A running job. Also the waker of its future.
struct SharedTask {
    /// `None` once the job has ended. Locked while the future is polled.
    run: Mutex<Option<Run>>,
    /// Wakes the task that polls the future.
    waker: AtomicWaker,
    /// Whether the future must be polled.
    is_woken: AtomicBool,
    polls: AtomicU32,
    /// Whether a task of the host's runtime polls the future; changes under the lock of `run`.
    is_on_host: AtomicBool,
}

/// The resources of a running job.
struct Run {
    /// Dropped first: the job's future may hold a lease, for which an unload waits.
    future: Option<JobFuture>,
    job: Arc<dyn Job>,
    /// Completes the job and deregisters if it is dropped.
    worker: Worker,
    generation: u64,
    host: Handle,
}

impl SharedTask {
    /// Starts `job`, which has a caller's runtime, for `worker`.
    fn start(worker: Worker, job: Arc<dyn Job>, generation: u64, host: &Handle) {
        let Some(caller) = job.caller_runtime() else { return };
        let run =
            Run { future: None, job: Arc::clone(&job), worker, generation, host: host.clone() };
        let task = Arc::new(Self {
            run: Mutex::new(Some(run)),
            waker: AtomicWaker::new(),
            is_woken: AtomicBool::new(true),
            polls: AtomicU32::new(0),
            is_on_host: AtomicBool::new(false),
        });
        let weak: Weak<dyn CallerTask> = Arc::<Self>::downgrade(&task);
        caller.spawn(weak, Driver { task: Some(task), is_on_host: false });
    }

    /// Locks the job, unless another thread polls it.
    fn try_run(&self) -> Option<MutexGuard<'_, Option<Run>>> {
        match self.run.try_lock() {
            Ok(run) => Some(run),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Polls the job, and takes the next one when it has ended.
    fn poll_run(self: &Arc<Self>, mut locked: MutexGuard<'_, Option<Run>>) -> Poll<()> {
        let Some(run) = &mut *locked else { return Poll::Ready(()) };
        // Cleared first: a wake during the poll counts.
        self.is_woken.store(false, Ordering::Release);
        self.polls.fetch_add(1, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(self));
        let polled = catch_panic(|| run.poll(&mut Context::from_waker(&waker)));
        let outcome = match polled {
            Ok(polled) => Ok(ready!(polled)),
            Err(message) => Err(message),
        };
        let run = locked.take();
        drop(locked);
        self.waker.take();
        if let Some(run) = run {
            run.finish(outcome);
        }
        Poll::Ready(())
    }

    /// Continues the job in a task of the host's runtime.
    fn move_run(self: &Arc<Self>, locked: MutexGuard<'_, Option<Run>>) {
        let Some(run) = &*locked else { return };
        if self.is_on_host.swap(true, Ordering::Relaxed) {
            return;
        }
        let host = run.host.clone();
        drop(locked);
        host.spawn(Driver { task: Some(Arc::clone(self)), is_on_host: true });
    }
}

impl CallerTask for SharedTask {
    fn polls(&self) -> u32 {
        self.polls.load(Ordering::Relaxed)
    }

    fn is_woken(&self) -> bool {
        self.is_woken.load(Ordering::Acquire)
    }

    fn wake_for_check(&self) {
        // The host's runtime always runs.
        if !self.is_on_host.load(Ordering::Relaxed) {
            self.is_woken.store(true, Ordering::Release);
            self.waker.wake();
        }
    }

    fn poll_here(self: Arc<Self>) {
        let Some(run) = self.try_run() else { return };
        // This thread may be in no runtime, or in one without I/O, which its future needs.
        let host = run.as_ref().map(|run| run.host.clone());
        let _inside = host.as_ref().map(Handle::enter);
        // The task that drives it sees the end at its next poll.
        let _ = self.poll_run(run);
    }

    fn move_to_host(self: Arc<Self>) {
        if let Some(run) = self.try_run() {
            self.move_run(run);
        }
    }
}

impl Wake for SharedTask {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Run {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<JobOutcome> {
        let start = || Arc::clone(&self.job).run_async(self.generation);
        self.future.get_or_insert_with(start).as_mut().poll(context)
    }

    /// Starts the next job of the worker. An error is the message of a panic.
    fn finish(self, outcome: Result<JobOutcome, String>) {
        let Self { future, job, mut worker, generation, host } = self;
        drop_panic(|| drop(future));
        if worker.finish(job, outcome) {
            worker.start_next(generation, &host);
        } else {
            worker.spawn(generation, &host);
        }
    }
}

/// The task that polls a job, on the caller's or on the host's runtime.
struct Driver {
    /// `None` once it no longer polls the job.
    task: Option<Arc<SharedTask>>,
    is_on_host: bool,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &self.task else { return Poll::Ready(()) };
        let run = lock(&task.run);
        if task.is_on_host.load(Ordering::Relaxed) == self.is_on_host {
            // Under the lock, so that it never replaces the waker of the other runtime's task.
            task.waker.register(context.waker());
            ready!(task.poll_run(run));
        } else {
            drop(run);
        }
        self.task = None;
        Poll::Ready(())
    }
}

impl Drop for Driver {
    /// Handles the shutdown of a runtime: the host's takes the job over, or ends it.
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        let mut run = lock(&task.run);
        if self.is_on_host {
            let ended = run.take();
            drop(run);
            drop_panic(|| drop(ended));
        } else {
            task.move_run(run);
        }
    }
}
