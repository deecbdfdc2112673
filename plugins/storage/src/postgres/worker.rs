//! The thread of a connection, which runs the jobs of callers one after another.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use storage_contract::{StoreError, StoreErrorKind};
use tokio::runtime::{Builder, Runtime};

use super::error::Failure;
use super::link::{Link, LinkSettings};

/// Runs jobs with a connection, on a thread that ends when this is dropped.
pub(super) struct Worker {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// Passes jobs to the thread. It uses no channels of std: those leave thread-local values on the
/// threads of callers.
#[derive(Default)]
struct Mailbox {
    state: Mutex<Mail>,
    changed: Condvar,
}

#[derive(Default)]
enum Mail {
    #[default]
    Empty,
    Job(Job),
    Closed,
}

/// The result of a job, for which its caller waits.
struct Outcome<T> {
    state: Mutex<Progress<T>>,
    changed: Condvar,
}

enum Progress<T> {
    Running,
    Done(T),
    /// The job was dropped without a result.
    Lost,
}

impl Worker {
    /// Starts the thread. This must run on a thread that ends before the library is closed, as `init`
    /// does.
    pub(super) fn start(settings: Arc<LinkSettings>) -> Result<Self, StoreError> {
        let fail = |error: std::io::Error| {
            let message = format!("cannot start the thread of a connection: {error}");
            StoreError::new(StoreErrorKind::Unavailable, message)
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let mailbox = Arc::new(Mailbox::default());
        let mut session = Session { settings, runtime, link: None };
        let jobs = Arc::clone(&mailbox);
        let thread = thread::Builder::new().name("storage-pg".to_owned()).spawn(move || {
            while let Some(job) = jobs.next() {
                // The connection of a job that panics is closed, since the job has it.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut session)));
            }
        });
        Ok(Self { mailbox, thread: Some(thread.map_err(fail)?) })
    }

    /// Runs `call` on the thread, and waits for its result.
    pub(super) fn run<T: Send + 'static>(
        &mut self,
        call: impl AsyncFn(&Link) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let outcome =
            Arc::new(Outcome { state: Mutex::new(Progress::Running), changed: Condvar::new() });
        let promise = Promise(Arc::clone(&outcome));
        self.mailbox.put(Box::new(move |session| promise.keep(session.run(&call))));
        outcome.wait().unwrap_or_else(|| {
            let message = "the thread of the connection failed";
            Err(StoreError::new(StoreErrorKind::Failed, message))
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.mailbox.close();
        if let Some(thread) = self.thread.take() {
            // It catches the panics of its jobs.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Mailbox {
    fn put(&self, job: Job) {
        *lock(&self.state) = Mail::Job(job);
        self.changed.notify_one();
    }

    fn close(&self) {
        *lock(&self.state) = Mail::Closed;
        self.changed.notify_one();
    }

    /// Waits for a job; `None` if there will be no more.
    fn next(&self) -> Option<Job> {
        let is_empty = |mail: &mut Mail| matches!(mail, Mail::Empty);
        let waited = self.changed.wait_while(lock(&self.state), is_empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *state) {
            Mail::Job(job) => Some(job),
            Mail::Empty | Mail::Closed => None,
        }
    }
}

/// The side of a job, which ends the wait of its caller also if it panics.
struct Promise<T>(Arc<Outcome<T>>);

impl<T> Promise<T> {
    fn keep(self, result: T) {
        *lock(&self.0.state) = Progress::Done(result);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if matches!(*state, Progress::Running) {
            *state = Progress::Lost;
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

impl<T> Outcome<T> {
    /// Waits for the result; `None` if it was lost.
    fn wait(&self) -> Option<T> {
        let is_running = |progress: &mut Progress<T>| matches!(progress, Progress::Running);
        let waited = self.changed.wait_while(lock(&self.state), is_running);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, Progress::Lost) {
            Progress::Done(result) => Some(result),
            Progress::Running | Progress::Lost => None,
        }
    }
}

/// The state of the thread.
struct Session {
    settings: Arc<LinkSettings>,
    runtime: Runtime,
    /// Opened when it is needed.
    link: Option<Link>,
}

impl Session {
    /// Runs a call, again with a new connection if one of earlier calls was broken.
    fn run<T>(
        &mut self,
        call: &impl AsyncFn(&Link) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let is_reused = self.link.is_some();
        let result = match self.attempt(call) {
            Err(failure) if is_reused && failure.is_broken && !failure.is_final => {
                self.attempt(call)
            }
            result => result,
        };
        result.map_err(|failure| failure.error)
    }

    fn attempt<T>(
        &mut self,
        call: &impl AsyncFn(&Link) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (link, settings) = (self.link.take(), &self.settings);
        let attempt = async {
            let link = match link {
                Some(link) => link,
                None => Link::connect(settings).await?,
            };
            let result = link.run(settings, call).await;
            if result.as_ref().is_err_and(|failure| failure.is_broken) {
                link.close().await;
                return Ok((result, None));
            }
            Ok::<_, Failure>((result, Some(link)))
        };
        let (result, link) = self.runtime.block_on(attempt)?;
        self.link = link;
        result
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.runtime.block_on(link.close());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
