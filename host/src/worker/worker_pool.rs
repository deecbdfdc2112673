//! A pool of threads for closures of the application: fixed workers, a bounded queue, a bounded
//! store of results, and a shutdown that joins all threads. Knows no plugins.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once, Weak};
use std::task::{Context, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::pool_inner::{PoolInner, PoolLimits, TaskTicket};
use super::queue_inner::Epoch;
use super::task::{Outcome, SubmitError, TaskId};
use crate::sync::{SameProcess, lock};

/// The outcome of [`WorkerPool::stop`] or [`WorkerPool::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// All workers have exited, and every accepted task has an outcome.
    Joined,
    /// It was called by a task of the pool, which cannot wait for itself. The pool ends all the
    /// same; a call from another thread waits for it.
    FromInside,
    /// This process was forked after the pool was created; the workers exist only in the parent,
    /// and nothing was done.
    Forked,
}

/// A fixed number of threads that run tasks from a bounded queue.
///
/// Each accepted task has one outcome, which is kept in the pool's store. It belongs to the task's
/// [`TaskTicket`] while that lives, and else to [`take`](Self::take) and [`drain`](Self::drain). A
/// task that panics fails only itself.
///
/// Clones are the same pool. Dropping the last one cancels the pool and waits for the running
/// tasks. If a task of the pool drops it, nothing waits, and the workers exit by themselves. An
/// outcome that holds a handle of its pool keeps the pool alive until it is taken.
///
/// ```
/// use hotbay::CancellationToken;
/// use hotbay::pool::{PoolLimits, WorkerPool};
///
/// let mut limits = PoolLimits::default();
/// limits.workers = 2;
/// let pool = WorkerPool::new(limits, &CancellationToken::new())?;
///
/// let awaited = pool.submit(|| 6 * 7)?;
/// assert_eq!(awaited.wait(), Ok(42));
///
/// let id = pool.submit(|| 1 + 1)?.leave();
/// pool.stop();
/// assert_eq!(pool.results()[&id], Ok(2));
/// assert_eq!(pool.take(id), Some(Ok(2)));
/// assert_eq!(pool.take(id), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WorkerPool<T: Send + 'static> {
    owner: SameProcess<Arc<Owner<T>>>,
}

/// The part of a pool that the last handle shuts down.
struct Owner<T: Send + 'static> {
    inner: Arc<PoolInner<T>>,
    token: CancellationToken,
    /// Kept, because it holds the waker that the token wakes.
    watch: Mutex<Pin<Box<WaitForCancellationFutureOwned>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    joined: Once,
}

