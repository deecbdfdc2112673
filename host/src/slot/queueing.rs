//! Pooled calls: their queue, their workers and their deadlines. Reads the clock only for calls
//! with a time limit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Slot;
use crate::call::CallState;
use crate::error::{Error, ErrorKind};
use crate::event::QuarantineReason;
use crate::generation::{Generation, ProcessTable, caller_runtime};
use crate::metrics::ProcessUsage;
use crate::panic::drop_panic;
use crate::sync::shard;
use crate::worker::{
    CallerRuntime, DeadlineCheck, Epoch, Job, NextJob, PushOutcome, RejectReason, TimerEntry,
    WaitLimits, WorkSource, WorkerId,
};

/// Delay after a failed start of a worker thread.
const SPAWN_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Interval between memory checks of a plugin with a limit.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Slot {
    /// Returns the number of queued calls.
    pub(crate) fn queued(&self) -> usize {
        self.queue.queued()
    }

    /// Returns the numbers of running pooled calls and of the abandoned ones among them.
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

    /// Cancels a job. If it runs on a thread, its worker is abandoned.
    pub(crate) fn cancel(self: &Arc<Self>, job: &Arc<dyn Job>) {
        self.abandon(job, None);
        if let Some(caller) = job.caller_runtime() {
            caller.end();
        }
    }

    /// Returns the runtime that the calling thread is in, if calls can run as its tasks.
    pub(crate) fn caller_runtime(&self) -> Option<CallerRuntime> {
        if !self.runs_tasks.load(Ordering::Relaxed) || !self.supports_async() {
            return None;
        }
        caller_runtime().map(CallerRuntime::new)
    }

    fn schedule_timer(self: &Arc<Self>, due_at: Option<Instant>) {
        if let Some(due_at) = due_at {
            let this: Arc<dyn TimerEntry> = Arc::<Self>::clone(self);
            self.timer.schedule(due_at, &this);
        }
    }

    /// Starts a worker for `epoch`. Fails only if `job` was rejected because of it.
    fn spawn_worker(
        self: &Arc<Self>,
        epoch: Epoch,
        job: Option<&Arc<dyn Job>>,
    ) -> Result<(), Error> {
        // The epoch is over or about to be; the next one spawns its own workers. A paused epoch
        // resumes with the workers that are counted now.
        let Some(generation) = self.generation() else {
            let _ = self.queue.worker_spawn_failed(epoch, None);
            return Ok(());
        };
        let source: Arc<dyn WorkSource> = Arc::<Self>::clone(self);
        let Err(error) = generation.spawn_worker(source, epoch, job) else { return Ok(()) };
        tracing::error!(%error, plugin = %self.name, "cannot start a worker thread");
        let rejected = self.queue.worker_spawn_failed(epoch, job);
        // Queued calls may need this worker.
        self.schedule_timer(Some(Instant::now() + SPAWN_RETRY_INTERVAL));
        if rejected.is_none() {
            return Ok(());
        }
        let message = "was not called: cannot start a worker thread";
        let error = Error::new(ErrorKind::Overloaded, message).caused_by(error);
        Err(error.with_retry_after(SPAWN_RETRY_INTERVAL).of(&self.name))
    }

    fn spawn_worker_or_log(self: &Arc<Self>, epoch: Option<Epoch>) {
        if let Some(epoch) = epoch {
            // The failure is logged, and the timer retries.
            let _ = self.spawn_worker(epoch, None);
        }
    }

    /// Starts an epoch of the queue with the workers of `generation`.
    pub(super) fn start_epoch(self: &Arc<Self>, generation: &Generation) {
        let policy = &generation.policy;
        self.runs_tasks.store(generation.runtime.is_some(), Ordering::Relaxed);
        let (epoch, spawns) = self.queue.start_epoch(generation.workers.max_workers, policy.queue);
        (0..spawns).for_each(|_| self.spawn_worker_or_log(Some(epoch)));
        if policy.max_memory_bytes.is_some() {
            self.schedule_timer(Some(Instant::now() + MEMORY_CHECK_INTERVAL));
        }
    }

    /// Resumes the epoch of a paused generation.
    pub(super) fn resume_workers(self: &Arc<Self>) {
        let (epoch, spawns) = self.queue.resume();
        (0..spawns).for_each(|_| self.spawn_worker_or_log(Some(epoch)));
    }

    /// Returns whether no worker is available until an abandoned call returns.
    pub(crate) fn has_no_available_worker(&self) -> bool {
        self.queue.has_no_available_worker()
    }

    /// Rejects further pooled calls and waits for the accepted ones.
    pub(crate) fn drain_queue(&self, deadline: Instant) {
        self.queue.drain();
        let _ = self.queue.wait_empty(deadline);
    }

    /// Abandons the worker that runs `job`; `remaining` is queued for another one.
    fn abandon(self: &Arc<Self>, job: &Arc<dyn Job>, remaining: Option<Arc<dyn Job>>) {
        let abandoned = self.queue.abandon(job, remaining);
        self.spawn_worker_or_log(abandoned.spawn_worker);
        if abandoned.is_exhausted {
            self.health.hold_stuck(self.queue.running().1);
            // A worker may have returned in between and found nothing to release.
            if !self.queue.is_exhausted() {
                self.health.release_stuck();
            }
        }
    }

    /// Counts a rejected call and returns its error.
    pub(crate) fn reject_error(&self, reason: RejectReason) -> Error {
        self.count_rejected();
        match reason {
            RejectReason::Closed => self.unloaded_error(),
            RejectReason::DeadlineExceeded => {
                self.deadline_error("was not called: the deadline passed while the call was queued")
            }
            RejectReason::Expired => {
                self.counters.shed.fetch_add(1, Ordering::Relaxed);
                let message =
                    "was not called: the call waited in the queue longer than `queue_timeout`";
                Error::new(ErrorKind::Overloaded, message)
                    .with_hint("raise `queue_timeout`, or retry later")
                    .of(&self.name)
            }
            RejectReason::QueueFull => self.queue_full_error(),
            RejectReason::NoWorkers => self.no_workers_error(),
        }
    }

    /// Counts a call that was cancelled or aborted after it had reached the plugin.
    pub(crate) fn count_cancelled(&self) {
        self.count_call(shard());
    }

    /// Counts a call that was rejected before it reached the layers.
    pub(crate) fn count_rejected(&self) {
        self.count_call(shard());
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the error of a call that exceeded its deadline. Counts as a fault of the plugin if
    /// the call had reached it.
    pub(crate) fn timeout_error(&self, state: &CallState) -> Error {
        let counts = state.count_timeout_once();
        match state.entered() {
            Some(generation) if counts => {
                self.counters.abandoned.fetch_add(1, Ordering::Relaxed);
                self.health.record_timeout(generation, state.probe());
            }
            Some(_) => {}
            None if state.has_reached_plugin() => {
                if counts {
                    self.counters.abandoned.fetch_add(1, Ordering::Relaxed);
                }
                return self.deadline_error("did not answer before the deadline");
            }
            None => {
                if counts {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                }
                return self.deadline_error(
                    "was not reached before the deadline: the validation of the input, or a layer, \
                     took too long",
                );
            }
        }
        self.deadline_error(
            "did not answer before the deadline; the call is still running, and its result is \
             discarded",
        )
    }

    #[cold]
    pub(crate) fn deadline_error(&self, message: &'static str) -> Error {
        Error::new(ErrorKind::DeadlineExceeded, message).of(&self.name)
    }

    /// Returns the error of a call that no worker can run.
    #[cold]
    pub(crate) fn no_workers_error(&self) -> Error {
        let stuck = QuarantineReason::Stuck { calls: self.queue.running().1 };
        let message = format!("was not called: no worker is available, and {stuck}");
        Error::new(ErrorKind::Overloaded, message)
            .with_hint("raise `max_abandoned_calls`, or retry later")
            .of(&self.name)
    }

    #[cold]
    fn queue_full_error(&self) -> Error {
        let max = self.policy().map_or(0, |policy| policy.queue.max_queued);
        let calls = if max == 1 { "call" } else { "calls" };
        let message = format!("was not called: its queue is full ({max} {calls})");
        let error = Error::new(ErrorKind::Overloaded, message)
            .with_hint("raise `limits.queue` or the host's `max_queued_calls`, or retry later");
        let workers = self.generation().map_or(1, |generation| generation.workers.max_workers);
        self.with_estimate(error, self.queued(), workers).of(&self.name)
    }

    /// Sets the estimated time until `calls` more calls have run on `workers` workers, if durations
    /// were sampled.
    pub(super) fn with_estimate(&self, error: Error, calls: usize, workers: u32) -> Error {
        match self.counters.latencies.mean() {
            Some(mean) => error.with_retry_after(retry_after(mean, calls, workers)),
            None => error,
        }
    }

    /// Checks the memory of a plugin with a limit and returns when to check again.
    fn check_memory(&self, now: Instant) -> Option<Instant> {
        let instance = self.current()?;
        let limit = instance.generation().policy.max_memory_bytes?;
        if let Some(live) = instance.live_bytes() {
            let over = u64::try_from(live).is_ok_and(|live| live > limit);
            self.health.set_memory(over.then_some((live, limit)));
        }
        Some(now + MEMORY_CHECK_INTERVAL)
    }

    /// Returns the process id of the current generation, if it is a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.current()?.backend()?.pid()
    }

    /// Returns what the process of the current generation uses, if it is a process. Reads `/proc`.
    pub(crate) fn process_usage(&self, table: &ProcessTable) -> Option<ProcessUsage> {
        self.current()?.backend()?.process_usage(table)
    }

    /// Returns the bytes that the plugin has allocated, if it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        self.current()?.live_bytes()
    }
}

