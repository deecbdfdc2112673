//! Pooled calls: their queue, the workers that serve it, and what is done about those that are
//! late. Looks at the time only where somebody named one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Slot;
use crate::call::CallState;
use crate::error::{Error, ErrorKind};
use crate::generation::Generation;
use crate::panic::drop_panic;
use crate::pool::{
    DeadlineCheck, Epoch, Job, NextJob, PushOutcome, RejectReason, TimerEntry, WaitLimits,
    WorkSource, WorkerId,
};

/// How soon a worker is tried to be started again that the system gave no thread for.
const SPAWN_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How often the memory of a plugin is looked at that has a limit.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Slot {
    /// Calls that wait.
    pub(crate) fn queued(&self) -> usize {
        self.queue.queued()
    }

    /// Pooled calls that run, and those of them that nobody waits for any more.
    pub(crate) fn running(&self) -> (usize, usize) {
        self.queue.running()
    }

    /// Queues a call for the workers of the current generation.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        job: Arc<dyn Job>,
        wait_limits: WaitLimits,
    ) -> Result<(), Error> {
        let (pushed, due_at) = self.queue.push(Arc::clone(&job), wait_limits);
        self.schedule_timer(due_at);
        match pushed {
            PushOutcome::Queued => Ok(()),
            PushOutcome::SpawnWorker(epoch) => self.spawn_worker(epoch, Some(&job)),
            PushOutcome::Full => Err(self.queue_full_error()),
            PushOutcome::Closed => Err(self.unloaded_error()),
        }
    }

    /// Nobody wants `work` any more: its worker, if it has one, is not waited for.
    pub(crate) fn cancel(self: &Arc<Self>, job: &Arc<dyn Job>) {
        self.abandon(job, None);
    }

    fn schedule_timer(self: &Arc<Self>, due_at: Option<Instant>) {
        if let Some(due_at) = due_at {
            let this: Arc<dyn TimerEntry> = Arc::<Self>::clone(self);
            self.timer.schedule(due_at, &this);
        }
    }

    /// Starts a worker of the generation that serves in `epoch`.
    fn spawn_worker(
        self: &Arc<Self>,
        epoch: Epoch,
        job: Option<&Arc<dyn Job>>,
    ) -> Result<(), Error> {
        // Not current any more: the epoch is over or about to be, and the next one hires.
        let Some(generation) = self.generation() else {
            // Unless it is paused and goes on, with the workers that were counted.
            let _ = self.queue.worker_spawn_failed(epoch, None);
            return Ok(());
        };
        let source: Arc<dyn WorkSource> = Arc::<Self>::clone(self);
        let Err(error) = generation.spawn_worker(source, epoch) else { return Ok(()) };
        tracing::error!(%error, plugin = %self.name, "no thread for a worker");
        let undone = self.queue.worker_spawn_failed(epoch, job);
        // Others may wait, and nobody else would start a worker for them.
        self.schedule_timer(Some(Instant::now() + SPAWN_RETRY_INTERVAL));
        if undone.is_none() {
            return Ok(());
        }
        let message = "has no worker: the system gave no thread";
        Err(Error::new(ErrorKind::Overloaded, message).caused_by(error).of(&self.name))
    }

    fn spawn_worker_or_log(self: &Arc<Self>, epoch: Option<Epoch>) {
        if let Some(epoch) = epoch {
            // Tried again later, and told to the log.
            let _ = self.spawn_worker(epoch, None);
        }
    }

    /// Lets the workers of `generation` serve the queue.
    pub(super) fn start_epoch(self: &Arc<Self>, generation: &Generation) {
        let policy = &generation.policy;
        let (epoch, spawns) = self.queue.start_epoch(generation.workers.max_workers, policy.queue);
        (0..spawns).for_each(|_| self.spawn_worker_or_log(Some(epoch)));
        if policy.max_memory_bytes.is_some() {
            self.schedule_timer(Some(Instant::now() + MEMORY_CHECK_INTERVAL));
        }
    }

    /// Lets the workers of the generation that was paused go on.
    pub(super) fn resume_workers(self: &Arc<Self>) {
        let (epoch, spawns) = self.queue.resume();
        (0..spawns).for_each(|_| self.spawn_worker_or_log(Some(epoch)));
    }

    /// Whether nobody works, and nobody is started before a lost worker comes back.
    pub(crate) fn has_no_available_worker(&self) -> bool {
        self.queue.has_no_available_worker()
    }

    /// Takes no more pooled calls, and waits until those that were taken are done.
    pub(crate) fn drain_queue(&self, deadline: Instant) {
        self.queue.drain();
        let _ = self.queue.wait_empty(deadline);
    }

    /// The worker at `work` is not waited for; `rest` is for another one.
    fn abandon(self: &Arc<Self>, job: &Arc<dyn Job>, rest: Option<Arc<dyn Job>>) {
        let given_up = self.queue.abandon(job, rest);
        self.spawn_worker_or_log(given_up.spawn_worker);
        if given_up.is_exhausted {
            self.health.hold_stuck(self.queue.running().1);
        }
    }

    /// What a call is told whose turn never came.
    pub(crate) fn reject_error(&self, why: RejectReason) -> Error {
        self.count_rejected();
        match why {
            RejectReason::Closed => self.unloaded_error(),
            RejectReason::DeadlineExceeded => {
                self.deadline_error("did not begin before its deadline")
            }
            RejectReason::Expired => {
                self.counters.shed.fetch_add(1, Ordering::Relaxed);
                let message = "was not begun: it waited longer than `queue_timeout`; call later";
                Error::new(ErrorKind::Overloaded, message).of(&self.name)
            }
            RejectReason::QueueFull => self.queue_full_error(),
            RejectReason::NoWorkers => self.no_workers_error(),
        }
    }

    /// Counts a call that was taken back, or cut off, after it had reached the plugin.
    pub(crate) fn count_cancelled(&self) {
        self.counters.calls.add(1);
    }

    /// Counts a call that was refused before it came to the layers.
    pub(crate) fn count_rejected(&self) {
        self.counters.calls.add(1);
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What a call is told that ran into its deadline. It is held against the plugin if it is in
    /// it.
    pub(crate) fn timeout_error(&self, state: &CallState) -> Error {
        let counts = state.count_timeout_once();
        if counts {
            self.counters.abandoned.fetch_add(1, Ordering::Relaxed);
        }
        match state.entered() {
            Some(generation) if counts => self.health.record_timeout(generation, state.probe()),
            Some(_) => {}
            None => {
                return self.deadline_error(
                    "was not reached before the deadline: the check of the input, or a layer, took \
                     that long",
                );
            }
        }
        self.deadline_error(
            "did not answer before the deadline; the call still runs, and its answer is dropped",
        )
    }

    #[cold]
    pub(crate) fn deadline_error(&self, message: &'static str) -> Error {
        Error::new(ErrorKind::DeadlineExceeded, message).of(&self.name)
    }

    /// What a call is told that nobody would begin.
    #[cold]
    pub(crate) fn no_workers_error(&self) -> Error {
        let message = "has no worker left: calls passed their deadlines and still run";
        Error::new(ErrorKind::Overloaded, message).of(&self.name)
    }

    #[cold]
    fn queue_full_error(&self) -> Error {
        let places = self.policy().map_or(0, |policy| policy.queue.max_queued);
        let message = format!(
            "has {places} calls waiting already, as many as may (`limits.queue`, or the host's \
             `max_queued_calls`)"
        );
        Error::new(ErrorKind::Overloaded, message).of(&self.name)
    }

    /// Looks at the memory of a plugin that has a limit; says when to look again.
    fn check_memory(&self, now: Instant) -> Option<Instant> {
        let current = self.current.load();
        let instance = current.as_deref()?;
        let generation = instance.generation();
        let limit = generation.policy.max_memory_bytes?;
        if let Some(live) = instance.live_bytes() {
            let over = u64::try_from(live).is_ok_and(|live| live > limit);
            self.health.set_memory(over.then_some((live, limit)));
        }
        Some(now + MEMORY_CHECK_INTERVAL)
    }

    /// The process that serves, if it is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.current.load().as_deref().and_then(crate::generation::InstanceRef::pid)
    }

    /// Bytes that the plugin has allocated, where it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        self.current.load().as_deref().and_then(crate::generation::InstanceRef::live_bytes)
    }
}

