//! A queue of work with a limit, the sleep of the workers that wait for it, and what they are
//! at. Workers are hired for an epoch; when the next one begins, they go home.
//! Checked with loom by `tests/loom`, which brings its own locks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::job::{Job, RejectReason, WaitLimits};
use super::locks::{Condvar, Mutex, MutexGuard};
use super::queue_inner::{
    Abandonment, Epoch, FinishedJob, QueueInner, QueueLimits, QueueState, QueuedJob, RunningJob,
    WorkerId,
};
use crate::panic::drop_panic;
use crate::sync::lock;

/// A bounded queue that many push to and many take from, first in, first out.
pub(crate) struct Queue {
    pub(super) inner: Mutex<QueueInner>,
    filled: Condvar,
    /// Nothing waits or runs any more, in a queue that takes nothing new.
    pub(super) emptied: Condvar,
}

/// What became of work that was to be queued.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PushOutcome {
    /// It waits for the workers that there are.
    Queued,
    /// It waits, and a worker is to be started for this epoch.
    SpawnWorker(Epoch),
    /// The queue is full; the work was dropped.
    Full,
    /// The queue takes nothing any more; the work was dropped.
    Closed,
}

/// What a worker came back to.
#[must_use]
pub(crate) struct NextJob {
    /// None: it goes home.
    pub(crate) job: Option<Arc<dyn Job>>,
    /// It had been given up for lost.
    pub(crate) was_abandoned: bool,
}

/// What a look at the queue found.
#[must_use]
#[derive(Default)]
pub(crate) struct DueJobs {
    /// Work that waits no longer.
    pub(crate) rejected: Vec<(Arc<dyn Job>, RejectReason)>,
    /// Work that runs and may be late.
    pub(crate) overdue: Vec<Arc<dyn Job>>,
    pub(crate) next_due: Option<Instant>,
    /// A worker is to be started.
    pub(crate) spawn_worker: Option<Epoch>,
    /// Dropped by whoever looks, when nothing is locked.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) cancelled: VecDeque<QueuedJob>,
}

/// What it means that a worker was given up for lost.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AbandonOutcome {
    /// A worker is to be started in its place.
    pub(crate) spawn_worker: Option<Epoch>,
    /// No further one will be replaced before one comes back.
    pub(crate) is_exhausted: bool,
}

