//! Errors of a submit. The task is returned with the reason.

use std::error::Error;
use std::fmt;

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