impl WorkSource for Slot {
    fn register(&self, epoch: Epoch) -> WorkerId {
        self.queue.register(epoch)
    }

    fn next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>> {
        let (NextJob { job, was_abandoned: was_lost }, due_at) = self.queue.next(worker);
        self.schedule_timer(due_at);
        if was_lost && !self.queue.is_exhausted() {
            self.health.release_stuck();
        }
        job
    }

    fn try_next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>> {
        self.queue.try_next(worker)
    }

    fn deregister(&self, worker: WorkerId) {
        self.queue.deregister(worker);
    }

    fn supports_async(&self) -> bool {
        self.supports_async.load(Ordering::Relaxed)
    }

    fn requeue(self: Arc<Self>, worker: WorkerId, job: Arc<dyn Job>) {
        if let PushOutcome::SpawnWorker(epoch) = self.queue.requeue(worker, job) {
            self.spawn_worker_or_log(Some(epoch));
        }
    }
}

impl TimerEntry for Slot {
    fn fire_due(self: Arc<Self>, now: Instant) -> Option<Instant> {
        let looked = self.queue.take_due(now);
        for (job, why) in looked.rejected {
            drop_panic(|| job.reject(why));
        }
        self.spawn_worker_or_log(looked.spawn_worker);
        let mut next = looked.next_due;
        for job in looked.overdue {
            match drop_panic(|| Arc::clone(&job).check_deadline(now))
                .unwrap_or(DeadlineCheck::WithinDeadline)
            {
                // It has just ended, or its time was put off.
                DeadlineCheck::WithinDeadline => {
                    let due = job.due().map(|due| due.max(now + Duration::from_millis(1)));
                    next = next.into_iter().chain(due).min();
                }
                DeadlineCheck::Exceeded { remaining: rest } => self.abandon(&job, rest),
            }
        }
        next.into_iter().chain(self.check_memory(now)).min()
    }
}
