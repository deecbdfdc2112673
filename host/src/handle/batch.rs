//! Many calls of one plugin as one job, so that the cost of the queue is paid once. As a task, it
//! sends several calls in one exchange if the plugin supports that. Each call has
//! its own lease, its own pass through the layers and its own outcome. If no middleware has anything
//! to do for the calls of an exchange, they skip the layers and are counted here. The calls have no
//! individual deadlines; a time limit applies to each from its start.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tracing::Level;

use super::{Inner, PluginHandle, lost};
use crate::call::{CallState, Reply, Request};
use crate::error::{Error, bug};
use crate::generation::{CallArgs, InstanceRef, next_call_id};
use crate::id::GenerationId;
use crate::middleware::is_sampled;
use crate::slot::{Admission, BatchCollector, BatchedCall, CallScope};
use crate::sync::{after, lock, shard};
use crate::worker::{DeadlineCheck, Job, JobFuture, JobOutcome, RejectReason, WaitLimits};

/// One call of a batch.
#[derive(Debug)]
pub(crate) enum BatchItem {
    /// It is still to be made.
    Pending(Request<'static>),
    /// It was answered.
    Answered(Request<'static>, Reply),
    /// It failed.
    Failed(Error),
}

impl PluginHandle {
    /// Makes the pending calls among `calls`. Each may take at most `timeout` from its start, or
    /// what the plugin's manifest and its host allow.
    pub(crate) async fn execute_each(
        &self,
        calls: Vec<BatchItem>,
        timeout: Option<Duration>,
    ) -> Vec<BatchItem> {
        let count = calls.len();
        let slot = &self.inner.slot;
        let policy = slot.policy();
        let timeout = policy.map_or(timeout, |policy| policy.timeout(timeout));
        let (sender, receiver) = oneshot::channel();
        let current = CurrentJob::default();
        let batch = BatchJob::new(&self.inner, calls, timeout, sender, &current);
        *lock(&current) = Some(Arc::downgrade(&batch));
        let space_until = Some(after(Instant::now(), MAX_SPACE_TIMEOUT));
        let wait_limits = WaitLimits { space_until, ..WaitLimits::default() };
        let job: Arc<dyn Job> = Arc::<BatchJob>::clone(&batch);
        let queued = match timeout.is_some() && slot.has_no_available_worker() {
            true => Err(slot.no_workers_error()),
            false => slot.check_admission().and_then(|()| slot.enqueue(job, wait_limits)),
        };
        if let Err(error) = queued {
            return batch.fail_all(|| {
                slot.count_rejected();
                error.cloned()
            });
        }
        drop(batch);
        let mut waiting = WaitingBatch { receiver, current };
        let calls = (&mut waiting.receiver).await;
        calls.unwrap_or_else(|_| (0..count).map(|_| BatchItem::Failed(lost(slot))).collect())
    }
}

impl PluginHandle {
    /// Makes one call on this thread; `state` may be cancelled by another thread.
    pub(crate) fn call_for(
        &self,
        request: &Request<'_>,
        state: &CallState,
    ) -> Result<Reply, Error> {
        self.inner.run(&CallScope {
            state: Some(state),
            ..CallScope::inline(request, None, next_call_id())
        })
    }

    /// Returns the current generation and its number of workers, if its calls have no limits.
    pub(crate) fn unbounded(&self) -> Option<(GenerationId, u32)> {
        let generation = self.inner.slot.generation()?;
        // A thread of the stream would wait for each call to a process.
        let is_unbounded = generation.policy.is_unbounded() && generation.runtime.is_none();
        is_unbounded.then_some((generation.id, generation.workers.max_workers))
    }
}

/// Callers limit the number of batches, so a batch waits for space in a full queue.
const MAX_SPACE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The job that currently holds the calls, for cancellation; `None` once they were cancelled.
type CurrentJob = Arc<Mutex<Option<Weak<BatchJob>>>>;

/// A batch of calls in the queue or on a worker.
pub(super) struct BatchJob {
    pub(super) inner: Arc<Inner>,
    count: usize,
    /// The time limit of each call; without one, the timer has nothing to check.
    pub(super) timeout: Option<Duration>,
    pub(super) state: CallState,
    current: CurrentJob,
    pub(super) progress: Mutex<Progress>,
}

pub(super) struct Progress {
    pub(super) calls: Vec<BatchItem>,
    /// The index of the next or running call.
    pub(super) at: usize,
    /// The deadline of the running call.
    due: Option<Instant>,
    /// `None` once another job has taken over the calls.
    sender: Option<oneshot::Sender<Vec<BatchItem>>>,
}

/// Whether a call was made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Yes,
    /// The worker's epoch is over.
    StaleEpoch,
}

impl BatchJob {
    fn new(
        inner: &Arc<Inner>,
        calls: Vec<BatchItem>,
        timeout: Option<Duration>,
        sender: oneshot::Sender<Vec<BatchItem>>,
        current: &CurrentJob,
    ) -> Arc<Self> {
        let count = calls.len();
        let progress = Progress { calls, at: 0, due: None, sender: Some(sender) };
        Arc::new(Self {
            inner: Arc::clone(inner),
            count,
            timeout,
            state: CallState::default(),
            current: Arc::clone(current),
            progress: Mutex::new(progress),
        })
    }

