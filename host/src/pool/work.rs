//! What a queue holds: work, how long it may wait, and how it ends if its turn never comes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

/// Something that a worker does. Shared, because somebody may have to speak for it while it
/// runs.
pub(crate) trait Work: Send + Sync + 'static {
    /// Does it, on a worker of `generation`.
    fn run(self: Arc<Self>, generation: u64) -> Ran;

    /// Does it, as a task of a worker of `generation`.
    fn run_later(self: Arc<Self>, generation: u64) -> RunLater {
        Box::pin(async move { self.run(generation) })
    }

    /// Its turn never comes: whoever waits is to be told.
    fn never(self: Arc<Self>, why: Never);

    /// Doing it panicked: whoever waits is to be told.
    fn broke(self: Arc<Self>);

    /// Whether anybody still wants it.
    fn is_wanted(&self) -> bool {
        true
    }

    /// Whether it waits for workers that are lost to come back, however long that takes.
    fn waits_for_the_lost(&self) -> bool {
        true
    }

    /// When what runs is to be looked at.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// It runs and may be late: if so, whoever waits is told now.
    fn overrun(self: Arc<Self>, _now: Instant) -> Overrun {
        Overrun::InTime
    }
}

/// Work that runs as a task.
pub(crate) type RunLater = Pin<Box<dyn Future<Output = Ran> + Send>>;

/// How work went.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// It is done.
    Done,
    /// It cannot be done on this worker any more: it goes back to its place.
    NotHere,
}

/// Why the turn of work never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Never {
    /// The queue was closed.
    Closed,
    /// Its deadline passed.
    Late,
    /// It waited longer than work may.
    TooOld,
    /// All workers are lost, and no further one is started.
    Stuck,
    /// The queue stayed full for as long as it wanted to wait for a place.
    NoPlace,
}

/// What became of work that was looked at while it ran.
#[must_use]
pub(crate) enum Overrun {
    /// It may go on.
    InTime,
    /// Nobody waits for it any more. The rest of it, if there is any, is done elsewhere.
    Late { rest: Option<Arc<dyn Work>> },
}

/// How long work may wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// Until then it has to begin.
    pub(crate) late: Option<Instant>,
    /// Until then it waits for a place in a queue that is full; none: not at all.
    pub(crate) place: Option<Instant>,
    /// From then on it is not worth beginning.
    pub(crate) old: Option<Instant>,
}

impl Patience {
    /// Why it waits no longer, if it does not. `outside`: it has no place in the queue yet.
    pub(super) fn is_over(&self, now: Instant, outside: bool) -> Option<Never> {
        let over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if over(self.late) {
            return Some(Never::Late);
        }
        if over(self.old) {
            return Some(Never::TooOld);
        }
        (outside && over(self.place)).then_some(Never::NoPlace)
    }

    /// When to look at it next.
    pub(super) fn due(&self, outside: bool) -> Option<Instant> {
        let place = self.place.filter(|_| outside);
        [self.late, self.old, place].into_iter().flatten().min()
    }
}
