//! State that the handle, workers, tasks and tickets of one pool share: permits, queue and results.
//! Owns no thread.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::permits::{QueuePermit, QueuePermits, TaskPermits};
use super::result_store::ResultStore;
use super::{
    Epoch, Job, JobOutcome, PoolLimits, PushOutcome, Queue, QueueLimits, RejectReason, SubmitError,
    SubmitErrorKind, TaskError, TaskId, TaskTicket, WaitLimits,
};
use crate::panic::{catch_panic, drop_panic};
use crate::sync::{ProcessEpoch, WaitGroup, deadline_in, lock, park};

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
            let permits = park::wait(wait, Some(deadline_in(timeout)));
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
