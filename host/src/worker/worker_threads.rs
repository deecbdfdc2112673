//! The workers of one owner that are threads: those at a queue, and those for single jobs. All are
//! joined before the owner unloads the code that they ran. The thread that opens a library is here
//! too.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use tokio::sync::oneshot;

use super::job::{Job, JobOutcome};
use super::queue_inner::{Epoch, WorkerId};
use crate::panic::{catch_panic, drop_panic};
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

type OpeningJob = Box<dyn FnOnce() + Send>;

/// The thread that opened a library. Dropped without [`finish`](Self::finish), it sleeps until the
/// process exits, since the library stays mapped then.
pub(crate) struct OpeningThread {
    inner: Mutex<Inner>,
}

struct Inner {
    /// `None` once [`OpeningThread::finish`] was called.
    jobs: Option<mpsc::Sender<OpeningJob>>,
    state: State,
}

enum State {
    Running(JoinHandle<()>),
    /// Another thread joins it; the channel closes when it has exited.
    Joining(mpsc::Receiver<()>),
    Joined,
}

/// The state of a thread after [`OpeningThread::finish`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It has exited, and its thread-locals are gone.
    Ended,
    /// It still runs a job or the destructors of its thread-locals.
    StillRuns,
}

impl OpeningThread {
    /// Starts the thread.
    pub(super) fn spawn(builder: Builder) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<OpeningJob>();
        let thread = builder.spawn(move || {
            while let Ok(job) = queue.recv() {
                job();
            }
        })?;
        Ok(Self { inner: Inner { jobs: Some(jobs), state: State::Running(thread) }.into() })
    }

    /// Runs `job` on the thread, before later jobs.
    pub(crate) fn start(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let job: OpeningJob = Box::new(job);
        let is_sent = lock(&self.inner).jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if is_sent { Ok(()) } else { Err(io::Error::other("the opening thread has exited")) }
    }

    /// Runs `job` on the thread and waits for it, at most `timeout`. After
    /// [`RunOutcome::TimedOut`] the thread still runs it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> RunOutcome<T> {
        self.submit(job).wait(timeout)
    }

    /// Runs `job` on the thread, after those before it.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> OpeningResult<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let job = move || {
            let _ = sender.send(job());
        };
        OpeningResult(self.start(job).map(|()| receiver))
    }

    /// Returns whether the thread accepts jobs.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.inner).jobs.is_some()
    }

    /// Stops the thread and waits until it has exited, at most `timeout`. May be called again.
    ///
    /// The destructors of its thread-locals run meanwhile. They are code of the library and may
    /// never return.
    pub(crate) fn finish(&self, timeout: Duration) -> Finish {
        let mut inner = lock(&self.inner);
        inner.jobs = None;
        inner.state = match mem::replace(&mut inner.state, State::Joined) {
            State::Running(thread) => join_elsewhere(thread),
            state => state,
        };
        let State::Joining(ended) = &inner.state else {
            return match inner.state {
                State::Joined => Finish::Ended,
                _ => Finish::StillRuns,
            };
        };
        if ended.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout) {
            return Finish::StillRuns;
        }
        inner.state = State::Joined;
        Finish::Ended
    }
}

/// Joins a thread on another one: std has no join with a time limit, and `is_finished` is true
/// before the destructors of thread-locals have run.
fn join_elsewhere(thread: JoinHandle<()>) -> State {
    let (sender, threads) = mpsc::channel::<JoinHandle<()>>();
    let (ended, receiver) = mpsc::channel::<()>();
    let joiner = Builder::new().name("hotbay-join".to_owned()).spawn(move || {
        for thread in threads {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
        drop(ended);
    });
    if joiner.is_err() {
        return State::Running(thread);
    }
    match sender.send(thread) {
        Ok(()) => State::Joining(receiver),
        Err(mpsc::SendError(thread)) => State::Running(thread),
    }
}

/// The result of a job on an opening thread.
pub(crate) struct OpeningResult<T>(io::Result<mpsc::Receiver<T>>);

impl<T> OpeningResult<T> {
    /// Waits for it, at most `timeout`.
    pub(crate) fn wait(self, timeout: Duration) -> RunOutcome<T> {
        let receiver = match self.0 {
            Ok(receiver) => receiver,
            Err(error) => return RunOutcome::SpawnFailed(error),
        };
        match receiver.recv_timeout(timeout) {
            Ok(done) => RunOutcome::Completed(done),
            Err(mpsc::RecvTimeoutError::Timeout) => RunOutcome::TimedOut,
            Err(mpsc::RecvTimeoutError::Disconnected) => RunOutcome::SpawnFailed(io::Error::other(
                "the opening thread exited during the job",
            )),
        }
    }
}

impl Drop for OpeningThread {
    fn drop(&mut self) {
        // Nothing more is sent, and the thread sleeps on.
        mem::forget(lock(&self.inner).jobs.take());
    }
}

impl fmt::Debug for OpeningThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningThread").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn completed<T>(outcome: RunOutcome<T>) -> T {
        match outcome {
            RunOutcome::Completed(result) => result,
            RunOutcome::TimedOut => panic!("it timed out"),
            RunOutcome::SpawnFailed(error) => panic!("{error}"),
        }
    }

    #[test]
    fn jobs_run_on_one_thread_until_it_is_finished() {
        let opener = OpeningThread::spawn(Builder::new()).unwrap();
        let first = completed(opener.run(TIMEOUT, || thread::current().id()));
        assert_eq!(completed(opener.run(TIMEOUT, || thread::current().id())), first);
        assert_ne!(thread::current().id(), first);
        assert_eq!(opener.finish(TIMEOUT), Finish::Ended);
        assert!(!opener.is_open());
        assert!(matches!(opener.run(TIMEOUT, || ()), RunOutcome::SpawnFailed(_)));
        assert_eq!(opener.finish(Duration::ZERO), Finish::Ended);
    }

    #[test]
    fn hung_job_times_out_and_thread_keeps_running() {
        let opener = OpeningThread::spawn(Builder::new()).unwrap();
        let (release, wait) = mpsc::channel::<()>();
        let outcome = opener.run(Duration::ZERO, move || wait.recv().is_ok());
        assert!(matches!(outcome, RunOutcome::TimedOut));
        assert_eq!(opener.finish(Duration::ZERO), Finish::StillRuns);
        drop(release);
        assert_eq!(opener.finish(TIMEOUT), Finish::Ended);
    }

    #[test]
    fn hung_thread_local_destructor_does_not_block_finish() {
        struct Hung(mpsc::Receiver<()>);
        impl Drop for Hung {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        thread_local!(static HUNG: std::cell::Cell<Option<Hung>> = const { std::cell::Cell::new(None) });

        let opener = OpeningThread::spawn(Builder::new()).unwrap();
        let (release, wait) = mpsc::channel::<()>();
        completed(opener.run(TIMEOUT, || HUNG.set(Some(Hung(wait)))));
        assert_eq!(opener.finish(Duration::from_millis(50)), Finish::StillRuns);
        assert_eq!(opener.finish(Duration::ZERO), Finish::StillRuns);
        drop(release);
        assert_eq!(opener.finish(TIMEOUT), Finish::Ended);
    }
}