    #[cfg(test)]
    pub(super) fn for_tests(inner: &Arc<Inner>) -> Arc<Self> {
        let current = CurrentJob::default();
        Self::new(inner, Vec::new(), None, oneshot::channel().0, &current)
    }

    /// Makes one call if it is pending.
    fn make(&self, generation: u64, call: &mut BatchItem) -> Made {
        let BatchItem::Pending(request) = call else { return Made::Yes };
        let answer = self.inner.slot.with_lease(generation, |instance| {
            self.inner.run(&CallScope::pooled(request, instance, &self.state))
        });
        *call = match answer {
            None => return Made::StaleEpoch,
            Some(Ok(reply)) => BatchItem::Answered(std::mem::take(request), reply),
            Some(Err(error)) => BatchItem::Failed(error),
        };
        Made::Yes
    }

    /// Makes the remaining calls without a time limit.
    fn run_untimed(&self, generation: u64) -> JobOutcome {
        let mut progress = lock(&self.progress);
        let (mut calls, from) = (std::mem::take(&mut progress.calls), progress.at);
        drop(progress);
        for at in from..calls.len() {
            if !self.state.is_active() {
                return JobOutcome::Completed;
            }
            if self.make(generation, &mut calls[at]) == Made::StaleEpoch {
                let mut progress = lock(&self.progress);
                (progress.calls, progress.at) = (calls, at);
                return JobOutcome::StaleEpoch;
            }
        }
        self.complete(calls);
        JobOutcome::Completed
    }

    pub(super) fn complete(&self, calls: Vec<BatchItem>) {
        let sender = lock(&self.progress).sender.take();
        if let Some(sender) = sender {
            let _ = sender.send(calls);
        }
    }

    /// Makes the remaining calls one by one; the timer checks their deadlines.
    fn run_timed(&self, generation: u64, timeout: Duration) -> JobOutcome {
        while self.state.is_active() {
            let Some(mut call) = self.start_next(timeout) else { break };
            let made = self.make(generation, &mut call);
            let mut progress = lock(&self.progress);
            // The timer has failed the call meanwhile: its outcome is dropped outside the lock.
            if progress.sender.is_none() {
                drop(progress);
                break;
            }
            let at = progress.at;
            progress.due = None;
            // The deadline applied to this step only.
            if let BatchItem::Pending(request) | BatchItem::Answered(request, _) = &mut call {
                request.set_deadline(None);
            }
            progress.calls[at] = call;
            if made == Made::StaleEpoch {
                return JobOutcome::StaleEpoch;
            }
            progress.at += 1;
        }
        JobOutcome::Completed
    }