impl<T: Send + 'static> WorkerPool<T> {
    /// Starts the workers of a pool that is cancelled when `token` is.
    ///
    /// The pool has a child of the token, so cancelling the pool cancels nothing else. Cancelling
    /// the token rejects the queued tasks on that thread.
    ///
    /// # Errors
    ///
    /// The error of the system if it cannot start a thread; no thread is left running then.
    pub fn new(limits: PoolLimits, token: &CancellationToken) -> io::Result<Self> {
        let (inner, epoch) = PoolInner::new(&limits);
        let token = token.child_token();
        let watch = Mutex::new(Box::pin(token.clone().cancelled_owned()));
        let threads = Mutex::default();
        let owner = Owner { inner, token, watch, threads, joined: Once::new() };
        owner.watch();
        for _ in 0..limits.workers {
            owner.start_worker(epoch)?;
        }
        Ok(Self { owner: SameProcess::new(Arc::new(owner)) })
    }

    /// Submits a task without waiting.
    ///
    /// # Errors
    ///
    /// Returns the task, and why it was not accepted: see
    /// [`SubmitErrorKind`](super::SubmitErrorKind).
    pub fn submit<F>(&self, task: F) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        self.owner.inner.submit(task)
    }

    /// Submits a task; blocks this thread for space in the pool, at most `timeout`.
    ///
    /// # Errors
    ///
    /// The same as [`submit`](Self::submit); `QueueFull` or `StoreFull` if no space becomes free.
    pub fn submit_within<F>(
        &self,
        timeout: Duration,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        self.owner.inner.submit_within(timeout, task)
    }

    /// Submits a task once the pool has space for it. The future runs on any executor, and does
    /// nothing until it is polled. Waiting tasks are served in order. The future does not keep the
    /// pool from ending.
    ///
    /// # Errors
    ///
    /// The same as [`submit`](Self::submit); `QueueFull` or `StoreFull` only if the limit is 0.
    pub fn submit_waiting<F>(
        &self,
        task: F,
    ) -> impl Future<Output = Result<TaskTicket<T>, SubmitError<F>>> + Send + use<T, F>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        Arc::clone(&self.owner.inner).submit_waiting(task)
    }

    /// Copies the outcomes without a ticket, in the order of their ids.
    ///
    /// Clones while the store is locked: `T::clone` must not use the pool.
    pub fn results(&self) -> BTreeMap<TaskId, Outcome<T>>
    where
        T: Clone,
    {
        if !self.owner.is_current() {
            return BTreeMap::new();
        }
        self.owner.inner.store.copy()
    }

    /// Takes the outcome of a task without a ticket; `None` while the task is queued or running,
    /// while its ticket lives, and after it was taken.
    pub fn take(&self, id: TaskId) -> Option<Outcome<T>> {
        self.owner.is_current().then(|| self.owner.inner.store.take(id)).flatten()
    }

    /// Takes all outcomes without a ticket.
    pub fn drain(&self) -> BTreeMap<TaskId, Outcome<T>> {
        if !self.owner.is_current() {
            return BTreeMap::new();
        }
        self.owner.inner.store.drain()
    }

    /// Rejects new tasks, runs the queued ones, and waits for the workers to exit.
    ///
    /// Any number of threads may call it, any number of times. Blocks while tasks run. A task must
    /// not wait for a thread that stops the pool: both would wait forever.
    pub fn stop(&self) -> Stopped {
        if !self.owner.is_current() {
            return Stopped::Forked;
        }
        self.owner.inner.drain();
        self.owner.join()
    }

    /// Rejects new and queued tasks, and waits for the workers to exit.
    ///
    /// Running tasks are not interrupted: a long task must check the [`token`](Self::token).
    pub fn cancel(&self) -> Stopped {
        if !self.owner.is_current() {
            return Stopped::Forked;
        }
        self.owner.cancel();
        self.owner.join()
    }

    /// Returns the token of this pool, which its tasks may check. Cancelling it is a
    /// [`cancel`](Self::cancel) that does not wait.
    pub fn token(&self) -> CancellationToken {
        self.owner.token.clone()
    }
}

impl<T: Send + 'static> Owner<T> {
    /// Registers a waker with the token that closes the pool on the thread that cancels it.
    fn watch(&self) {
        let waker = Waker::from(Arc::new(OnCancel {
            inner: Arc::downgrade(&self.inner),
            token: self.token.clone(),
        }));
        let polled = lock(&self.watch).as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            self.inner.close();
        }
    }

    fn start_worker(&self, epoch: Epoch) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        let thread = thread::Builder::new().name("hotbay-worker".to_owned());
        lock(&self.threads).push(thread.spawn(move || inner.run_worker(epoch))?);
        Ok(())
    }

    fn cancel(&self) {
        self.token.cancel();
        // Again, in case another thread cancels the token and has not called `close` yet.
        self.inner.close();
    }

    fn join(&self) -> Stopped {
        if self.inner.is_entered() {
            return Stopped::FromInside;
        }
        // The first joins, the others wait for it.
        self.joined.call_once(|| {
            let threads = std::mem::take(&mut *lock(&self.threads));
            for thread in threads {
                let _ = thread.join();
            }
        });
        self.inner.wait_rejected();
        Stopped::Joined
    }
}

/// Woken by the token. Weak, because the token's wakers would keep the pool alive.
struct OnCancel<T> {
    inner: Weak<PoolInner<T>>,
    token: CancellationToken,
}

impl<T: Send + 'static> Wake for OnCancel<T> {
    fn wake(self: Arc<Self>) {
        // A waker may be woken spuriously.
        if let Some(inner) = self.inner.upgrade().filter(|_| self.token.is_cancelled()) {
            inner.close();
        }
    }
}

impl<T: Send + 'static> Drop for Owner<T> {
    fn drop(&mut self) {
        self.cancel();
        self.join();
    }
}

impl<T: Send + 'static> Clone for WorkerPool<T> {
    fn clone(&self) -> Self {
        Self { owner: self.owner.clone() }
    }
}

impl<T: Send + 'static> fmt::Debug for WorkerPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("inner", &self.owner.inner).finish_non_exhaustive()
    }
}
