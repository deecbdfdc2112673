//! Tasks of a pool, as its caller sees them: the error of a submit, id, ticket and outcome.

use std::error::Error;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::worker_pool::PoolInner;
use crate::sync::{block_on, block_on_until, deadline_in};

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
    /// stays in the store. Only [`TaskTicket::wait`] returns this.
    WaitInside,
    /// This process was forked after the pool was created; the workers exist only in the parent.
    Forked,
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

impl std::error::Error for TaskError {}

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
