//! Many calls of one plugin as one piece of work, so that what a queue costs is paid once for
//! all of them. Each call has its own lease, its own way through the layers and its own outcome.
//! The calls name no deadlines of their own; what each may take counts from its begin.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::{Inner, PluginHandle, lost};
use tokio::sync::oneshot;

use crate::call::{CallState, Reply, Request};
use crate::error::Error;
use crate::id::GenerationId;
use crate::pool::{DeadlineCheck, Job, JobFuture, JobOutcome, RejectReason, WaitLimits};
use crate::slot::CallScope;
use crate::sync::{after, lock};

/// One of many calls.
#[derive(Debug)]
pub(crate) enum BatchItem {
    /// It is to be made.
    Pending(Request<'static>),
    /// It was answered.
    Answered(Request<'static>, Reply),
    /// It failed.
    Failed(Error),
}

impl PluginHandle {
    /// Makes those of `calls` that ask. Each may take at most `wait_max` from its begin, or
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
        let order = Order::default();
        let many = BatchJob::new(&self.inner, calls, timeout, sender, &order);
        *lock(&order) = Some(Arc::downgrade(&many));
        let place = Some(after(Instant::now(), MAX_SPACE_TIMEOUT));
        let wait_limits = WaitLimits { space_until: place, ..WaitLimits::default() };
        let job: Arc<dyn Job> = Arc::<BatchJob>::clone(&many);
        let queued = match timeout.is_some() && slot.has_no_available_worker() {
            true => Err(slot.no_workers_error()),
            false => slot.check_admission().and_then(|()| slot.enqueue(job, wait_limits)),
        };
        if let Err(error) = queued {
            return many.fail_all(|| {
                slot.count_rejected();
                error.cloned()
            });
        }
        drop(many);
        let mut waits = Waits { receiver, order };
        let answer = (&mut waits.receiver).await;
        answer.unwrap_or_else(|_| (0..count).map(|_| BatchItem::Failed(lost(slot))).collect())
    }
}

impl PluginHandle {
    /// Makes one call in this thread, for somebody who may leave.
    pub(crate) fn call_for(
        &self,
        request: &Request<'_>,
        state: &CallState,
    ) -> Result<Reply, Error> {
        self.inner.run(&CallScope { state: Some(state), ..CallScope::inline(request) })
    }

    /// The generation that serves, if nothing bounds its calls, and how many workers it has.
    pub(crate) fn unbounded(&self) -> Option<(GenerationId, u32)> {
        let generation = self.inner.slot.generation()?;
        // Threads of a stream's own would each wait for one call.
        let is_unbounded = generation.policy.is_unbounded() && generation.runtime.is_none();
        is_unbounded.then_some((generation.id, generation.workers.max_workers))
    }
}

/// Whoever makes many calls bounds how many are under way, so a full queue is waited for.
const MAX_SPACE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Who works on the calls now, for the caller who may take them back; none once they were.
type Order = Arc<Mutex<Option<Weak<BatchJob>>>>;

/// Many calls in the queue or on a worker.
pub(super) struct BatchJob {
    pub(super) inner: Arc<Inner>,
    count: usize,
    /// How long each may take; with none, nobody has to speak for them.
    pub(super) timeout: Option<Duration>,
    pub(super) state: CallState,
    order: Order,
    pub(super) progress: Mutex<Progress>,
}

pub(super) struct Progress {
    pub(super) calls: Vec<BatchItem>,
    /// The call that is next, or runs.
    pub(super) at: usize,
    /// When the one that runs is late.
    due: Option<Instant>,
    /// None once somebody else goes on with these calls.
    sender: Option<oneshot::Sender<Vec<BatchItem>>>,
}

/// Whether a call was made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Yes,
    /// The worker's generation is not current any more.
    NotHere,
}

impl BatchJob {
    fn new(
        inner: &Arc<Inner>,
        calls: Vec<BatchItem>,
        timeout: Option<Duration>,
        sender: oneshot::Sender<Vec<BatchItem>>,
        order: &Order,
    ) -> Arc<Self> {
        let count = calls.len();
        let progress = Progress { calls, at: 0, due: None, sender: Some(sender) };
        Arc::new(Self {
            inner: Arc::clone(inner),
            count,
            timeout,
            state: CallState::default(),
            order: Arc::clone(order),
            progress: Mutex::new(progress),
        })
    }

    #[cfg(test)]
    pub(super) fn for_tests(inner: &Arc<Inner>) -> Arc<Self> {
        let many = Self::new(inner, Vec::new(), None, oneshot::channel().0, &Order::default());
        many.state.mark_async();
        many
    }

    /// Makes one call if it asks.
    fn make(&self, generation: u64, call: &mut BatchItem) -> Made {
        let BatchItem::Pending(request) = call else { return Made::Yes };
        let answer = self.inner.slot.with_lease(generation, |instance| {
            self.inner.run(&CallScope::pooled(request, instance, &self.state))
        });
        *call = match answer {
            None => return Made::NotHere,
            Some(Ok(reply)) => BatchItem::Answered(std::mem::take(request), reply),
            Some(Err(error)) => BatchItem::Failed(error),
        };
        Made::Yes
    }