    /// Takes the next call. Returns `None` after the last one, and completes the batch; or if
    /// another job has taken over.
    fn start_next(&self, timeout: Duration) -> Option<BatchItem> {
        let mut progress = lock(&self.progress);
        progress.sender.as_ref()?;
        let at = progress.at;
        if at == progress.calls.len() {
            let calls = std::mem::take(&mut progress.calls);
            drop(progress);
            self.complete(calls);
            return None;
        }
        let mut call = std::mem::replace(&mut progress.calls[at], BatchItem::placeholder());
        if let BatchItem::Pending(request) = &mut call {
            let due = after(Instant::now(), timeout);
            request.set_deadline(Some(due));
            progress.due = Some(due);
        }
        self.state.reset();
        Some(call)
    }

    /// Fails all pending calls.
    fn fail_all(&self, error: impl Fn() -> Error) -> Vec<BatchItem> {
        let mut calls = std::mem::take(&mut lock(&self.progress).calls);
        for call in &mut calls {
            if matches!(call, BatchItem::Pending(_)) {
                *call = BatchItem::Failed(error());
            }
        }
        // A worker that panicked had taken them out.
        calls.resize_with(self.count, || BatchItem::Failed(error()));
        calls
    }
}

impl BatchItem {
    /// Stands for a call that was taken out.
    fn placeholder() -> Self {
        Self::Pending(Request::default())
    }
}

impl Job for BatchJob {
    fn run(self: Arc<Self>, generation: u64) -> JobOutcome {
        match self.timeout {
            None => self.run_untimed(generation),
            Some(timeout) => self.run_timed(generation, timeout),
        }
    }

    fn run_async(self: Arc<Self>, generation: u64) -> JobFuture {
        Box::pin(async move { self.run_async_calls(generation).await })
    }

    fn reject(self: Arc<Self>, reason: RejectReason) {
        let failed = self.fail_all(|| self.inner.slot.reject_error(reason));
        self.complete(failed);
    }

    fn panicked(self: Arc<Self>) {
        let failed = self.fail_all(|| lost(&self.inner.slot));
        self.complete(failed);
    }

    fn is_active(&self) -> bool {
        self.state.is_active()
    }

    fn waits_for_abandoned(&self) -> bool {
        self.timeout.is_none()
    }

    fn due(&self) -> Option<Instant> {
        let timeout = self.timeout?;
        // The queue reads it first right before the job starts.
        Some(lock(&self.progress).due.unwrap_or_else(|| after(Instant::now(), timeout)))
    }

    fn check_deadline(self: Arc<Self>, now: Instant) -> DeadlineCheck {
        let mut progress = lock(&self.progress);
        if progress.due.is_none_or(|due| due > now) {
            return DeadlineCheck::WithinDeadline;
        }
        let Some(sender) = progress.sender.take() else { return DeadlineCheck::WithinDeadline };
        let (mut calls, at) = (std::mem::take(&mut progress.calls), progress.at);
        drop(progress);
        self.state.time_out();
        calls[at] = BatchItem::Failed(self.inner.slot.timeout_error(&self.state));
        if at + 1 == calls.len() {
            let _ = sender.send(calls);
            return DeadlineCheck::Exceeded { remaining: None };
        }
        let remaining = Self::new(&self.inner, calls, self.timeout, sender, &self.current);
        lock(&remaining.progress).at = at + 1;
        let mut current = lock(&self.current);
        // `None`: the caller has just cancelled the batch.
        let remaining = current.is_some().then(|| {
            *current = Some(Arc::downgrade(&remaining));
            let remaining: Arc<dyn Job> = remaining;
            remaining
        });
        DeadlineCheck::Exceeded { remaining }
    }
}

/// Waits for a batch; cancels the pending calls on drop.
struct WaitingBatch {
    receiver: oneshot::Receiver<Vec<BatchItem>>,
    current: CurrentJob,
}

impl Drop for WaitingBatch {
    fn drop(&mut self) {
        let batch = lock(&self.current).take();
        let Some(batch) = batch.and_then(|batch| batch.upgrade()) else { return };
        let sender = lock(&batch.progress).sender.take();
        if sender.is_some() {
            batch.state.cancel();
            let job: Arc<dyn Job> = Arc::<BatchJob>::clone(&batch);
            batch.inner.slot.cancel(&job);
        }
    }
}

impl BatchJob {
    /// Makes the remaining calls. Each call watches its own deadline, so the timer has no part.
    pub(super) async fn run_async_calls(&self, generation: u64) -> JobOutcome {
        let (mut calls, mut at) = {
            let mut progress = lock(&self.progress);
            (std::mem::take(&mut progress.calls), progress.at)
        };
        while at < calls.len() {
            if !self.state.is_active() {
                return JobOutcome::Completed;
            }
            let Some(instance) = self.inner.slot.lease(generation) else {
                let mut progress = lock(&self.progress);
                (progress.calls, progress.at) = (calls, at);
                return JobOutcome::StaleEpoch;
            };
            at += self.call_some(&instance, &mut calls[at..]).await;
        }
        self.complete(calls);
        JobOutcome::Completed
    }

