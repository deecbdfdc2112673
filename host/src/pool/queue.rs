//! A queue of work with a limit, the sleep of the workers that wait for it, and what they are
//! at. Workers are hired for an epoch; when the next one begins, they go home.
//! Checked with loom by `tests/loom`, which brings its own locks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::line::{Epoch, Gate, Line, Lost, QueueLimits, Risen, Running, Seat, Waiting};
use super::locks::{Condvar, Mutex, MutexGuard};
use super::quiet::quietly;
use super::work::{Never, Patience, Work};
use crate::sync::lock;

/// A bounded queue that many push to and many take from, first in, first out.
pub(crate) struct Queue {
    pub(super) inner: Mutex<Line>,
    filled: Condvar,
    /// Nothing waits or runs any more, in a queue that takes nothing new.
    pub(super) emptied: Condvar,
}

/// What became of work that was to be queued.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for the workers that there are.
    Waits,
    /// It waits, and a worker is to be started for this epoch.
    Hire(Epoch),
    /// The queue is full; the work was dropped.
    Full,
    /// The queue takes nothing any more; the work was dropped.
    Closed,
}

/// What a worker came back to.
#[must_use]
pub(crate) struct Taken {
    /// None: it goes home.
    pub(crate) work: Option<Arc<dyn Work>>,
    /// It had been given up for lost.
    pub(crate) was_lost: bool,
}

/// What a look at the queue found.
#[must_use]
#[derive(Default)]
pub(crate) struct Looked {
    /// Work that waits no longer.
    pub(crate) never: Vec<(Arc<dyn Work>, Never)>,
    /// Work that runs and may be late.
    pub(crate) late: Vec<Arc<dyn Work>>,
    pub(crate) next: Option<Instant>,
    /// A worker is to be started.
    pub(crate) hire: Option<Epoch>,
    /// Dropped by whoever looks, when nothing is locked.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) unwanted: VecDeque<Waiting>,
}

/// What it means that a worker was given up for lost.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// A worker is to be started in its place.
    pub(crate) hire: Option<Epoch>,
    /// No further one will be replaced before one comes back.
    pub(crate) is_stuck: bool,
}

