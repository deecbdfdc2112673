//! A pool of threads for closures of the application: fixed workers, a bounded queue, a bounded
//! store of results, and a shutdown that joins all threads. Knows no plugins.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once, Weak};
use std::task::{Context, Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io, thread};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::result_store::ResultStore;
use super::{
    Epoch, Job, JobOutcome, Outcome, PushOutcome, Queue, QueueLimits, RejectReason, SubmitError,
    SubmitErrorKind, TaskError, TaskId, TaskTicket, WaitLimits,
};
use crate::panic::{catch_panic, drop_panic};
use crate::sync::{ProcessEpoch, SameProcess, WaitGroup, block_on_until, deadline_in, lock};

/// The limits of a [`WorkerPool`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolLimits {
    /// Threads that run tasks. Default: the number of cores. With 0 every task is rejected.
    pub workers: u32,
    /// Tasks that may wait for a worker. Default: 1,024. With 0 every task is rejected.
    pub max_queued_calls: u32,
    /// Accepted tasks whose outcome was not taken yet. Default: 65,536. With 0 every task is
    /// rejected.
    pub max_results: u32,
}

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
        f.debug_struct("WorkerPool").field("inner", &self.owner.inner).finish_non_exhaustive()
    }
}

/// A pool without its threads.
pub(super) struct PoolInner<T> {
    pub(super) store: ResultStore<T>,
    queue: Queue,
    permits: QueuePermits,
    workers: u32,
    /// Threads that are rejecting tasks.
    rejecting: Arc<WaitGroup>,
    pub(super) process: ProcessEpoch,
}

/// A task in the queue or on a worker.
struct Task<T, F> {
    id: TaskId,
    pool: Arc<PoolInner<T>>,
    /// `None` once it ran, was rejected, or was returned to the caller.
    waiting: Mutex<Option<PendingTask<F>>>,
}

struct PendingTask<F> {
    task: F,
    permit: QueuePermit,
}

thread_local! {
    /// The addresses of the pools whose code this thread runs, nested.
    static ENTERED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Marks this thread as running code of a pool until it is dropped.
struct EnterGuard;

impl<T: Send + 'static> PoolInner<T> {
    /// Creates a pool, and the epoch for its workers, which the caller starts.
    pub(super) fn new(limits: &PoolLimits) -> (Arc<Self>, Epoch) {
        let max_queued_calls = usize::try_from(limits.max_queued_calls).unwrap_or(usize::MAX);
        let queue = Queue::new();
        let queue_limits =
            QueueLimits { max_queued: max_queued_calls, max_waiting_for_space: 0, max_replaced: 0 };
        let (epoch, _) = queue.start_epoch(limits.workers, queue_limits);
        let inner = Self {
            store: ResultStore::new(),
            queue,
            permits: QueuePermits::new(limits.max_queued_calls, limits.max_results),
            workers: limits.workers,
            rejecting: Arc::default(),
            process: ProcessEpoch::now(),
        };
        (Arc::new(inner), epoch)
    }

    /// Accepts a task if permits are available.
    pub(super) fn submit<F>(self: &Arc<Self>, task: F) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let permits = self.can_accept().and_then(|()| self.permits.try_acquire());
        self.accept(permits, task)
    }

    /// Accepts a task once permits are available; blocks for that at most `timeout`.
    pub(super) fn submit_within<F>(
        self: &Arc<Self>,
        timeout: Duration,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let permits = self.can_accept().and_then(|()| {
            let wait = std::pin::pin!(self.permits.acquire());
            let permits = block_on_until(wait, Some(deadline_in(timeout)));
            permits.unwrap_or_else(|| self.permits.try_acquire())
        });
        self.accept(permits, task)
    }

    /// Accepts a task once permits are available.
    pub(super) async fn submit_waiting<F>(
        self: Arc<Self>,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let permits = match self.can_accept() {
            Ok(()) => self.permits.acquire().await,
            Err(kind) => Err(kind),
        };
        self.accept(permits, task)
    }

    fn can_accept(&self) -> Result<(), SubmitErrorKind> {
        if !self.process.is_current() {
            Err(SubmitErrorKind::Forked)
        } else if self.permits.is_closed() {
            Err(SubmitErrorKind::Closed)
        } else if self.workers == 0 {
            Err(SubmitErrorKind::NoWorkers)
        } else {
            Ok(())
        }
    }

    fn accept<F>(
        self: &Arc<Self>,
        permits: Result<TaskPermits, SubmitErrorKind>,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let permits = match permits {
            Ok(permits) => permits,
            Err(kind) => return Err(SubmitError::new(kind, task)),
        };
        let id = TaskId::next();
        let waiting = Mutex::new(Some(PendingTask { task, permit: permits.queue }));
        let task = Arc::new(Task { id, pool: Arc::clone(self), waiting });
        // Before the push: a worker may complete the task before that returns.
        self.store.reserve(id, permits.result);
        let (pushed, _) = self.queue.push(Arc::<Task<T, F>>::clone(&task), WaitLimits::default());
        let kind = match pushed {
            // All workers were started with the pool.
            PushOutcome::Queued | PushOutcome::SpawnWorker(_) => {
                return Ok(TaskTicket::new(id, Arc::clone(self)));
            }
            PushOutcome::Full => SubmitErrorKind::QueueFull,
            PushOutcome::Closed => SubmitErrorKind::Closed,
        };
        self.store.remove(id);
        let PendingTask { task, permit } = task.take().expect("a rejected task never runs");
        drop_panic(|| drop(permit));
        Err(SubmitError::new(kind, task))
    }

    /// Runs tasks until the pool ends.
    pub(super) fn run_worker(self: &Arc<Self>, epoch: Epoch) {
        let _entered = self.enter();
        let worker = self.queue.register(epoch);
        while let Some(job) = self.queue.next(worker).0.job {
            drop_panic(|| {
                let _ = job.run(0);
            });
        }
    }

    /// Rejects new tasks; workers exit once the queue is empty.
    pub(super) fn drain(&self) {
        self.permits.close();
        self.queue.drain();
    }

    /// Rejects new and queued tasks; workers exit after their running task.
    pub(super) fn close(self: &Arc<Self>) {
        // A callback that runs here must not wait for this pool.
        let _entered = self.enter();
        let _rejecting = self.rejecting.start();
        self.permits.close();
        self.queue.close();
    }

    /// Waits until all queued tasks are rejected, after the workers have exited.
    pub(super) fn wait_rejected(&self) {
        self.rejecting.wait_idle(deadline_in(Duration::MAX));
    }

    fn enter(self: &Arc<Self>) -> EnterGuard {
        ENTERED.with_borrow_mut(|entered| entered.push(self.address()));
        EnterGuard
    }
}