    /// Makes the first of `calls`, or the first few together; returns how many were handled.
    async fn call_some(&self, instance: &InstanceRef, calls: &mut [BatchItem]) -> usize {
        let slot = &self.inner.slot;
        let max = if self.can_batch() { instance.batch().unwrap_or(1) } else { 1 };
        let count = pending(calls).take(max).count();
        if count > 1 {
            let guard = slot.enter_many(u32::try_from(count).unwrap_or(u32::MAX));
            let max = guard.as_ref().map_or(count, |guard| guard.calls() as usize);
            if max > 1 {
                let end = pending_end(calls, max);
                if self.is_brief(instance, &calls[..end]) {
                    self.call_briefly(instance, &mut calls[..end]).await;
                } else {
                    self.call_together(instance, &mut calls[..end]).await;
                }
                return end;
            }
        }
        self.call_one(instance, &mut calls[0]).await;
        1
    }

    /// Returns whether calls may be sent together. Not with a time limit for each: an exchange that
    /// times out does not show which of them did.
    fn can_batch(&self) -> bool {
        self.timeout.is_none() && !self.inner.slot.is_probing()
    }

    async fn call_one(&self, instance: &InstanceRef, call: &mut BatchItem) {
        let BatchItem::Pending(request) = call else { return };
        request.set_deadline(self.timeout.map(|timeout| after(Instant::now(), timeout)));
        self.state.reset();
        let answer = self.inner.run_async(&CallScope::pooled(request, instance, &self.state)).await;
        // The deadline applied to this step only.
        request.set_deadline(None);
        call.set_outcome(answer);
    }

    /// Returns whether no middleware has anything to do for any of `calls`.
    fn is_brief(&self, instance: &InstanceRef, calls: &[BatchItem]) -> bool {
        !tracing::level_enabled!(Level::DEBUG)
            && self.inner.slot.brief_path_ok()
            && !instance.checks_input()
            && pending(calls).all(|(_, request)| request.is_plain())
    }

