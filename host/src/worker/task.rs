//! The types that describe a pool's tasks: id, outcome, submission errors, and the permits that a task
//! needs before it is accepted. Waiting tasks are served in order.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::panic::drop_panic;

/// The number of a task, unique in this process; later tasks have higher ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

/// The outcome of a task: what it returned, or why it did not return.
pub type Outcome<T> = Result<T, TaskError>;

/// The reason a task did not return.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskError {
    /// It panicked, with this message.
    Panicked(String),
    /// The pool was cancelled before it started.
    NeverRan,
    /// A worker waited for a task of its pool, which might have lasted forever. The outcome
    /// stays in the store. Only [`TaskTicket::wait`](super::TaskTicket::wait) returns this.
    WaitInside,
    /// This process was forked after the pool was created; the workers exist only in the parent.
    Forked,
}

impl TaskId {
    pub(super) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.0)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "the task panicked: {message}"),
            Self::NeverRan => f.write_str("the task did not run: its pool was cancelled"),
            Self::WaitInside => f.write_str(
                "a worker waited for a task of its pool without a time limit, which could \
                 block forever",
            ),
            Self::Forked => f.write_str(FORKED),
        }
    }
}

impl Error for TaskError {}

/// A task that was not accepted, and why.
pub struct SubmitError<F> {
    kind: SubmitErrorKind,
    task: F,
}

/// The reason a task was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// The pool was stopped or cancelled.
    Closed,
    /// This process was forked after the pool was created; the workers exist only in the parent.
    Forked,
    /// The pool has no workers, so the task would never run.
    NoWorkers,
    /// The queue is full.
    QueueFull,
    /// The store of results is full.
    StoreFull,
}

impl<F> SubmitError<F> {
    pub(super) fn new(kind: SubmitErrorKind, task: F) -> Self {
        Self { kind, task }
    }

    /// Returns why it was not accepted.
    pub fn kind(&self) -> SubmitErrorKind {
        self.kind
    }

    /// Returns the task, which has not run.
    pub fn into_task(self) -> F {
        self.task
    }
}

/// The message of a pool that is used in a forked child.
pub(super) const FORKED: &str = "this process was forked after the pool was created";

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the pool was stopped or cancelled",
            Self::Forked => FORKED,
            Self::NoWorkers => "the pool has no workers (`workers` is 0)",
            Self::QueueFull => "the queue is full (`max_queued_calls`)",
            Self::StoreFull => "the store of results is full (`max_results`)",
        })
    }
}

impl<F> fmt::Display for SubmitError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot accept the task: {}", self.kind)
    }
}

impl<F> fmt::Debug for SubmitError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<F> Error for SubmitError<F> {}

/// A permit; released on drop, which may wake a task that waits for one.
pub(crate) type QueuePermit = OwnedSemaphorePermit;

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