impl Queue {
    /// A queue without workers that holds nothing yet.
    pub(crate) fn new() -> Self {
        let limits = QueueLimits { places: 0, outside: 0, replaced: 0 };
        let inner = Line {
            waiting: VecDeque::new(),
            limits,
            epoch: Epoch(0),
            workers: 0,
            workers_max: 0,
            idle: 0,
            running: Vec::new(),
            replaced: 0,
            seats: 0,
            gate: Gate::Open,
            is_suspended: false,
            armed: None,
        };
        Self { inner: Mutex::new(inner), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Puts work at the end, without waiting. The second answer is when to [`look`](Self::look),
    /// if that is earlier than was told before.
    pub(crate) fn push(
        &self,
        work: Arc<dyn Work>,
        patience: Patience,
    ) -> (Pushed, Option<Instant>) {
        let mut inner = lock(&self.inner);
        if inner.gate != Gate::Open {
            return (Pushed::Closed, None);
        }
        let mut unwanted = VecDeque::new();
        if inner.waiting.len() >= inner.limits.places {
            unwanted = inner.take_unwanted();
        }
        let outside = inner.waiting.len() >= inner.limits.places;
        let outside_max = inner.limits.places.saturating_add(inner.limits.outside);
        if outside && (patience.place.is_none() || inner.waiting.len() >= outside_max) {
            drop(inner);
            return (Pushed::Full, None);
        }
        let look_at = inner.arm(patience.due(outside));
        inner.waiting.push_back(Waiting { work, patience });
        let pushed = self.pushed(inner);
        drop(unwanted);
        (pushed, look_at)
    }

    /// Puts work back in its place at the front, which a worker took for nothing, however full
    /// the queue is.
    pub(crate) fn hand_back(&self, seat: Seat, work: Arc<dyn Work>) -> Pushed {
        let mut inner = lock(&self.inner);
        let Risen { ended: _same, patience, .. } = inner.rise(seat);
        if inner.gate == Gate::Closed {
            if inner.is_empty() {
                self.emptied.notify_all();
            }
            drop(inner);
            quietly(|| work.never(Never::Closed));
            return Pushed::Closed;
        }
        inner.waiting.push_front(Waiting { work, patience });
        self.pushed(inner)
    }

    fn pushed(&self, mut inner: MutexGuard<'_, Line>) -> Pushed {
        let pushed = inner.hire().map_or(Pushed::Waits, Pushed::Hire);
        drop(inner);
        self.filled.notify_one();
        pushed
    }

    /// A place for a worker of `epoch`.
    pub(crate) fn sit(&self, epoch: Epoch) -> Seat {
        let mut inner = lock(&self.inner);
        inner.seats += 1;
        Seat { number: inner.seats, epoch }
    }

    /// Ends what the worker was at, and takes the first work, sleeping until there is some. The
    /// second answer is as for [`push`](Self::push).
    pub(crate) fn take(&self, seat: Seat) -> (Taken, Option<Instant>) {
        let mut inner = lock(&self.inner);
        let Risen { ended, was_lost, stays, .. } = inner.rise(seat);
        if ended.is_some() && inner.gate != Gate::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let (work, look_at) = match stays {
            true => inner.begin_next(seat),
            false => (None, None),
        };
        // One that was waited for does not sleep before that is told.
        let is_home = !stays || inner.is_over_for(seat) || was_lost;
        if work.is_some() || is_home {
            if work.is_none() && stays && was_lost && inner.epoch == seat.epoch {
                inner.workers -= 1;
            }
            drop(inner);
            // Not under the lock: it may be the last that holds a plugin's memory.
            drop(ended);
            return (Taken { work, was_lost }, look_at);
        }
        if ended.is_some() {
            drop(inner);
            drop(ended);
            inner = lock(&self.inner);
        }
        loop {
            if inner.is_over_for(seat) {
                return (Taken { work: None, was_lost }, None);
            }
            if let (Some(work), look_at) = inner.begin_next(seat) {
                return (Taken { work: Some(work), was_lost }, look_at);
            }
            inner.idle += 1;
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
            if inner.epoch == seat.epoch {
                inner.idle -= 1;
            }
        }
    }

    /// A worker that was to be started for `epoch` could not be. If there is no other, nobody
    /// would do `work`: takes it out, if it still waits.
    pub(crate) fn not_hired(
        &self,
        epoch: Epoch,
        work: Option<&Arc<dyn Work>>,
    ) -> Option<Arc<dyn Work>> {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return None;
        }
        inner.workers -= 1;
        if inner.workers > 0 {
            return None;
        }
        let taken = work.and_then(|work| inner.take_out(work));
        if inner.gate != Gate::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        taken
    }

    /// Lets nobody begin anything; the workers stay.
    pub(crate) fn suspend(&self) {
        lock(&self.inner).is_suspended = true;
    }

    /// Lets the workers go on. Answers with how many are to be started besides for the work that
    /// waits.
    pub(crate) fn resume(&self) -> (Epoch, u32) {
        let mut inner = lock(&self.inner);
        inner.is_suspended = false;
        let wanted = inner.waiting.len().saturating_sub(inner.idle);
        let hires = (0..wanted).take_while(|_| inner.hire().is_some()).count();
        let hires = u32::try_from(hires).unwrap_or(u32::MAX);
        let epoch = inner.epoch;
        drop(inner);
        self.filled.notify_all();
        (epoch, hires)
    }

    /// Begins an epoch with at most so many workers; the workers before it go home. Answers with
    /// how many are to be started now for the work that waits.
    pub(crate) fn begin(&self, workers_max: u32, limits: QueueLimits) -> (Epoch, u32) {
        let mut inner = lock(&self.inner);
        inner.epoch = Epoch(inner.epoch.0 + 1);
        inner.limits = limits;
        inner.workers_max = workers_max;
        inner.workers = u32::try_from(inner.waiting.len()).unwrap_or(u32::MAX).min(workers_max);
        inner.idle = 0;
        inner.replaced = 0;
        inner.is_suspended = false;
        let begun = (inner.epoch, inner.workers);
        drop(inner);
        self.filled.notify_all();
        begun
    }

    /// Looks at what waits and what runs; what waits no longer is taken out.
    pub(crate) fn look(&self, now: Instant) -> Looked {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        // What nobody wants takes no place from what waits for one.
        let mut looked = Looked { unwanted: inner.take_unwanted(), ..Looked::default() };
        let mut next: Option<Instant> = None;
        let mut sooner = |due: Option<Instant>| next = next.into_iter().chain(due).min();
        let waiting = std::mem::take(&mut inner.waiting);
        for one in waiting {
            let outside = inner.waiting.len() >= inner.limits.places;
            match one.patience.is_over(now, outside) {
                Some(why) => looked.never.push((one.work, why)),
                None => {
                    sooner(one.patience.due(outside));
                    inner.waiting.push_back(one);
                }
            }
        }
        for Running { work, lost, .. } in &inner.running {
            match work.due() {
                _ if *lost != Lost::No => {}
                Some(due) if due <= now => looked.late.push(Arc::clone(work)),
                due => sooner(due),
            }
        }
        if inner.workers == 0 && !inner.waiting.is_empty() {
            // The system gave no thread before.
            looked.hire = inner.hire();
        }
        inner.armed = next;
        looked.next = next;
        if inner.gate != Gate::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        looked
    }

    /// Gives a worker up for lost if it is still at `work`; `rest` of it is done by others.
    pub(crate) fn give_up(&self, work: &Arc<dyn Work>, rest: Option<Arc<dyn Work>>) -> GivenUp {
        let mut inner = lock(&self.inner);
        let epoch = inner.epoch;
        let may_replace = inner.replaced < inner.limits.replaced;
        let at_it =
            |running: &&mut Running| Arc::ptr_eq(&running.work, work) && running.lost == Lost::No;
        if let Some(running) = inner.running.iter_mut().find(at_it) {
            running.lost = if may_replace { Lost::Replaced } else { Lost::NotReplaced };
            if running.seat.epoch == epoch && may_replace {
                inner.replaced += 1;
                inner.workers -= 1;
            }
        }
        let mut left = rest;
        let why = match inner.gate {
            Gate::Closed => Never::Closed,
            Gate::Open | Gate::Finishing => Never::Stuck,
        };
        if inner.gate != Gate::Closed
            && let Some(work) = left.take()
        {
            inner.waiting.push_front(Waiting { work, patience: Patience::default() });
        }
        // Who took it back does not wait for it to be looked at.
        let unwanted = if work.is_wanted() { None } else { inner.take_out(work) };
        let impatient = match inner.is_deserted() {
            true => inner.take_impatient(),
            false => VecDeque::new(),
        };
        if inner.gate != Gate::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let given_up = GivenUp { hire: inner.hire(), is_stuck: inner.is_stuck() };
        drop(inner);
        self.filled.notify_one();
        drop(unwanted);
        for work in impatient.into_iter().map(|waiting| waiting.work).chain(left) {
            quietly(|| work.never(why));
        }
        given_up
    }

    /// Whether nobody works, and nobody is started before a lost worker comes back.
    pub(crate) fn is_deserted(&self) -> bool {
        lock(&self.inner).is_deserted()
    }

    /// Whether as many workers are lost as may be, and none has come back.
    pub(crate) fn is_stuck(&self) -> bool {
        lock(&self.inner).is_stuck()
    }

    /// Takes nothing new; what waits is done, then the workers go home.
    pub(crate) fn finish(&self) {
        let mut inner = lock(&self.inner);
        if inner.gate == Gate::Open {
            inner.gate = Gate::Finishing;
        }
        drop(inner);
        self.filled.notify_all();
    }

    /// Waits until nothing waits or runs, at most until `deadline`; whether that is so.
    pub(crate) fn wait_empty(&self, deadline: Instant) -> bool {
        let mut inner = lock(&self.inner);
        while !inner.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.emptied.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Closes the queue, wakes the workers, and tells what waits that it never runs.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut inner = lock(&self.inner);
            inner.gate = Gate::Closed;
            std::mem::take(&mut inner.waiting)
        };
        self.filled.notify_all();
        self.emptied.notify_all();
        for waiting in waiting {
            quietly(|| waiting.work.never(Never::Closed));
        }
    }

    /// Pieces of work that wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.inner).waiting.len()
    }

    /// Pieces of work that run, and those of them that nobody waits for any more.
    pub(crate) fn running(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        let lost = inner.running.iter().filter(|running| running.lost.is_lost()).count();
        (inner.running.len(), lost)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}