impl<T> PoolInner<T> {
    /// Returns whether this thread runs code of this pool, so that waiting could last forever.
    pub(super) fn is_entered(&self) -> bool {
        ENTERED.with_borrow(|entered| entered.contains(&self.address()))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl<T, F> Task<T, F> {
    fn take(&self) -> Option<PendingTask<F>> {
        lock(&self.waiting).take()
    }
}

impl<T, F> Job for Task<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    fn run(self: Arc<Self>, _: u64) -> JobOutcome {
        if let Some(PendingTask { task, permit }) = self.take() {
            drop_panic(|| drop(permit));
            self.pool.store.complete(self.id, catch_panic(task).map_err(TaskError::Panicked));
        }
        JobOutcome::Completed
    }

    fn panicked(self: Arc<Self>) {
        self.pool.store.complete(self.id, Err(TaskError::NeverRan));
    }

    fn reject(self: Arc<Self>, _: RejectReason) {
        let waiting = self.take();
        self.pool.store.complete(self.id, Err(TaskError::NeverRan));
        drop_panic(|| drop(waiting));
    }
}

impl Drop for EnterGuard {
    fn drop(&mut self) {
        let _ = ENTERED.with_borrow_mut(Vec::pop);
    }
}

impl<T> fmt::Debug for PoolInner<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolInner")
            .field("workers", &self.workers)
            .field("queued", &self.queue.queued())
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// A permit; released on drop, which may wake a task that waits for one.
pub(super) type QueuePermit = OwnedSemaphorePermit;

/// The permits of one pool.
#[derive(Debug)]
pub(super) struct QueuePermits {
    queue: Permits,
    results: Permits,
}

#[derive(Debug)]
struct Permits {
    semaphore: Arc<Semaphore>,
    max_permits: u32,
}

/// The permits of one task.
#[derive(Debug)]
pub(super) struct TaskPermits {
    pub(super) queue: QueuePermit,
    pub(super) result: QueuePermit,
}

impl QueuePermits {
    pub(super) fn new(max_queued_calls: u32, max_results: u32) -> Self {
        Self { queue: Permits::new(max_queued_calls), results: Permits::new(max_results) }
    }

    /// Takes both permits if both are available.
    pub(super) fn try_acquire(&self) -> Result<TaskPermits, SubmitErrorKind> {
        let result = self.results.try_acquire(SubmitErrorKind::StoreFull)?;
        let queue = self.queue.try_acquire(SubmitErrorKind::QueueFull)?;
        Ok(TaskPermits { queue, result })
    }

    /// Waits for both permits. Fails once the pool is closed, and at once if a limit is 0.
    pub(super) async fn acquire(&self) -> Result<TaskPermits, SubmitErrorKind> {
        // In this order: a permit of the queue is soon released, so it is held more briefly.
        let result = self.results.acquire(SubmitErrorKind::StoreFull).await?;
        let queue = self.queue.acquire(SubmitErrorKind::QueueFull).await?;
        Ok(TaskPermits { queue, result })
    }

    /// Issues no more permits, and wakes the waiting tasks.
    pub(super) fn close(&self) {
        drop_panic(|| self.results.semaphore.close());
        drop_panic(|| self.queue.semaphore.close());
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.semaphore.is_closed()
    }
}

impl Permits {
    fn new(max_permits: u32) -> Self {
        let permits = usize::try_from(max_permits).unwrap_or(usize::MAX);
        Self {
            semaphore: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            max_permits,
        }
    }

    fn try_acquire(&self, full: SubmitErrorKind) -> Result<QueuePermit, SubmitErrorKind> {
        Arc::clone(&self.semaphore).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => SubmitErrorKind::Closed,
            TryAcquireError::NoPermits => full,
        })
    }

    async fn acquire(&self, full: SubmitErrorKind) -> Result<QueuePermit, SubmitErrorKind> {
        if self.max_permits == 0 {
            // The wait would never end.
            return Err(full);
        }
        let permit = Arc::clone(&self.semaphore).acquire_owned().await;
        permit.map_err(|_: AcquireError| SubmitErrorKind::Closed)
    }
}
