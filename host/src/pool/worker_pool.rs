//! A pool of threads for closures: fixed workers, a bounded queue, a bounded store of results,
//! and an end that leaves no thread behind. Knows no plugins.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once, Weak};
use std::task::{Context, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::pool_inner::PoolInner;
use super::{Epoch, Outcome, SubmitError, TaskId, TaskTicket};
use crate::sync::{SameProcess, lock};

/// How much a [`WorkerPool`] does at once, and how much it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolLimits {
    /// Threads that run tasks. Default: the number of cores. A pool of 0 refuses every task.
    pub workers: u32,
    /// Tasks that may wait for a worker. Default: 1,024. With 0 every task is refused.
    pub max_queued_calls: u32,
    /// Accepted tasks whose outcome nobody has taken yet, so that each outcome has room.
    /// Default: 65,536. With 0 every task is refused.
    pub max_results: u32,
}

/// How a [`WorkerPool::stop`] or a [`WorkerPool::cancel`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// Every worker has ended, and every accepted task has its outcome.
    Joined,
    /// It was called by one of the pool's own tasks, which cannot wait for itself. The pool
    /// ends all the same; a call from another thread waits for it.
    FromInside,
    /// This process was forked after the pool was made; the workers are in the parent only, and
    /// nothing was done.
    Forked,
}

/// A fixed number of threads that run tasks from a bounded queue.
///
/// Each accepted task has one outcome, in one place: in the pool's store. There it is for the
/// task's [`TaskTicket`] while that lives, and else for [`take`](Self::take) and
/// [`drain`](Self::drain). A task that panics fails that task only.
///
/// Clones are the same pool. Dropping the last one cancels the pool and waits for the tasks
/// that run, unless one of the pool's own tasks drops it; then the workers end by themselves.
/// An outcome that holds a handle of its own pool keeps the pool alive until it is taken.
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

/// What ends with the last handle.
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
    /// The pool has a child of the token: cancelling the pool cancels nothing else. Who cancels
    /// the token tells the tasks that wait, on that thread, as wakers are woken.
    ///
    /// # Errors
    ///
    /// That of the system, when it gives no thread; then none is left.
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

    /// Accepts a task, without waiting.
    ///
    /// # Errors
    ///
    /// The task, with why it was not accepted: see [`SubmitErrorKind`](super::SubmitErrorKind).
    pub fn submit<F>(&self, task: F) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        self.owner.inner.submit(task)
    }

    /// Accepts a task, waiting on this thread for a place at most `wait_max`.
    ///
    /// # Errors
    ///
    /// As of [`submit`](Self::submit); `QueueFull` or `StoreFull` when there is no place by then.
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

    /// Accepts a task once there is a place for it. The future runs on any executor, and does
    /// nothing until it is polled; places go to those who wait in turn; dropped, it takes none.
    /// It does not keep the pool from ending.
    ///
    /// # Errors
    ///
    /// As of [`submit`](Self::submit); `QueueFull` or `StoreFull` only where the limit is 0.
    pub fn submit_waiting<F>(
        &self,
        task: F,
    ) -> impl Future<Output = Result<TaskTicket<T>, SubmitError<F>>> + Send + use<T, F>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        Arc::clone(&self.owner.inner).submit_waiting(task)
    }

    /// Copies the outcomes that were left in the store, by task, in the order of their ids.
    ///
    /// Clones while the store is locked: a `T::clone` must not use the pool.
    pub fn results(&self) -> BTreeMap<TaskId, Outcome<T>>
    where
        T: Clone,
    {
        if !self.owner.is_current() {
            return BTreeMap::new();
        }
        self.owner.inner.store.copy()
    }

    /// Takes an outcome that was left in the store; none while its task runs or its ticket
    /// lives, and once it was taken.
    pub fn take(&self, id: TaskId) -> Option<Outcome<T>> {
        self.owner.is_current().then(|| self.owner.inner.store.take(id)).flatten()
    }

    /// Takes all outcomes that were left in the store.
    pub fn drain(&self) -> BTreeMap<TaskId, Outcome<T>> {
        if !self.owner.is_current() {
            return BTreeMap::new();
        }
        self.owner.inner.store.drain()
    }

    /// Accepts no more tasks, finishes those that wait, and waits for the workers to end.
    ///
    /// Any number of threads may call it, any number of times. Blocks as long as tasks run;
    /// a task that waits for another thread that stops the pool waits for ever.
    pub fn stop(&self) -> Stopped {
        if !self.owner.is_current() {
            return Stopped::Forked;
        }
        self.owner.inner.drain();
        self.owner.join()
    }

    /// Accepts no more tasks, tells those that wait that they never run, and waits for the
    /// workers to end.
    ///
    /// What runs is not ended from outside: a task that may be long looks at the
    /// [`token`](Self::token).
    pub fn cancel(&self) -> Stopped {
        if !self.owner.is_current() {
            return Stopped::Forked;
        }
        self.owner.cancel();
        self.owner.join()
    }

    /// The token of this pool, for its tasks to look at. Cancelling it is a
    /// [`cancel`](Self::cancel) that does not wait.
    pub fn token(&self) -> CancellationToken {
        self.owner.token.clone()
    }
}

impl<T: Send + 'static> Owner<T> {
    /// Has the token close the floor, on the thread that cancels it.
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
        // Again, in case that another thread cancels the token and has not come this far.
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

/// Woken by the token. Weak, since the token's list of wakers would keep the pool alive.
struct OnCancel<T> {
    inner: Weak<PoolInner<T>>,
    token: CancellationToken,
}

impl<T: Send + 'static> Wake for OnCancel<T> {
    fn wake(self: Arc<Self>) {
        // A waker may be woken for no reason.
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

impl Default for PoolLimits {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            workers: u32::try_from(cores).unwrap_or(u32::MAX),
            max_queued_calls: 1024,
            max_results: 65_536,
        }
    }
}

impl<T: Send + 'static> fmt::Debug for WorkerPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("floor", &self.owner.inner).finish_non_exhaustive()
    }
}
