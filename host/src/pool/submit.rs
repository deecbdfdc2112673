//! Why a pool did not accept a task. The task comes back with the reason.

use std::error::Error;
use std::fmt;

/// A task that was not accepted, and why.
pub struct SubmitError<F> {
    kind: SubmitErrorKind,
    task: F,
}

/// Why a task was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// The pool was stopped or cancelled.
    Closed,
    /// This process was forked after the pool was made, and its workers are in the parent only.
    Forked,
    /// The pool was made without workers, so the task would never run.
    NoWorkers,
    /// As many tasks wait as may wait.
    QueueFull,
    /// As many results are pending or were not taken as may be; take some.
    StoreFull,
}

impl<F> SubmitError<F> {
    pub(super) fn new(kind: SubmitErrorKind, task: F) -> Self {
        Self { kind, task }
    }

    /// Why it was not accepted.
    pub fn kind(&self) -> SubmitErrorKind {
        self.kind
    }

    /// The task, as it was given; it has not run.
    pub fn into_task(self) -> F {
        self.task
    }
}

/// The message of a pool that is used in a forked child.
pub(super) const FORKED: &str =
    "this process was forked after the pool was made; make another pool in the child";

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the pool was stopped or cancelled, and accepts no more tasks",
            Self::Forked => FORKED,
            Self::NoWorkers => "the pool has no workers; wanted `workers` of at least 1",
            Self::QueueFull => {
                "the queue is full; try again later, wait for a place, or raise `max_queued_calls`"
            }
            Self::StoreFull => {
                "the store of results is full; take results out, or raise `max_results`"
            }
        })
    }
}

impl<F> fmt::Display for SubmitError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task was not accepted: {}", self.kind)
    }
}

impl<F> fmt::Debug for SubmitError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<F> Error for SubmitError<F> {}
