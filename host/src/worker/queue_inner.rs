//! The state behind a queue's lock, and its transitions. Never waits, and never drops a job.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::caller_runtime::CallerRuntime;
use super::job::{Job, WaitLimits};

/// The state of a queue.
pub(super) struct QueueInner {
    pub(super) queued: VecDeque<QueuedJob>,
    pub(super) limits: QueueLimits,
    pub(super) epoch: Epoch,
    /// Workers of this epoch, without the abandoned ones that were replaced.
    pub(super) workers: u32,
    pub(super) max_workers: u32,
    /// Workers that sleep in `Queue::next`.
    pub(super) idle: usize,
    /// Idle workers that a push has woken and that do not run yet.
    pub(super) woken: usize,
    pub(super) running: Vec<RunningJob>,
    /// Workers of this epoch that were replaced and have not returned.
    pub(super) replaced: u32,
    pub(super) registered: u64,
    pub(super) state: QueueState,
    /// Whether no job starts; the workers stay.
    pub(super) is_suspended: bool,
    /// When the timer checks the queue next.
    pub(super) timer_at: Option<Instant>,
}

pub(super) struct QueuedJob {
    pub(super) job: Arc<dyn Job>,
    pub(super) wait_limits: WaitLimits,
}

impl Abandonment {
    /// Returns whether the worker was abandoned.
    pub(super) fn is_abandoned(self) -> bool {
        matches!(self, Self::Replaced | Self::NotReplaced)
    }
}

/// A job on a worker.
pub(super) struct RunningJob {
    pub(super) worker: WorkerId,
    pub(super) job: Arc<dyn Job>,
    /// Its limits, in case it is queued again.
    pub(super) wait_limits: WaitLimits,
    pub(super) abandonment: Abandonment,
}

/// Whether a worker was abandoned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandonment {
    No,
    /// It is a task, which cannot be stuck: cancelling the call ends it.
    Async,
    /// Abandoned and replaced.
    Replaced,
    /// Abandoned, but the maximum of workers was already replaced.
    NotReplaced,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueState {
    Open,
    /// Accepts no more jobs; queued ones run.
    Draining,
    Closed,
}

/// The limits of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Queued jobs.
    pub(crate) max_queued: usize,
    /// Jobs that wait for space in the queue.
    pub(crate) max_waiting_for_space: usize,
    /// Workers that are replaced before they return.
    pub(crate) max_replaced: u32,
}

/// A period of a queue that is served by the same workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(pub(super) u64);

/// The id of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerId {
    pub(super) number: u64,
    pub(super) epoch: Epoch,
}

/// A job that a worker has finished.
pub(super) struct FinishedJob {
    pub(super) job: Option<Arc<dyn Job>>,
    pub(super) wait_limits: WaitLimits,
    pub(super) was_abandoned: bool,
    pub(super) is_active: bool,
}

impl Default for FinishedJob {
    /// Returns a worker without a job.
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
    /// Returns whether no worker is available and none may be started.
    pub(super) fn has_no_available_worker(&self) -> bool {
        let is_stuck = |running: &&RunningJob| {
            running.abandonment == Abandonment::NotReplaced && running.worker.epoch == self.epoch
        };
        let stuck = self.running.iter().filter(is_stuck).count();
        self.is_exhausted() && self.workers as usize <= stuck
    }

    /// Takes the jobs that do not wait for abandoned workers to return.
    pub(super) fn take_fail_fast(&mut self) -> VecDeque<QueuedJob> {
        let (waiting, failing) = std::mem::take(&mut self.queued)
            .into_iter()
            .partition(|one| one.job.waits_for_abandoned());
        self.queued = waiting;
        failing
    }

    /// Counts one more worker if the queued jobs need it; the caller must start it.
    pub(super) fn request_worker(&mut self) -> Option<Epoch> {
        // A sleeper that was woken counts as idle until it runs, so queued jobs are counted too.
        let is_served = self.idle >= self.queued.len() || self.workers >= self.max_workers;
        if is_served || self.is_suspended {
            return None;
        }
        self.workers += 1;
        Some(self.epoch)
    }

    /// Finishes a worker's job.
    pub(super) fn finish_job(&mut self, worker: WorkerId) -> FinishedJob {
        let at = self.running.iter().position(|running| running.worker == worker);
        let Some(at) = at else { return FinishedJob::default() };
        let RunningJob { job, abandonment, wait_limits, .. } = self.running.swap_remove(at);
        let mut is_active = worker.epoch == self.epoch;
        if is_active && abandonment == Abandonment::Replaced {
            self.replaced -= 1;
            is_active = self.workers < self.max_workers;
            self.workers += u32::from(is_active);
        }
        FinishedJob {
            job: Some(job),
            wait_limits,
            was_abandoned: abandonment.is_abandoned(),
            is_active,
        }
    }

    /// Starts the next job on a worker, if one is queued and the worker may run it.
    pub(super) fn start_next(
        &mut self,
        worker: WorkerId,
    ) -> (Option<Arc<dyn Job>>, Option<Instant>) {
        let Some(job) = self.start(worker, Abandonment::No) else { return (None, None) };
        let due_at = self.arm_timer(job.due());
        (Some(job), due_at)
    }

    /// Starts the next job on a worker without a thread, which watches its own deadlines.
    pub(super) fn start_next_async(
        &mut self,
        worker: WorkerId,
    ) -> (Option<Arc<dyn Job>>, Option<Instant>) {
        let Some(job) = self.start(worker, Abandonment::Async) else { return (None, None) };
        let due_at = self.arm_timer(job.caller_runtime().map(CallerRuntime::check_at));
        (Some(job), due_at)
    }

    fn start(&mut self, worker: WorkerId, abandonment: Abandonment) -> Option<Arc<dyn Job>> {
        if self.must_exit(worker) || self.is_suspended {
            return None;
        }
        let QueuedJob { job, wait_limits } = self.queued.pop_front()?;
        self.running.push(RunningJob { worker, job: Arc::clone(&job), wait_limits, abandonment });
        Some(job)
    }

    /// Returns whether a worker must exit.
    pub(super) fn must_exit(&self, worker: WorkerId) -> bool {
        let has_drained = self.state == QueueState::Draining && self.queued.is_empty();
        self.state == QueueState::Closed || self.epoch != worker.epoch || has_drained
    }

    /// Returns whether the maximum of workers is abandoned.
    pub(super) fn is_exhausted(&self) -> bool {
        let is_abandoned = |running: &RunningJob| {
            running.abandonment.is_abandoned() && running.worker.epoch == self.epoch
        };
        self.replaced >= self.limits.max_replaced && self.running.iter().any(is_abandoned)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.running.is_empty()
    }

    /// Removes a queued job.
    pub(super) fn remove(&mut self, job: &Arc<dyn Job>) -> Option<Arc<dyn Job>> {
        let at = self.queued.iter().position(|waiting| Arc::ptr_eq(&waiting.job, job))?;
        self.queued.remove(at).map(|waiting| waiting.job)
    }

    /// Takes the queued jobs that were cancelled.
    pub(super) fn take_cancelled(&mut self) -> VecDeque<QueuedJob> {
        let (active, cancelled) =
            std::mem::take(&mut self.queued).into_iter().partition(|one| one.job.is_active());
        self.queued = active;
        cancelled
    }

    /// Returns when to check the queue, if that is earlier than returned before.
    pub(super) fn arm_timer(&mut self, due: Option<Instant>) -> Option<Instant> {
        let due = due?;
        if self.timer_at.is_some_and(|timer_at| timer_at <= due) {
            return None;
        }
        self.timer_at = Some(due);
        self.timer_at
    }
}
