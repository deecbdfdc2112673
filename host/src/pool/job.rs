//! What a queue holds: work, how long it may wait, and how it ends if its turn never comes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

/// Something that a worker does. Shared, because somebody may have to speak for it while it
/// runs.
pub(crate) trait Job: Send + Sync + 'static {
    /// Does it, on a worker of `generation`.
    fn run(self: Arc<Self>, generation: u64) -> JobOutcome;

    /// Does it, as a task of a worker of `generation`.
    fn run_async(self: Arc<Self>, generation: u64) -> JobFuture {
        Box::pin(async move { self.run(generation) })
    }

    /// Its turn never comes: whoever waits is to be told.
    fn reject(self: Arc<Self>, why: RejectReason);

    /// Doing it panicked: whoever waits is to be told.
    fn panicked(self: Arc<Self>);

    /// Whether anybody still wants it.
    fn is_wanted(&self) -> bool {
        true
    }

    /// Whether it waits for workers that are lost to come back, however long that takes.
    fn waits_for_abandoned(&self) -> bool {
        true
    }

    /// When what runs is to be looked at.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// It runs and may be late: if so, whoever waits is told now.
    fn check_deadline(self: Arc<Self>, _now: Instant) -> DeadlineCheck {
        DeadlineCheck::WithinDeadline
    }
}

/// Work that runs as a task.
pub(crate) type JobFuture = Pin<Box<dyn Future<Output = JobOutcome> + Send>>;

/// How work went.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobOutcome {
    /// It is done.
    Completed,
    /// It cannot be done on this worker any more: it goes back to its place.
    StaleEpoch,
}

/// Why the turn of work never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectReason {
    /// The queue was closed.
    Closed,
    /// Its deadline passed.
    DeadlineExceeded,
    /// It waited longer than work may.
    Expired,
    /// All workers are lost, and no further one is started.
    NoWorkers,
    /// The queue stayed full for as long as it wanted to wait for a place.
    QueueFull,
}

/// What became of work that was looked at while it ran.
#[must_use]
pub(crate) enum DeadlineCheck {
    /// It may go on.
    WithinDeadline,
    /// Nobody waits for it any more. The rest of it, if there is any, is done elsewhere.
    Exceeded { remaining: Option<Arc<dyn Job>> },
}

/// How long work may wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitLimits {
    /// Until then it has to begin.
    pub(crate) deadline: Option<Instant>,
    /// Until then it waits for a place in a queue that is full; none: not at all.
    pub(crate) space_until: Option<Instant>,
    /// From then on it is not worth beginning.
    pub(crate) expires_at: Option<Instant>,
}

impl WaitLimits {
    /// Why it waits no longer, if it does not. `outside`: it has no place in the queue yet.
    pub(super) fn exceeded(&self, now: Instant, outside: bool) -> Option<RejectReason> {
        let over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if over(self.deadline) {
            return Some(RejectReason::DeadlineExceeded);
        }
        if over(self.expires_at) {
            return Some(RejectReason::Expired);
        }
        (outside && over(self.space_until)).then_some(RejectReason::QueueFull)
    }

    /// When to look at it next.
    pub(super) fn next_due(&self, outside: bool) -> Option<Instant> {
        let place = self.space_until.filter(|_| outside);
        [self.deadline, self.expires_at, place].into_iter().flatten().min()
    }
}
