//! What stands in a queue and who serves it: the state behind the queue's lock, and its moves.
//! Never waits, and never drops work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::job::{Job, WaitLimits};

/// The state of a queue.
pub(super) struct QueueInner {
    pub(super) queued: VecDeque<QueuedJob>,
    pub(super) limits: QueueLimits,
    pub(super) epoch: Epoch,
    /// Workers that were hired for this epoch, without those that are given up for lost.
    pub(super) workers: u32,
    pub(super) max_workers: u32,
    /// Those of them that sleep in `Queue::next`.
    pub(super) idle: usize,
    pub(super) running: Vec<RunningJob>,
    /// Workers of this epoch that were replaced and have not come back.
    pub(super) replaced: u32,
    pub(super) registered: u64,
    pub(super) state: QueueState,
    /// Nobody begins anything; the workers stay.
    pub(super) is_suspended: bool,
    /// When the queue is looked at next.
    pub(super) timer_at: Option<Instant>,
}

pub(super) struct QueuedJob {
    pub(super) job: Arc<dyn Job>,
    pub(super) wait_limits: WaitLimits,
}

impl Abandonment {
    /// Whether it was given up.
    pub(super) fn is_abandoned(self) -> bool {
        matches!(self, Self::Replaced | Self::NotReplaced)
    }
}

/// What a worker is at.
pub(super) struct RunningJob {
    pub(super) worker: WorkerId,
    pub(super) job: Arc<dyn Job>,
    /// How long it would have waited.
    pub(super) wait_limits: WaitLimits,
    pub(super) abandonment: Abandonment,
}

/// Whether a worker is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandonment {
    No,
    /// It has no thread that could be lost: whoever stops waiting for it ends it.
    Async,
    /// Another one may take its place.
    Replaced,
    /// As many were replaced as may be.
    NotReplaced,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueState {
    Open,
    /// Takes nothing new; what waits is done.
    Draining,
    Closed,
}

/// What a queue holds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Work that waits.
    pub(crate) max_queued: usize,
    /// Work that waits for a place.
    pub(crate) max_waiting_for_space: usize,
    /// Workers that are replaced before they come back.
    pub(crate) max_replaced: u32,
}

/// One period of a queue, in which the same workers serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(pub(super) u64);

/// A worker, for as long as it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerId {
    pub(super) number: u64,
    pub(super) epoch: Epoch,
}

/// A worker that ended what it was at.
pub(super) struct FinishedJob {
    pub(super) job: Option<Arc<dyn Job>>,
    pub(super) wait_limits: WaitLimits,
    pub(super) was_abandoned: bool,
    pub(super) is_active: bool,
}

impl Default for FinishedJob {
    /// A worker that was at nothing.
    fn default() -> Self {
        Self {
            job: None,
            wait_limits: WaitLimits::default(),
            was_abandoned: false,
            is_active: true,
        }
    }
}

impl QueueInner {
    /// Whether nobody works and nobody may be started.
    pub(super) fn has_no_available_worker(&self) -> bool {
        let lost = |running: &&RunningJob| {
            running.abandonment == Abandonment::NotReplaced && running.worker.epoch == self.epoch
        };
        let lost = self.running.iter().filter(lost).count();
        self.is_exhausted() && self.workers as usize <= lost
    }

    /// Work that is not to wait until a lost worker comes back.
    pub(super) fn take_fail_fast(&mut self) -> VecDeque<QueuedJob> {
        let (patient, impatient) = std::mem::take(&mut self.queued)
            .into_iter()
            .partition(|one| one.job.waits_for_abandoned());
        self.queued = patient;
        impatient
    }

    /// Whether one more worker is to be started for what waits.
    pub(super) fn request_worker(&mut self) -> Option<Epoch> {
        // A sleeper that was woken counts as idle until it runs, so what waits is counted too.
        let wants_no_more = self.idle >= self.queued.len() || self.workers >= self.max_workers;
        if wants_no_more || self.is_suspended {
            return None;
        }
        self.workers += 1;
        Some(self.epoch)
    }

    /// Ends what a worker was at.
    pub(super) fn finish_job(&mut self, worker: WorkerId) -> FinishedJob {
        let at = self.running.iter().position(|running| running.worker == worker);
        let Some(at) = at else { return FinishedJob::default() };
        let RunningJob { job, abandonment: lost, wait_limits, .. } = self.running.swap_remove(at);
        let mut stays = worker.epoch == self.epoch;
        if stays && lost == Abandonment::Replaced {
            self.replaced -= 1;
            stays = self.workers < self.max_workers;
            self.workers += u32::from(stays);
        }
        FinishedJob {
            job: Some(job),
            wait_limits,
            was_abandoned: lost.is_abandoned(),
            is_active: stays,
        }
    }

    /// The next work of a worker, if any waits and it may take it.
    pub(super) fn start_next(
        &mut self,
        worker: WorkerId,
    ) -> (Option<Arc<dyn Job>>, Option<Instant>) {
        let Some(job) = self.start(worker, Abandonment::No) else { return (None, None) };
        let due_at = self.arm_timer(job.due());
        (Some(job), due_at)
    }

    /// The next work of a worker without a thread, which ends what is late by itself.
    pub(super) fn start_next_async(&mut self, worker: WorkerId) -> Option<Arc<dyn Job>> {
        self.start(worker, Abandonment::Async)
    }

    fn start(&mut self, worker: WorkerId, lost: Abandonment) -> Option<Arc<dyn Job>> {
        if self.must_exit(worker) || self.is_suspended {
            return None;
        }
        let QueuedJob { job, wait_limits } = self.queued.pop_front()?;
        self.running.push(RunningJob {
            worker,
            job: Arc::clone(&job),
            wait_limits,
            abandonment: lost,
        });
        Some(job)
    }

    /// Whether a worker goes home.
    pub(super) fn must_exit(&self, worker: WorkerId) -> bool {
        let has_finished = self.state == QueueState::Draining && self.queued.is_empty();
        self.state == QueueState::Closed || self.epoch != worker.epoch || has_finished
    }

    /// Whether as many workers are lost as may be.
    pub(super) fn is_exhausted(&self) -> bool {
        let lost = |running: &RunningJob| {
            running.abandonment.is_abandoned() && running.worker.epoch == self.epoch
        };
        self.replaced >= self.limits.max_replaced && self.running.iter().any(lost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.running.is_empty()
    }

    /// Takes work out that waits.
    pub(super) fn remove(&mut self, job: &Arc<dyn Job>) -> Option<Arc<dyn Job>> {
        let at = self.queued.iter().position(|waiting| Arc::ptr_eq(&waiting.job, job))?;
        self.queued.remove(at).map(|waiting| waiting.job)
    }

    /// Work that nobody wants any more.
    pub(super) fn take_cancelled(&mut self) -> VecDeque<QueuedJob> {
        let (wanted, unwanted) =
            std::mem::take(&mut self.queued).into_iter().partition(|one| one.job.is_wanted());
        self.queued = wanted;
        unwanted
    }

    /// When to look, if that is earlier than was told before.
    pub(super) fn arm_timer(&mut self, due: Option<Instant>) -> Option<Instant> {
        let due = due?;
        if self.timer_at.is_some_and(|armed| armed <= due) {
            return None;
        }
        self.timer_at = Some(due);
        self.timer_at
    }
}
