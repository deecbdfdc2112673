//! What the handle, the workers, the tasks and the tickets of one pool share: where tasks come
//! in, wait, run, and leave their outcomes. Owns no thread.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::permits::{QueuePermit, QueuePermits, TaskPermits};
use super::result_store::ResultStore;
use super::{
    Epoch, Job, JobOutcome, PoolLimits, PushOutcome, Queue, QueueLimits, RejectReason, SubmitError,
    SubmitErrorKind, TaskError, TaskId, TaskTicket, WaitLimits, park,
};
use crate::panic::{catch_panic, drop_panic};
use crate::sync::{ProcessEpoch, WaitGroup, deadline_in, lock};

/// One pool but for its threads.
pub(super) struct PoolInner<T> {
    pub(super) store: ResultStore<T>,
    queue: Queue,
    permits: QueuePermits,
    workers: u32,
    /// Threads that tell tasks that these never run.
    rejecting: Arc<WaitGroup>,
    pub(super) process: ProcessEpoch,
}

/// A task on its way through the queue.
struct Task<T, F> {
    id: TaskId,
    pool: Arc<PoolInner<T>>,
    /// None once it ran, never ran, or was given back.
    waiting: Mutex<Option<PendingTask<F>>>,
}

struct PendingTask<F> {
    task: F,
    permit: QueuePermit,
}

thread_local! {
    /// The addresses of the floors that this thread is inside of, one within the other.
    static ENTERED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Until it is dropped, this thread is inside a floor.
struct EnterGuard;

impl<T: Send + 'static> PoolInner<T> {
    /// A floor, and the epoch of its workers, which are to be started.
    pub(super) fn new(limits: &PoolLimits) -> (Arc<Self>, Epoch) {
        let max_queued_calls = usize::try_from(limits.max_queued_calls).unwrap_or(usize::MAX);
        let queue = Queue::new();
        let places =
            QueueLimits { max_queued: max_queued_calls, max_waiting_for_space: 0, max_replaced: 0 };
        let (epoch, _) = queue.start_epoch(limits.workers, places);
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

    /// Accepts a task if there is a place for it.
    pub(super) fn submit<F>(self: &Arc<Self>, task: F) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = self.can_accept().and_then(|()| self.permits.try_acquire());
        self.accept(taken, task)
    }

    /// Accepts a task once there is a place for it; blocks for that at most `wait_max`.
    pub(super) fn submit_within<F>(
        self: &Arc<Self>,
        timeout: Duration,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = self.can_accept().and_then(|()| {
            let wait = std::pin::pin!(self.permits.acquire());
            let taken = park::wait(wait, Some(deadline_in(timeout)));
            taken.unwrap_or_else(|| self.permits.try_acquire())
        });
        self.accept(taken, task)
    }

    /// Accepts a task once there is a place for it.
    pub(super) async fn submit_waiting<F>(
        self: Arc<Self>,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = match self.can_accept() {
            Ok(()) => self.permits.acquire().await,
            Err(kind) => Err(kind),
        };
        self.accept(taken, task)
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
        taken: Result<TaskPermits, SubmitErrorKind>,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = match taken {
            Ok(taken) => taken,
            Err(kind) => return Err(SubmitError::new(kind, task)),
        };
        let id = TaskId::next();
        let waiting = Mutex::new(Some(PendingTask { task, permit: taken.queue }));
        let task = Arc::new(Task { id, pool: Arc::clone(self), waiting });
        // Before the push: a worker may be done before that returns.
        self.store.reserve(id, taken.result);
        let (pushed, _) = self.queue.push(Arc::<Task<T, F>>::clone(&task), WaitLimits::default());
        let kind = match pushed {
            // All workers were started with the pool, so there is none to hire.
            PushOutcome::Queued | PushOutcome::SpawnWorker(_) => {
                return Ok(TaskTicket::new(id, Arc::clone(self)));
            }
            PushOutcome::Full => SubmitErrorKind::QueueFull,
            PushOutcome::Closed => SubmitErrorKind::Closed,
        };
        self.store.remove(id);
        let PendingTask { task, permit: place } =
            task.take().expect("what was not queued is never run");
        drop_panic(|| drop(place));
        Err(SubmitError::new(kind, task))
    }

    /// Does what comes until the pool ends.
    pub(super) fn run_worker(self: &Arc<Self>, epoch: Epoch) {
        let _inside = self.enter();
        let worker = self.queue.register(epoch);
        while let Some(job) = self.queue.next(worker).0.job {
            drop_panic(|| {
                let _ = job.run(0);
            });
        }
    }

    /// Accepts no more; workers go home once nothing waits.
    pub(super) fn drain(&self) {
        self.permits.close();
        self.queue.drain();
    }

    /// Accepts no more; workers go home after what they do now, and the rest is told.
    pub(super) fn close(self: &Arc<Self>) {
        // What is told and dropped here is not to wait for this pool.
        let _inside = self.enter();
        let _telling = self.rejecting.start();
        self.permits.close();
        self.queue.close();
    }

    /// Waits until each task is told, after the workers have gone home.
    pub(super) fn wait_rejected(&self) {
        self.rejecting.wait_idle(deadline_in(Duration::MAX));
    }

    fn enter(self: &Arc<Self>) -> EnterGuard {
        ENTERED.with_borrow_mut(|inside| inside.push(self.address()));
        EnterGuard
    }
}

impl<T> PoolInner<T> {
    /// Whether this thread is a worker of this pool, so that waiting for it could be for ever.
    pub(super) fn is_entered(&self) -> bool {
        ENTERED.with_borrow(|inside| inside.contains(&self.address()))
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
        if let Some(PendingTask { task, permit: place }) = self.take() {
            drop_panic(|| drop(place));
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
            .field("waiting", &self.queue.queued())
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