/// Estimates how long `calls` calls take on `workers` workers.
fn retry_after(mean: Duration, calls: usize, workers: u32) -> Duration {
    let calls = u32::try_from(calls).unwrap_or(u32::MAX).max(1);
    let total = mean.saturating_mul(calls) / workers.max(1);
    total.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER)
}

const MIN_RETRY_AFTER: Duration = Duration::from_millis(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

impl WorkSource for Slot {
    fn register(&self, epoch: Epoch) -> WorkerId {
        self.queue.register(epoch)
    }

    fn next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>> {
        let (NextJob { job, was_abandoned }, due_at) = self.queue.next(worker);
        self.schedule_timer(due_at);
        if was_abandoned && !self.queue.is_exhausted() {
            self.health.release_stuck();
        }
        job
    }

    fn try_next(self: Arc<Self>, worker: WorkerId) -> Option<Arc<dyn Job>> {
        let (job, due_at) = self.queue.try_next(worker);
        self.schedule_timer(due_at);
        job
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
        let due_jobs = self.queue.take_due(now);
        for (job, reason) in due_jobs.rejected {
            drop_panic(|| job.reject(reason));
        }
        self.spawn_worker_or_log(due_jobs.spawn_worker);
        let mut next = due_jobs.next_due;
        for job in due_jobs.checks {
            next =
                next.into_iter().chain(job.caller_runtime().map(|caller| caller.check(now))).min();
        }
        for job in due_jobs.overdue {
            match drop_panic(|| Arc::clone(&job).check_deadline(now))
                .unwrap_or(DeadlineCheck::WithinDeadline)
            {
                // It has just completed, or its deadline was extended.
                DeadlineCheck::WithinDeadline => {
                    let due = job.due().map(|due| due.max(now + Duration::from_millis(1)));
                    next = next.into_iter().chain(due).min();
                }
                DeadlineCheck::Exceeded { remaining } => self.abandon(&job, remaining),
            }
        }
        next.into_iter().chain(self.check_memory(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_estimate_is_mean_times_calls_by_workers_in_bounds() {
        let ms = Duration::from_millis;
        for (mean, calls, workers, expected) in [
            (ms(10), 8, 4, ms(20)),
            (ms(10), 0, 1, ms(10)),
            (ms(0), 8, 4, MIN_RETRY_AFTER),
            (ms(1000), 1_000, 1, MAX_RETRY_AFTER),
            (Duration::MAX, usize::MAX, 0, MAX_RETRY_AFTER),
        ] {
            assert_eq!(retry_after(mean, calls, workers), expected, "{mean:?} {calls} {workers}");
        }
    }
}