    /// Makes all that are left, for nobody who could be late.
    fn run_untimed(&self, generation: u64) -> JobOutcome {
        let mut progress = lock(&self.progress);
        let (mut calls, from) = (std::mem::take(&mut progress.calls), progress.at);
        drop(progress);
        for at in from..calls.len() {
            if !self.state.is_active() {
                return JobOutcome::Completed;
            }
            if self.make(generation, &mut calls[at]) == Made::NotHere {
                let mut progress = lock(&self.progress);
                (progress.calls, progress.at) = (calls, at);
                return JobOutcome::StaleEpoch;
            }
        }
        self.tell(calls);
        JobOutcome::Completed
    }

    pub(super) fn tell(&self, calls: Vec<BatchItem>) {
        let sender = lock(&self.progress).sender.take();
        if let Some(sender) = sender {
            let _ = sender.send(calls);
        }
    }

    /// Makes all that are left, one by one in sight of the clock.
    fn run_timed(&self, generation: u64, timeout: Duration) -> JobOutcome {
        while self.state.is_active() {
            let Some(mut call) = self.begin(timeout) else { break };
            let made = self.make(generation, &mut call);
            let mut progress = lock(&self.progress);
            // Somebody spoke for it meanwhile: what came of it is dropped, outside the lock.
            if progress.sender.is_none() {
                drop(progress);
                break;
            }
            let at = progress.at;
            progress.due = None;
            // It counted for this step.
            if let BatchItem::Pending(request) | BatchItem::Answered(request, _) = &mut call {
                request.set_deadline(None);
            }
            progress.calls[at] = call;
            if made == Made::NotHere {
                return JobOutcome::StaleEpoch;
            }
            progress.at += 1;
        }
        JobOutcome::Completed
    }

    /// Takes the next call to be made; none if there is none, which is told, or if somebody
    /// else goes on.
    fn begin(&self, timeout: Duration) -> Option<BatchItem> {
        let mut progress = lock(&self.progress);
        progress.sender.as_ref()?;
        let at = progress.at;
        if at == progress.calls.len() {
            let calls = std::mem::take(&mut progress.calls);
            drop(progress);
            self.tell(calls);
            return None;
        }
        let mut call = std::mem::replace(&mut progress.calls[at], BatchItem::gone());
        if let BatchItem::Pending(request) = &mut call {
            let due = after(Instant::now(), timeout);
            request.set_deadline(Some(due));
            progress.due = Some(due);
        }
        self.state.reset();
        Some(call)
    }

    /// Fails all that were not made.
    fn fail_all(&self, error: impl Fn() -> Error) -> Vec<BatchItem> {
        let mut calls = std::mem::take(&mut lock(&self.progress).calls);
        for call in &mut calls {
            if matches!(call, BatchItem::Pending(_)) {
                *call = BatchItem::Failed(error());
            }
        }
        // A worker that broke had taken them out.
        calls.resize_with(self.count, || BatchItem::Failed(error()));
        calls
    }
}

impl BatchItem {
    /// In the place of a call that somebody holds.
    fn gone() -> Self {
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
        self.state.mark_async();
        Box::pin(async move { self.run_async_calls(generation).await })
    }

    fn reject(self: Arc<Self>, why: RejectReason) {
        let failed = self.fail_all(|| self.inner.slot.reject_error(why));
        self.tell(failed);
    }

    fn panicked(self: Arc<Self>) {
        let failed = self.fail_all(|| lost(&self.inner.slot));
        self.tell(failed);
    }

    fn is_active(&self) -> bool {
        self.state.is_active()
    }

    fn waits_for_abandoned(&self) -> bool {
        self.timeout.is_none()
    }

    fn due(&self) -> Option<Instant> {
        let timeout = self.timeout?;
        // It is asked first when a worker is about to begin.
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
        let rest = Self::new(&self.inner, calls, self.timeout, sender, &self.order);
        lock(&rest.progress).at = at + 1;
        let mut order = lock(&self.order);
        // None: the caller left just now.
        let rest = order.is_some().then(|| {
            *order = Some(Arc::downgrade(&rest));
            let rest: Arc<dyn Job> = rest;
            rest
        });
        DeadlineCheck::Exceeded { remaining: rest }
    }
}

/// Takes the calls back that are still to be made when nobody waits any more.
struct Waits {
    receiver: oneshot::Receiver<Vec<BatchItem>>,
    order: Order,
}

impl Drop for Waits {
    fn drop(&mut self) {
        let many = lock(&self.order).take();
        let Some(many) = many.and_then(|many| many.upgrade()) else { return };
        let sender = lock(&many.progress).sender.take();
        if sender.is_some() {
            many.state.cancel();
            let job: Arc<dyn Job> = Arc::<BatchJob>::clone(&many);
            many.inner.slot.cancel(&job);
        }
    }
}