    /// Makes the pending calls among `calls` by one exchange with the plugin. Each is counted, and
    /// its outcome is recorded, as in the middleware.
    pub(super) async fn call_briefly(&self, instance: &InstanceRef, calls: &mut [BatchItem]) {
        self.state.reset();
        let (mut args, mut sampled) = (Vec::with_capacity(calls.len()), 0);
        for (_, request) in pending(calls) {
            let call_id = next_call_id();
            sampled += u32::from(is_sampled(call_id));
            args.push(CallArgs { request, state: Some(&self.state), call_id });
        }
        let start = (sampled > 0).then(Instant::now);
        let results = async { Ok(instance.call_many(&args).await) };
        let results = self.inner.slot.until_cancelled(instance, &self.state, results).await;
        let slot = &self.inner.slot;
        let (shard, count) = (shard(), args.len());
        (0..count).for_each(|_| slot.count_call(shard));
        if let Some(start) = start {
            let elapsed = start.elapsed();
            (0..sampled).for_each(|_| slot.record_latency(elapsed));
        }
        let (mut results, common) = match results {
            Ok(results) => (results.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for call in calls {
            let BatchItem::Pending(request) = &*call else { continue };
            let outcome = match (results.next(), &common) {
                (Some(outcome), _) => outcome,
                (None, Some(error)) => Err(error.cloned()),
                (None, None) => Err(bug!("a batch has fewer results than calls")),
            };
            let outcome = outcome.map_err(|error| self.record_failure(instance, request, error));
            call.set_outcome(outcome);
        }
    }

    /// Counts a failed call of [`call_briefly`](Self::call_briefly), and records its outcome.
    #[cold]
    fn record_failure(
        &self,
        instance: &InstanceRef,
        request: &Request<'static>,
        error: Error,
    ) -> Error {
        let slot = &self.inner.slot;
        let error = error.of_if_unset(&slot.name);
        let scope = CallScope::pooled(request, instance, &self.state);
        slot.counters.count_error(&scope, &error);
        slot.record_outcome(Admission::Normal, &scope, &Err(error.cloned()));
        error
    }

    /// Makes the pending calls among `calls`: each passes through the layers, and one exchange with
    /// the plugin answers all that reach the end.
    pub(super) async fn call_together(&self, instance: &InstanceRef, calls: &mut [BatchItem]) {
        self.state.reset();
        let collector = BatchCollector::default();
        let mut outcomes = Vec::with_capacity(calls.len());
        let start = |(at, request)| self.run_layers(instance, &collector, at, request);
        let mut running: FuturesUnordered<_> = pending(calls).map(start).collect();
        // Until each of them has returned or waits in the collector.
        poll_fn(|context| {
            loop {
                match running.poll_next_unpin(context) {
                    Poll::Ready(Some(outcome)) => outcomes.push(outcome),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending if collector.len() == running.len() => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        self.exchange(instance, calls, collector.take()).await;
        while let Some(outcome) = running.next().await {
            outcomes.push(outcome);
        }
        drop(running);
        for (at, outcome) in outcomes {
            calls[at].set_outcome(outcome);
        }
    }

    /// Passes one call of a batch through the layers.
    async fn run_layers(
        &self,
        instance: &InstanceRef,
        collector: &BatchCollector,
        at: usize,
        request: &Request<'static>,
    ) -> (usize, Result<Reply, Error>) {
        let batch_slot = collector.slot(at);
        let scope = CallScope::pooled(request, instance, &self.state);
        let scope = CallScope { batch_slot: Some(&batch_slot), ..scope };
        (at, self.inner.run_async(&scope).await)
    }

    /// Sends the collected calls to the plugin, and completes each with its result.
    async fn exchange(&self, instance: &InstanceRef, calls: &[BatchItem], batch: Vec<BatchedCall>) {
        let args: Vec<_> = batch.iter().filter_map(|one| self.args_of(calls, one)).collect();
        if args.is_empty() {
            return;
        }
        let results = async { Ok(instance.call_many(&args).await) };
        match self.inner.slot.until_cancelled(instance, &self.state, results).await {
            Ok(results) => {
                batch.into_iter().zip(results).for_each(|(one, result)| one.complete(result))
            }
            Err(error) => batch.into_iter().for_each(|one| one.complete(Err(error.cloned()))),
        }
    }

    fn args_of<'c>(&'c self, calls: &'c [BatchItem], one: &BatchedCall) -> Option<CallArgs<'c>> {
        let Some(BatchItem::Pending(request)) = calls.get(one.index) else { return None };
        Some(CallArgs { request, state: Some(&self.state), call_id: one.call_id })
    }
}

/// Returns the pending calls with their indices.
fn pending(calls: &[BatchItem]) -> impl Iterator<Item = (usize, &Request<'static>)> {
    calls.iter().enumerate().filter_map(|(at, call)| match call {
        BatchItem::Pending(request) => Some((at, request)),
        _ => None,
    })
}

/// Returns the index after the first `max` pending calls.
fn pending_end(calls: &[BatchItem], max: usize) -> usize {
    pending(calls).take(max).last().map_or(calls.len(), |(at, _)| at + 1)
}

impl BatchItem {
    /// Sets the outcome of a pending call.
    fn set_outcome(&mut self, outcome: Result<Reply, Error>) {
        let Self::Pending(request) = self else { return };
        *self = match outcome {
            Ok(reply) => Self::Answered(std::mem::take(request), reply),
            Err(error) => Self::Failed(error),
        };
    }
}
