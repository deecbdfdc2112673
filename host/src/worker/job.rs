//! Jobs of a queue: how long they may wait, and why they are rejected.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use super::caller_runtime::CallerRuntime;

/// A job for a worker. Shared, because the timer may complete it while it runs.
pub(crate) trait Job: Send + Sync + 'static {
    /// Runs the job on a worker of `generation`.
    fn run(self: Arc<Self>, generation: u64) -> JobOutcome;

    /// Runs the job in a task of a worker of `generation`.
    fn run_async(self: Arc<Self>, generation: u64) -> JobFuture {
        Box::pin(async move { self.run(generation) })
    }

    /// Returns the caller's runtime, if the job runs as a task of it and not of the host's runtime.
    fn caller_runtime(&self) -> Option<&CallerRuntime> {
        None
    }

    /// Completes the job with an error: it will not run.
    fn reject(self: Arc<Self>, reason: RejectReason);

    /// Completes the job with an error: it panicked.
    fn panicked(self: Arc<Self>);

    /// Returns whether the caller still waits for the result.
    fn is_active(&self) -> bool {
        true
    }

    /// Returns whether the job waits for abandoned workers to return, however long that takes.
    fn waits_for_abandoned(&self) -> bool {
        true
    }

    /// Returns when a running job must be checked.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Checks the deadline of a running job; completes it with an error if that has passed.
    fn check_deadline(self: Arc<Self>, _now: Instant) -> DeadlineCheck {
        DeadlineCheck::WithinDeadline
    }
}

/// A job that runs as a task.
pub(crate) type JobFuture = Pin<Box<dyn Future<Output = JobOutcome> + Send>>;

/// The outcome of running a job.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobOutcome {
    /// It was completed.
    Completed,
    /// The worker's epoch is over: the job goes back to its place in the queue.
    StaleEpoch,
}

/// The reason a job is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectReason {
    /// The queue was closed.
    Closed,
    /// Its deadline passed.
    DeadlineExceeded,
    /// It waited longer than `queue_timeout`.
    Expired,
    /// All workers are abandoned, and no other one is started.
    NoWorkers,
    /// The queue stayed full for as long as the job waits for space.
    QueueFull,
}

/// The result of a deadline check.
#[must_use]
pub(crate) enum DeadlineCheck {
    /// The job continues.
    WithinDeadline,
    /// The job was completed. What remains of it runs on another worker.
    Exceeded { remaining: Option<Arc<dyn Job>> },
}

/// The limits on how long a job may wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitLimits {
    /// It must start before this.
    pub(crate) deadline: Option<Instant>,
    /// It waits for space in a full queue until this; `None` if it does not wait.
    pub(crate) space_until: Option<Instant>,
    /// It is rejected if it has not started by this.
    pub(crate) expires_at: Option<Instant>,
}

impl WaitLimits {
    /// Returns the limit that is exceeded. `outside`: the job still waits for space.
    pub(super) fn exceeded(&self, now: Instant, outside: bool) -> Option<RejectReason> {
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if is_over(self.deadline) {
            return Some(RejectReason::DeadlineExceeded);
        }
        if is_over(self.expires_at) {
            return Some(RejectReason::Expired);
        }
        (outside && is_over(self.space_until)).then_some(RejectReason::QueueFull)
    }

    /// Returns when to check it next.
    pub(super) fn next_due(&self, outside: bool) -> Option<Instant> {
        let space_until = self.space_until.filter(|_| outside);
        [self.deadline, self.expires_at, space_until].into_iter().flatten().min()
    }
}
