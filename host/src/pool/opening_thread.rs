//! The thread that opens a library. Allocators and runtimes in a library bind their state to the
//! thread that ran its initialisers, so it sleeps between its jobs and ends right before the
//! library is closed. It uses no processor time meanwhile.

use std::sync::{Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::Errand;
use crate::sync::{deadline_in, lock};

type Job = Box<dyn FnOnce() + Send>;

/// The thread that opened a library. Dropped without [`finish`](Self::finish), it sleeps until
/// the process ends, as the library stays mapped then.
pub(crate) struct OpeningThread {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// None: it was told to finish.
    jobs: Option<mpsc::Sender<Job>>,
    /// None: it was joined.
    thread: Option<JoinHandle<()>>,
}

/// What became of a thread that was told to finish.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It has ended, and its thread-locals are gone.
    Ended,
    /// It is still at the destructors of its thread-locals.
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
        Ok(Self { inner: Inner { jobs: Some(jobs), thread: Some(thread) }.into() })
    }

    /// Runs `job` on the thread and waits for it, at most `wait_max`. After [`Errand::Late`] the
    /// thread is still at it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        wait_max: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Errand<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            let _ = sender.send(job());
        });
        let sent = lock(&self.inner).jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Errand::NoThread(io::Error::other("the thread that opened it has ended"));
        }
        match receiver.recv_timeout(wait_max) {
            Ok(done) => Errand::Done(done),
            Err(mpsc::RecvTimeoutError::Timeout) => Errand::Late,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Errand::NoThread(io::Error::other("the thread that opened it ended within the job"))
            }
        }
    }

    /// Whether it takes jobs.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.inner).jobs.is_some()
    }

    /// Tells the thread to end and joins it, if it ends within `wait_max`.
    pub(crate) fn finish(&self, wait_max: Duration) -> Finish {
        let deadline = deadline_in(wait_max);
        let mut inner = lock(&self.inner);
        inner.jobs = None;
        // std has no join with a limit.
        while inner.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return Finish::StillRuns;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        if let Some(thread) = inner.thread.take() {
            let _ = thread.join();
        }
        Finish::Ended
    }
}

impl Drop for OpeningThread {
    fn drop(&mut self) {
        // Nothing is sent any more, and the thread sleeps on.
        std::mem::forget(lock(&self.inner).jobs.take());
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

    const WAIT_MAX: Duration = Duration::from_secs(60);

    fn done<T>(errand: Errand<T>) -> T {
        match errand {
            Errand::Done(done) => done,
            Errand::Late => panic!("it is late"),
            Errand::NoThread(error) => panic!("{error}"),
        }
    }

    #[test]
    fn all_jobs_run_on_one_thread_until_it_is_finished() {
        let opener = OpeningThread::spawn(Builder::new()).unwrap();
        let first = done(opener.run(WAIT_MAX, || thread::current().id()));
        assert_eq!(done(opener.run(WAIT_MAX, || thread::current().id())), first);
        assert_ne!(thread::current().id(), first);
        assert_eq!(opener.finish(WAIT_MAX), Finish::Ended);
        assert!(!opener.is_open());
        assert!(matches!(opener.run(WAIT_MAX, || ()), Errand::NoThread(_)));
        assert_eq!(opener.finish(Duration::ZERO), Finish::Ended);
    }

    #[test]
    fn hung_job_is_late_and_the_thread_still_runs() {
        let opener = OpeningThread::spawn(Builder::new()).unwrap();
        let (release, wait) = mpsc::channel::<()>();
        let late = opener.run(Duration::ZERO, move || wait.recv().is_ok());
        assert!(matches!(late, Errand::Late));
        assert_eq!(opener.finish(Duration::ZERO), Finish::StillRuns);
        drop(release);
        assert_eq!(opener.finish(WAIT_MAX), Finish::Ended);
    }
}
