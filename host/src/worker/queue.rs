//! A bounded queue of jobs, the workers that sleep at it, and their running jobs. Workers serve one
//! epoch and exit when the next one starts.
//! Checked with loom by `tests/loom`, which brings its own locks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::caller_runtime::CallerRuntime;
use super::job::{Job, RejectReason, WaitLimits};
use super::locks::{Condvar, Mutex, MutexGuard};
use super::queue_inner::{
    Abandonment, Epoch, FinishedJob, QueueInner, QueueLimits, QueueState, QueuedJob, RunningJob,
    WorkerId,
};
use crate::panic::drop_panic;
use crate::sync::lock;

/// A bounded queue with many producers and consumers, first in, first out.
pub(crate) struct Queue {
    pub(super) inner: Mutex<QueueInner>,
    filled: Condvar,
    /// Notified when a queue that accepts no more jobs has none queued or running.
    pub(super) emptied: Condvar,
}

/// The outcome of a push.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PushOutcome {
    /// The job waits for the existing workers.
    Queued,
    /// The job waits, and the caller must start a worker for this epoch.
    SpawnWorker(Epoch),
    /// The queue is full; the job was dropped.
    Full,
    /// The queue is closed; the job was dropped.
    Closed,
}

/// The next job of a worker.
#[must_use]
pub(crate) struct NextJob {
    /// `None` if the worker must exit.
    pub(crate) job: Option<Arc<dyn Job>>,
    /// Whether its previous job had been abandoned.
    pub(crate) was_abandoned: bool,
}

/// Jobs that a check found due.
#[must_use]
#[derive(Default)]
pub(crate) struct DueJobs {
    /// Queued jobs whose wait limits are exceeded.
    pub(crate) rejected: Vec<(Arc<dyn Job>, RejectReason)>,
    /// Running jobs whose deadline may have passed.
    pub(crate) overdue: Vec<Arc<dyn Job>>,
    /// Running tasks of callers' runtimes that must be checked.
    pub(crate) checks: Vec<Arc<dyn Job>>,
    pub(crate) next_due: Option<Instant>,
    /// The caller must start a worker for this epoch.
    pub(crate) spawn_worker: Option<Epoch>,
    /// Dropped by the caller, without the lock.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) cancelled: VecDeque<QueuedJob>,
}

/// The outcome of abandoning a worker.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AbandonOutcome {
    /// The caller must start a worker for this epoch.
    pub(crate) spawn_worker: Option<Epoch>,
    /// No other worker is replaced before one returns.
    pub(crate) is_exhausted: bool,
}

