//! A pool without its threads: its limits, the state that handle, workers, tasks and tickets share
//! (permits, queue and results), and the ticket of a task.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::job::{Job, JobOutcome, RejectReason, WaitLimits};
use super::queue::{PushOutcome, Queue};
use super::queue_inner::{Epoch, QueueLimits};
use super::result_store::ResultStore;
use super::task::{
    Outcome, QueuePermit, QueuePermits, SubmitError, SubmitErrorKind, TaskError, TaskId,
    TaskPermits,
};
use crate::panic::{catch_panic, drop_panic};
use crate::sync::{ProcessEpoch, WaitGroup, block_on, block_on_until, deadline_in, lock};

/// The limits of a [`WorkerPool`](super::WorkerPool).
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
            let wait = pin!(self.permits.acquire());
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

/// A claim on the outcome of one task: a future that runs on any executor, and can also be waited
/// for.
///
/// While it lives, only it can take the outcome. Dropping it leaves the outcome in the store of the
/// pool; the task runs all the same.
///
/// # Panics
///
/// When polled again after it was ready.
#[must_use = "dropping it leaves the outcome in the store; `leave` says so"]
pub struct TaskTicket<T> {
    id: TaskId,
    /// `None` once the outcome was taken.
    inner: Option<Arc<PoolInner<T>>>,
}

impl<T> TaskTicket<T> {
    pub(super) fn new(id: TaskId, inner: Arc<PoolInner<T>>) -> Self {
        Self { id, inner: Some(inner) }
    }

    /// Returns the id of the task.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Blocks this thread until the task has an outcome.
    ///
    /// # Errors
    ///
    /// The error of the task, or [`TaskError::WaitInside`] at once if this thread is a worker of
    /// the same pool and the task has no outcome yet.
    pub fn wait(mut self) -> Outcome<T> {
        if self.inner.as_ref().is_some_and(|inner| inner.is_entered()) {
            let mut context = Context::from_waker(Waker::noop());
            return match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => Err(TaskError::WaitInside),
            };
        }
        block_on(pin!(self))
    }

    /// Blocks this thread until the task has an outcome, at most `timeout`.
    ///
    /// Unlike [`wait`](Self::wait), it may be called by a worker of the same pool.
    ///
    /// # Errors
    ///
    /// The ticket itself if the task has no outcome by then.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Outcome<T>, Self> {
        block_on_until(Pin::new(&mut self), Some(deadline_in(timeout))).ok_or(self)
    }

    /// Leaves the outcome in the store, where it is found under this id.
    pub fn leave(self) -> TaskId {
        self.id
    }
}

impl<T> Future for TaskTicket<T> {
    type Output = Outcome<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.inner.as_ref().is_some_and(|inner| !inner.process.is_current()) {
            return Poll::Ready(Err(TaskError::Forked));
        }
        // Cloned here: a waker is foreign code, and `poll` locks the store.
        let waker = context.waker().clone();
        let inner = self.inner.as_ref().expect("a ticket is not polled after it was ready");
        let polled = inner.store.poll(self.id, waker);
        if polled.is_ready() {
            self.inner = None;
        }
        polled
    }
}

impl<T> Drop for TaskTicket<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take().filter(|inner| inner.process.is_current()) {
            inner.store.detach(self.id);
        }
    }
}

impl<T> fmt::Debug for TaskTicket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskTicket").field("id", &self.id).finish_non_exhaustive()
    }
}
