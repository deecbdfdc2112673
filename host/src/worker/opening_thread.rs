//! The thread that opens a library. Allocators and runtimes in a library bind their state to the
//! thread that ran its initializers, so it sleeps between its jobs and exits right before the
//! library is closed. Meanwhile it uses no processor time.

use std::sync::{Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use std::{fmt, io, mem};

use super::RunOutcome;
use crate::sync::lock;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that opened a library. Dropped without [`finish`](Self::finish), it sleeps until the
/// process exits, since the library stays mapped then.
pub(crate) struct OpeningThread {
    inner: Mutex<Inner>,
}

struct Inner {
    /// `None` once [`OpeningThread::finish`] was called.
    jobs: Option<mpsc::Sender<Job>>,
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
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = builder.spawn(move || {
            while let Ok(job) = queue.recv() {
                job();
            }
        })?;
        Ok(Self { inner: Inner { jobs: Some(jobs), state: State::Running(thread) }.into() })
    }

    /// Runs `job` on the thread and waits for it, at most `timeout`. After
    /// [`RunOutcome::TimedOut`] the thread still runs it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> RunOutcome<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            let _ = sender.send(job());
        });
        let sent = lock(&self.inner).jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return RunOutcome::SpawnFailed(io::Error::other("the opening thread has exited"));
        }
        match receiver.recv_timeout(timeout) {
            Ok(done) => RunOutcome::Completed(done),
            Err(mpsc::RecvTimeoutError::Timeout) => RunOutcome::TimedOut,
            Err(mpsc::RecvTimeoutError::Disconnected) => RunOutcome::SpawnFailed(io::Error::other(
                "the opening thread exited during the job",
            )),
        }
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