impl Queue {
    /// Creates an empty queue without workers.
    pub(crate) fn new() -> Self {
        let limits = QueueLimits { max_queued: 0, max_waiting_for_space: 0, max_replaced: 0 };
        let inner = QueueInner {
            queued: VecDeque::new(),
            limits,
            epoch: Epoch(0),
            workers: 0,
            max_workers: 0,
            idle: 0,
            woken: 0,
            running: Vec::new(),
            replaced: 0,
            registered: 0,
            state: QueueState::Open,
            is_suspended: false,
            timer_at: None,
        };
        Self { inner: Mutex::new(inner), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Appends a job without waiting. Also returns when to call [`take_due`](Self::take_due), if
    /// that is earlier than returned before.
    pub(crate) fn push(
        &self,
        job: Arc<dyn Job>,
        wait_limits: WaitLimits,
    ) -> (PushOutcome, Option<Instant>) {
        let mut inner = lock(&self.inner);
        if inner.state != QueueState::Open {
            return (PushOutcome::Closed, None);
        }
        let mut cancelled = VecDeque::new();
        if inner.queued.len() >= inner.limits.max_queued {
            cancelled = inner.take_cancelled();
        }
        let outside = inner.queued.len() >= inner.limits.max_queued;
        let max_outside =
            inner.limits.max_queued.saturating_add(inner.limits.max_waiting_for_space);
        if outside && (wait_limits.space_until.is_none() || inner.queued.len() >= max_outside) {
            drop(inner);
            return (PushOutcome::Full, None);
        }
        let due_at = inner.arm_timer(wait_limits.next_due(outside));
        inner.queued.push_back(QueuedJob { job, wait_limits });
        let pushed = self.push_outcome(inner);
        drop(cancelled);
        (pushed, due_at)
    }

    /// Puts a job that a worker could not run back to the front, however full the queue is.
    pub(crate) fn requeue(&self, worker: WorkerId, job: Arc<dyn Job>) -> PushOutcome {
        let mut inner = lock(&self.inner);
        let FinishedJob { job: _same, wait_limits, .. } = inner.finish_job(worker);
        if inner.state == QueueState::Closed {
            if inner.is_empty() {
                self.emptied.notify_all();
            }
            drop(inner);
            drop_panic(|| job.reject(RejectReason::Closed));
            return PushOutcome::Closed;
        }
        inner.queued.push_front(QueuedJob { job, wait_limits });
        self.push_outcome(inner)
    }

    fn push_outcome(&self, mut inner: MutexGuard<'_, QueueInner>) -> PushOutcome {
        let pushed = inner.request_worker().map_or(PushOutcome::Queued, PushOutcome::SpawnWorker);
        // A worker that does not sleep, or that was woken, takes the lock before it sleeps, and
        // finds the job.
        let has_sleeper = inner.idle > inner.woken;
        inner.woken += usize::from(has_sleeper);
        drop(inner);
        if has_sleeper {
            self.filled.notify_one();
        }
        pushed
    }

    /// Returns an id for a worker of `epoch`.
    pub(crate) fn register(&self, epoch: Epoch) -> WorkerId {
        let mut inner = lock(&self.inner);
        inner.registered += 1;
        WorkerId { number: inner.registered, epoch }
    }

    /// Finishes the worker's job and waits for the next one. Also returns when to call
    /// [`take_due`](Self::take_due), as [`push`](Self::push).
    pub(crate) fn next(&self, worker: WorkerId) -> (NextJob, Option<Instant>) {
        let mut inner = lock(&self.inner);
        let FinishedJob { job: finished, was_abandoned, is_active, .. } = inner.finish_job(worker);
        if finished.is_some() && inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let (job, due_at) = match is_active {
            true => inner.start_next(worker),
            false => (None, None),
        };
        // An abandoned worker returns to the caller first, which reports its return.
        let must_return = !is_active || inner.must_exit(worker) || was_abandoned;
        if job.is_some() || must_return {
            if job.is_none() && is_active && was_abandoned && inner.epoch == worker.epoch {
                inner.workers -= 1;
            }
            drop(inner);
            // Not under the lock: it may be the last that holds a plugin's memory.
            drop(finished);
            return (NextJob { job, was_abandoned }, due_at);
        }
        if finished.is_some() {
            drop(inner);
            drop(finished);
            inner = lock(&self.inner);
        }
        loop {
            if inner.must_exit(worker) {
                return (NextJob { job: None, was_abandoned }, None);
            }
            if let (Some(job), due_at) = inner.start_next(worker) {
                return (NextJob { job: Some(job), was_abandoned }, due_at);
            }
            inner.idle += 1;
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
            if inner.epoch == worker.epoch {
                inner.idle -= 1;
                inner.woken = inner.woken.saturating_sub(1);
            }
        }
    }

    /// Records that a worker could not be started for `epoch`. Without any other worker, removes
    /// `job` if it is still queued and returns it.
    pub(crate) fn worker_spawn_failed(
        &self,
        epoch: Epoch,
        job: Option<&Arc<dyn Job>>,
    ) -> Option<Arc<dyn Job>> {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return None;
        }
        inner.workers -= 1;
        if inner.workers > 0 {
            return None;
        }
        let removed = job.and_then(|job| inner.remove(job));
        if inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        removed
    }

    /// Starts no more jobs; the workers stay.
    pub(crate) fn suspend(&self) {
        lock(&self.inner).is_suspended = true;
    }

    /// Starts jobs again. Returns how many workers the caller must start for the queued jobs.
    pub(crate) fn resume(&self) -> (Epoch, u32) {
        let mut inner = lock(&self.inner);
        inner.is_suspended = false;
        let needed = inner.queued.len().saturating_sub(inner.idle);
        let spawns = (0..needed).take_while(|_| inner.request_worker().is_some()).count();
        let spawns = u32::try_from(spawns).unwrap_or(u32::MAX);
        let epoch = inner.epoch;
        drop(inner);
        self.filled.notify_all();
        (epoch, spawns)
    }

    /// Starts an epoch with at most `max_workers`; workers of the previous one exit. Returns how
    /// many workers the caller must start for the queued jobs.
    pub(crate) fn start_epoch(&self, max_workers: u32, limits: QueueLimits) -> (Epoch, u32) {
        let mut inner = lock(&self.inner);
        inner.epoch = Epoch(inner.epoch.0 + 1);
        inner.limits = limits;
        inner.max_workers = max_workers;
        inner.workers = u32::try_from(inner.queued.len()).unwrap_or(u32::MAX).min(max_workers);
        inner.idle = 0;
        inner.woken = 0;
        inner.replaced = 0;
        inner.is_suspended = false;
        let started = (inner.epoch, inner.workers);
        drop(inner);
        self.filled.notify_all();
        started
    }

    /// Checks all jobs and takes those whose limits are exceeded.
    pub(crate) fn take_due(&self, now: Instant) -> DueJobs {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        // Cancelled jobs first: they take no space from those that wait for it.
        let mut due_jobs = DueJobs { cancelled: inner.take_cancelled(), ..DueJobs::default() };
        let mut next: Option<Instant> = None;
        let mut sooner = |due: Option<Instant>| next = next.into_iter().chain(due).min();
        let waiting = std::mem::take(&mut inner.queued);
        for one in waiting {
            let outside = inner.queued.len() >= inner.limits.max_queued;
            match one.wait_limits.exceeded(now, outside) {
                Some(reason) => due_jobs.rejected.push((one.job, reason)),
                None => {
                    sooner(one.wait_limits.next_due(outside));
                    inner.queued.push_back(one);
                }
            }
        }
        for RunningJob { job, abandonment, .. } in &inner.running {
            match abandonment {
                Abandonment::No => match job.due() {
                    Some(due) if due <= now => due_jobs.overdue.push(Arc::clone(job)),
                    due => sooner(due),
                },
                Abandonment::Async => match job.caller_runtime().map(CallerRuntime::check_at) {
                    Some(at) if at <= now => due_jobs.checks.push(Arc::clone(job)),
                    at => sooner(at),
                },
                Abandonment::Replaced | Abandonment::NotReplaced => {}
            }
        }
        if inner.workers == 0 && !inner.queued.is_empty() {
            // A worker thread could not be started before.
            due_jobs.spawn_worker = inner.request_worker();
        }
        inner.timer_at = next;
        due_jobs.next_due = next;
        if inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        due_jobs
    }

    /// Abandons the worker that runs `job`, if it still does; `remaining` is queued for others.
    pub(crate) fn abandon(
        &self,
        job: &Arc<dyn Job>,
        mut remaining: Option<Arc<dyn Job>>,
    ) -> AbandonOutcome {
        let mut inner = lock(&self.inner);
        let epoch = inner.epoch;
        let may_replace = inner.replaced < inner.limits.max_replaced;
        let runs_it = |running: &&mut RunningJob| {
            Arc::ptr_eq(&running.job, job) && running.abandonment == Abandonment::No
        };
        if let Some(running) = inner.running.iter_mut().find(runs_it) {
            running.abandonment =
                if may_replace { Abandonment::Replaced } else { Abandonment::NotReplaced };
            if running.worker.epoch == epoch && may_replace {
                inner.replaced += 1;
                inner.workers -= 1;
            }
        }
        let reason = match inner.state {
            QueueState::Closed => RejectReason::Closed,
            QueueState::Open | QueueState::Draining => RejectReason::NoWorkers,
        };
        if inner.state != QueueState::Closed
            && let Some(job) = remaining.take()
        {
            inner.queued.push_front(QueuedJob { job, wait_limits: WaitLimits::default() });
        }
        // A cancelled job leaves the queue at once.
        let cancelled = if job.is_active() { None } else { inner.remove(job) };
        let rejected = match inner.has_no_available_worker() {
            true => inner.take_fail_fast(),
            false => VecDeque::new(),
        };
        if inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let outcome = AbandonOutcome {
            spawn_worker: inner.request_worker(),
            is_exhausted: inner.is_exhausted(),
        };
        drop(inner);
        self.filled.notify_one();
        drop(cancelled);
        for job in rejected.into_iter().map(|waiting| waiting.job).chain(remaining) {
            drop_panic(|| job.reject(reason));
        }
        outcome
    }

    /// Returns whether no worker is available until an abandoned one returns.
    pub(crate) fn has_no_available_worker(&self) -> bool {
        lock(&self.inner).has_no_available_worker()
    }

    /// Returns whether the maximum of workers is abandoned, and none has returned.
    pub(crate) fn is_exhausted(&self) -> bool {
        lock(&self.inner).is_exhausted()
    }

    /// Rejects new jobs; workers exit once the queue is empty.
    pub(crate) fn drain(&self) {
        let mut inner = lock(&self.inner);
        if inner.state == QueueState::Open {
            inner.state = QueueState::Draining;
        }
        drop(inner);
        self.filled.notify_all();
    }

    /// Waits until no job is queued or running, at most until `deadline`. Returns whether it is so.
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

    /// Closes the queue, wakes the workers, and rejects the queued jobs.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut inner = lock(&self.inner);
            inner.state = QueueState::Closed;
            std::mem::take(&mut inner.queued)
        };
        self.filled.notify_all();
        self.emptied.notify_all();
        for waiting in waiting {
            drop_panic(|| waiting.job.reject(RejectReason::Closed));
        }
    }

    /// Returns the number of queued jobs.
    pub(crate) fn queued(&self) -> usize {
        lock(&self.inner).queued.len()
    }

    /// Returns the numbers of running jobs and of the abandoned ones among them.
    pub(crate) fn running(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        let abandoned =
            inner.running.iter().filter(|running| running.abandonment.is_abandoned()).count();
        (inner.running.len(), abandoned)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("queued", &self.queued()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Finishes the worker's job and starts the next one. Without one, the worker is deregistered
    /// and must exit. Also returns when to call [`take_due`](Self::take_due), as
    /// [`push`](Self::push).
    pub(crate) fn try_next(&self, worker: WorkerId) -> (Option<Arc<dyn Job>>, Option<Instant>) {
        self.finish_and_start(worker, true)
    }

    /// Finishes the worker's job and deregisters the worker.
    pub(crate) fn deregister(&self, worker: WorkerId) {
        let (none, _) = self.finish_and_start(worker, false);
        debug_assert!(none.is_none(), "a worker that exits takes no job");
    }

    fn finish_and_start(
        &self,
        worker: WorkerId,
        starts_next: bool,
    ) -> (Option<Arc<dyn Job>>, Option<Instant>) {
        let mut inner = lock(&self.inner);
        let FinishedJob { job: finished, .. } = inner.finish_job(worker);
        if finished.is_some() && inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let (job, due_at) = match starts_next {
            true => inner.start_next_async(worker),
            false => (None, None),
        };
        if job.is_none() && inner.epoch == worker.epoch {
            inner.workers -= 1;
        }
        drop(inner);
        // Not under the lock: it may be the last that holds a plugin's memory.
        drop(finished);
        (job, due_at)
    }
}
