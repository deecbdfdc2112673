//! What stands in a queue and who serves it: the state behind the queue's lock, and its moves.
//! Never waits, and never drops work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::work::{Patience, Work};

/// The state of a queue.
pub(super) struct Line {
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) limits: QueueLimits,
    pub(super) epoch: Epoch,
    /// Workers that were hired for this epoch, without those that are given up for lost.
    pub(super) workers: u32,
    pub(super) workers_max: u32,
    /// Those of them that sleep in `take`.
    pub(super) idle: usize,
    pub(super) running: Vec<Running>,
    /// Workers of this epoch that were replaced and have not come back.
    pub(super) replaced: u32,
    pub(super) seats: u64,
    pub(super) gate: Gate,
    /// Nobody begins anything; the workers stay.
    pub(super) is_suspended: bool,
    /// When the queue is looked at next.
    pub(super) armed: Option<Instant>,
}

pub(super) struct Waiting {
    pub(super) work: Arc<dyn Work>,
    pub(super) patience: Patience,
}

impl Lost {
    /// Whether it was given up.
    pub(super) fn is_lost(self) -> bool {
        matches!(self, Self::Replaced | Self::NotReplaced)
    }
}

/// What a worker is at.
pub(super) struct Running {
    pub(super) seat: Seat,
    pub(super) work: Arc<dyn Work>,
    /// How long it would have waited.
    pub(super) patience: Patience,
    pub(super) lost: Lost,
}

/// Whether a worker is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    No,
    /// It has no thread that could be lost: whoever stops waiting for it ends it.
    Task,
    /// Another one may take its place.
    Replaced,
    /// As many were replaced as may be.
    NotReplaced,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Takes nothing new; what waits is done.
    Finishing,
    Closed,
}

/// What a queue holds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Work that waits.
    pub(crate) places: usize,
    /// Work that waits for a place.
    pub(crate) outside: usize,
    /// Workers that are replaced before they come back.
    pub(crate) replaced: u32,
}

/// One period of a queue, in which the same workers serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(pub(super) u64);

/// A worker, for as long as it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(super) number: u64,
    pub(super) epoch: Epoch,
}

/// A worker that ended what it was at.
pub(super) struct Risen {
    pub(super) ended: Option<Arc<dyn Work>>,
    pub(super) patience: Patience,
    pub(super) was_lost: bool,
    pub(super) stays: bool,
}

impl Default for Risen {
    /// A worker that was at nothing.
    fn default() -> Self {
        Self { ended: None, patience: Patience::default(), was_lost: false, stays: true }
    }
}

impl Line {
    /// Whether nobody works and nobody may be started.
    pub(super) fn is_deserted(&self) -> bool {
        let lost = |running: &&Running| {
            running.lost == Lost::NotReplaced && running.seat.epoch == self.epoch
        };
        let lost = self.running.iter().filter(lost).count();
        self.is_stuck() && self.workers as usize <= lost
    }

    /// Work that is not to wait until a lost worker comes back.
    pub(super) fn take_impatient(&mut self) -> VecDeque<Waiting> {
        let (patient, impatient) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|one| one.work.waits_for_the_lost());
        self.waiting = patient;
        impatient
    }

    /// Whether one more worker is to be started for what waits.
    pub(super) fn hire(&mut self) -> Option<Epoch> {
        // A sleeper that was woken counts as idle until it runs, so what waits is counted too.
        let wants_no_more = self.idle >= self.waiting.len() || self.workers >= self.workers_max;
        if wants_no_more || self.is_suspended {
            return None;
        }
        self.workers += 1;
        Some(self.epoch)
    }

    /// Ends what a worker was at.
    pub(super) fn rise(&mut self, seat: Seat) -> Risen {
        let at = self.running.iter().position(|running| running.seat == seat);
        let Some(at) = at else { return Risen::default() };
        let Running { work, lost, patience, .. } = self.running.swap_remove(at);
        let mut stays = seat.epoch == self.epoch;
        if stays && lost == Lost::Replaced {
            self.replaced -= 1;
            stays = self.workers < self.workers_max;
            self.workers += u32::from(stays);
        }
        Risen { ended: Some(work), patience, was_lost: lost.is_lost(), stays }
    }

    /// The next work of a worker, if any waits and it may take it.
    pub(super) fn begin_next(&mut self, seat: Seat) -> (Option<Arc<dyn Work>>, Option<Instant>) {
        let Some(work) = self.begin(seat, Lost::No) else { return (None, None) };
        let look_at = self.arm(work.due());
        (Some(work), look_at)
    }

    /// The next work of a worker without a thread, which ends what is late by itself.
    pub(super) fn begin_task(&mut self, seat: Seat) -> Option<Arc<dyn Work>> {
        self.begin(seat, Lost::Task)
    }

    fn begin(&mut self, seat: Seat, lost: Lost) -> Option<Arc<dyn Work>> {
        if self.is_over_for(seat) || self.is_suspended {
            return None;
        }
        let Waiting { work, patience } = self.waiting.pop_front()?;
        self.running.push(Running { seat, work: Arc::clone(&work), patience, lost });
        Some(work)
    }

    /// Whether a worker goes home.
    pub(super) fn is_over_for(&self, seat: Seat) -> bool {
        let has_finished = self.gate == Gate::Finishing && self.waiting.is_empty();
        self.gate == Gate::Closed || self.epoch != seat.epoch || has_finished
    }

    /// Whether as many workers are lost as may be.
    pub(super) fn is_stuck(&self) -> bool {
        let lost = |running: &Running| running.lost.is_lost() && running.seat.epoch == self.epoch;
        self.replaced >= self.limits.replaced && self.running.iter().any(lost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes work out that waits.
    pub(super) fn take_out(&mut self, work: &Arc<dyn Work>) -> Option<Arc<dyn Work>> {
        let at = self.waiting.iter().position(|waiting| Arc::ptr_eq(&waiting.work, work))?;
        self.waiting.remove(at).map(|waiting| waiting.work)
    }

    /// Work that nobody wants any more.
    pub(super) fn take_unwanted(&mut self) -> VecDeque<Waiting> {
        let (wanted, unwanted) =
            std::mem::take(&mut self.waiting).into_iter().partition(|one| one.work.is_wanted());
        self.waiting = wanted;
        unwanted
    }

    /// When to look, if that is earlier than was told before.
    pub(super) fn arm(&mut self, due: Option<Instant>) -> Option<Instant> {
        let due = due?;
        if self.armed.is_some_and(|armed| armed <= due) {
            return None;
        }
        self.armed = Some(due);
        self.armed
    }
}