impl Queue {
    /// A queue without workers that holds nothing yet.
    pub(crate) fn new() -> Self {
        let limits = QueueLimits { max_queued: 0, max_waiting_for_space: 0, max_replaced: 0 };
        let inner = QueueInner {
            queued: VecDeque::new(),
            limits,
            epoch: Epoch(0),
            workers: 0,
            max_workers: 0,
            idle: 0,
            running: Vec::new(),
            replaced: 0,
            registered: 0,
            state: QueueState::Open,
            is_suspended: false,
            timer_at: None,
        };
        Self { inner: Mutex::new(inner), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Puts work at the end, without waiting. The second answer is when to [`take_due`](Self::take_due),
    /// if that is earlier than was told before.
    pub(crate) fn push(
        &self,
        job: Arc<dyn Job>,
        wait_limits: WaitLimits,
    ) -> (PushOutcome, Option<Instant>) {
        let mut inner = lock(&self.inner);
        if inner.state != QueueState::Open {
            return (PushOutcome::Closed, None);
        }
        let mut unwanted = VecDeque::new();
        if inner.queued.len() >= inner.limits.max_queued {
            unwanted = inner.take_cancelled();
        }
        let outside = inner.queued.len() >= inner.limits.max_queued;
        let outside_max =
            inner.limits.max_queued.saturating_add(inner.limits.max_waiting_for_space);
        if outside && (wait_limits.space_until.is_none() || inner.queued.len() >= outside_max) {
            drop(inner);
            return (PushOutcome::Full, None);
        }
        let due_at = inner.arm_timer(wait_limits.next_due(outside));
        inner.queued.push_back(QueuedJob { job, wait_limits });
        let pushed = self.push_outcome(inner);
        drop(unwanted);
        (pushed, due_at)
    }

    /// Puts work back in its place at the front, which a worker took for nothing, however full
    /// the queue is.
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
        drop(inner);
        self.filled.notify_one();
        pushed
    }

    /// A place for a worker of `epoch`.
    pub(crate) fn register(&self, epoch: Epoch) -> WorkerId {
        let mut inner = lock(&self.inner);
        inner.registered += 1;
        WorkerId { number: inner.registered, epoch }
    }

    /// Ends what the worker was at, and takes the first work, sleeping until there is some. The
    /// second answer is as for [`push`](Self::push).
    pub(crate) fn next(&self, worker: WorkerId) -> (NextJob, Option<Instant>) {
        let mut inner = lock(&self.inner);
        let FinishedJob { job: ended, was_abandoned: was_lost, is_active: stays, .. } =
            inner.finish_job(worker);
        if ended.is_some() && inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let (job, due_at) = match stays {
            true => inner.start_next(worker),
            false => (None, None),
        };
        // One that was waited for does not sleep before that is told.
        let is_home = !stays || inner.must_exit(worker) || was_lost;
        if job.is_some() || is_home {
            if job.is_none() && stays && was_lost && inner.epoch == worker.epoch {
                inner.workers -= 1;
            }
            drop(inner);
            // Not under the lock: it may be the last that holds a plugin's memory.
            drop(ended);
            return (NextJob { job, was_abandoned: was_lost }, due_at);
        }
        if ended.is_some() {
            drop(inner);
            drop(ended);
            inner = lock(&self.inner);
        }
        loop {
            if inner.must_exit(worker) {
                return (NextJob { job: None, was_abandoned: was_lost }, None);
            }
            if let (Some(job), due_at) = inner.start_next(worker) {
                return (NextJob { job: Some(job), was_abandoned: was_lost }, due_at);
            }
            inner.idle += 1;
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
            if inner.epoch == worker.epoch {
                inner.idle -= 1;
            }
        }
    }

    /// A worker that was to be started for `epoch` could not be. If there is no other, nobody
    /// would do `job`: takes it out, if it still waits.
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
        let taken = job.and_then(|job| inner.remove(job));
        if inner.state != QueueState::Open && inner.is_empty() {
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
        let wanted = inner.queued.len().saturating_sub(inner.idle);
        let spawns = (0..wanted).take_while(|_| inner.request_worker().is_some()).count();
        let spawns = u32::try_from(spawns).unwrap_or(u32::MAX);
        let epoch = inner.epoch;
        drop(inner);
        self.filled.notify_all();
        (epoch, spawns)
    }

    /// Begins an epoch with at most so many workers; the workers before it go home. Answers with
    /// how many are to be started now for the work that waits.
    pub(crate) fn start_epoch(&self, max_workers: u32, limits: QueueLimits) -> (Epoch, u32) {
        let mut inner = lock(&self.inner);
        inner.epoch = Epoch(inner.epoch.0 + 1);
        inner.limits = limits;
        inner.max_workers = max_workers;
        inner.workers = u32::try_from(inner.queued.len()).unwrap_or(u32::MAX).min(max_workers);
        inner.idle = 0;
        inner.replaced = 0;
        inner.is_suspended = false;
        let begun = (inner.epoch, inner.workers);
        drop(inner);
        self.filled.notify_all();
        begun
    }

    /// Looks at what waits and what runs; what waits no longer is taken out.
    pub(crate) fn take_due(&self, now: Instant) -> DueJobs {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        // What nobody wants takes no place from what waits for one.
        let mut looked = DueJobs { cancelled: inner.take_cancelled(), ..DueJobs::default() };
        let mut next: Option<Instant> = None;
        let mut sooner = |due: Option<Instant>| next = next.into_iter().chain(due).min();
        let waiting = std::mem::take(&mut inner.queued);
        for one in waiting {
            let outside = inner.queued.len() >= inner.limits.max_queued;
            match one.wait_limits.exceeded(now, outside) {
                Some(why) => looked.rejected.push((one.job, why)),
                None => {
                    sooner(one.wait_limits.next_due(outside));
                    inner.queued.push_back(one);
                }
            }
        }
        for RunningJob { job, abandonment: lost, .. } in &inner.running {
            match job.due() {
                _ if *lost != Abandonment::No => {}
                Some(due) if due <= now => looked.overdue.push(Arc::clone(job)),
                due => sooner(due),
            }
        }
        if inner.workers == 0 && !inner.queued.is_empty() {
            // The system gave no thread before.
            looked.spawn_worker = inner.request_worker();
        }
        inner.timer_at = next;
        looked.next_due = next;
        if inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        looked
    }

    /// Gives a worker up for lost if it is still at `job`; `rest` of it is done by others.
    pub(crate) fn abandon(&self, job: &Arc<dyn Job>, rest: Option<Arc<dyn Job>>) -> AbandonOutcome {
        let mut inner = lock(&self.inner);
        let epoch = inner.epoch;
        let may_replace = inner.replaced < inner.limits.max_replaced;
        let at_it = |running: &&mut RunningJob| {
            Arc::ptr_eq(&running.job, job) && running.abandonment == Abandonment::No
        };
        if let Some(running) = inner.running.iter_mut().find(at_it) {
            running.abandonment =
                if may_replace { Abandonment::Replaced } else { Abandonment::NotReplaced };
            if running.worker.epoch == epoch && may_replace {
                inner.replaced += 1;
                inner.workers -= 1;
            }
        }
        let mut left = rest;
        let why = match inner.state {
            QueueState::Closed => RejectReason::Closed,
            QueueState::Open | QueueState::Draining => RejectReason::NoWorkers,
        };
        if inner.state != QueueState::Closed
            && let Some(job) = left.take()
        {
            inner.queued.push_front(QueuedJob { job, wait_limits: WaitLimits::default() });
        }
        // Who took it back does not wait for it to be looked at.
        let unwanted = if job.is_wanted() { None } else { inner.remove(job) };
        let impatient = match inner.has_no_available_worker() {
            true => inner.take_fail_fast(),
            false => VecDeque::new(),
        };
        if inner.state != QueueState::Open && inner.is_empty() {
            self.emptied.notify_all();
        }
        let given_up = AbandonOutcome {
            spawn_worker: inner.request_worker(),
            is_exhausted: inner.is_exhausted(),
        };
        drop(inner);
        self.filled.notify_one();
        drop(unwanted);
        for job in impatient.into_iter().map(|waiting| waiting.job).chain(left) {
            drop_panic(|| job.reject(why));
        }
        given_up
    }

    /// Whether nobody works, and nobody is started before a lost worker comes back.
    pub(crate) fn has_no_available_worker(&self) -> bool {
        lock(&self.inner).has_no_available_worker()
    }

    /// Whether as many workers are lost as may be, and none has come back.
    pub(crate) fn is_exhausted(&self) -> bool {
        lock(&self.inner).is_exhausted()
    }

    /// Takes nothing new; what waits is done, then the workers go home.
    pub(crate) fn drain(&self) {
        let mut inner = lock(&self.inner);
        if inner.state == QueueState::Open {
            inner.state = QueueState::Draining;
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
            inner.state = QueueState::Closed;
            std::mem::take(&mut inner.queued)
        };
        self.filled.notify_all();
        self.emptied.notify_all();
        for waiting in waiting {
            drop_panic(|| waiting.job.reject(RejectReason::Closed));
        }
    }

    /// Pieces of work that wait.
    pub(crate) fn queued(&self) -> usize {
        lock(&self.inner).queued.len()
    }

    /// Pieces of work that run, and those of them that nobody waits for any more.
    pub(crate) fn running(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        let lost =
            inner.running.iter().filter(|running| running.abandonment.is_abandoned()).count();
        (inner.running.len(), lost)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.queued()).finish_non_exhaustive()
    }
}
