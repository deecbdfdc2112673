//! A pooled call: what stands in the queue, and the future of its answer. Whoever takes the
//! teller answers: the worker, the clock, or nobody because the caller left.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Inner, lost};
use crate::call::{CallState, Reply, Request};
use crate::error::Error;
use crate::pool::{DeadlineCheck, Job, JobFuture, JobOutcome, RejectReason, WaitLimits};
use crate::slot::CallScope;
use crate::sync::{after, lock};

type Answer = Result<Reply, Error>;

/// A call that waits in the queue or runs.
struct PooledCall {
    inner: Arc<Inner>,
    request: Request<'static>,
    state: CallState,
    /// None once the call was answered.
    sender: Mutex<Option<oneshot::Sender<Answer>>>,
    /// Whether it was counted: by the layers, or as one that never began.
    is_counted: AtomicBool,
}

impl PooledCall {
    fn answer(&self, answer: impl FnOnce() -> Answer) -> bool {
        // Taken first: whoever is told may have code of their own behind it.
        let sender = lock(&self.sender).take();
        let is_first = sender.is_some();
        if let Some(sender) = sender {
            let _ = sender.send(answer());
        }
        is_first
    }
}

impl PooledCall {
    /// The caller does not want the answer any more.
    fn cancel(self: &Arc<Self>) {
        self.state.cancel();
        if self.answer(|| Err(self.inner.slot.cancelled_error())) {
            let job: Arc<dyn Job> = Arc::<Self>::clone(self);
            self.inner.slot.cancel(&job);
        }
    }
}

impl Job for PooledCall {
    fn run(self: Arc<Self>, generation: u64) -> JobOutcome {
        if !self.state.is_active() {
            return JobOutcome::Completed;
        }
        let answer = self.inner.slot.with_lease(generation, |token| {
            self.inner.run(&CallScope::pooled(&self.request, token, &self.state))
        });
        let Some(answer) = answer else { return JobOutcome::StaleEpoch };
        self.is_counted.store(true, Ordering::Relaxed);
        self.answer(|| answer);
        JobOutcome::Completed
    }

    fn run_async(self: Arc<Self>, generation: u64) -> JobFuture {
        self.state.mark_async();
        Box::pin(async move {
            if !self.state.is_active() {
                return JobOutcome::Completed;
            }
            let Some(token) = self.inner.slot.lease(generation) else {
                return JobOutcome::StaleEpoch;
            };
            let scope = CallScope::pooled(&self.request, &token, &self.state);
            let answer = self.inner.run_async(&scope).await;
            // Whoever is told may wait for the end of this generation.
            drop(token);
            self.is_counted.store(true, Ordering::Relaxed);
            self.answer(|| answer);
            JobOutcome::Completed
        })
    }

    fn reject(self: Arc<Self>, why: RejectReason) {
        self.is_counted.store(true, Ordering::Relaxed);
        self.answer(|| Err(self.inner.slot.reject_error(why)));
    }

    fn panicked(self: Arc<Self>) {
        self.answer(|| Err(lost(&self.inner.slot)));
    }

    fn is_active(&self) -> bool {
        self.state.is_active()
    }

    fn due(&self) -> Option<Instant> {
        self.request.deadline()
    }

    fn check_deadline(self: Arc<Self>, _: Instant) -> DeadlineCheck {
        self.state.time_out();
        if self.answer(|| Err(self.inner.slot.timeout_error(&self.state))) {
            DeadlineCheck::Exceeded { remaining: None }
        } else {
            DeadlineCheck::WithinDeadline
        }
    }
}

impl Drop for PooledCall {
    /// It may have been taken back, or not taken at all.
    fn drop(&mut self) {
        if *self.is_counted.get_mut() {
            return;
        }
        match self.state.entered() {
            Some(_) => self.inner.slot.count_cancelled(),
            None => self.inner.slot.count_rejected(),
        }
    }
}

/// A pooled call: a future of its reply. Dropping it takes the call back: one that has not
/// begun never does, and the plugin of one that runs can see it.
#[must_use = "dropped, the call is taken back"]
pub struct Execute(State);

enum State {
    Waiting(WaitingCall),
    Rejected(Option<Error>),
    Done,
}

struct WaitingCall {
    receiver: oneshot::Receiver<Answer>,
    job: Arc<PooledCall>,
    /// Where the request named a token: wakes when that is cancelled, whoever polls.
    _token: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Takes a call back when its token is cancelled, on the thread that cancels it.
struct CancelOnWake(Weak<PooledCall>);

impl Wake for CancelOnWake {
    fn wake(self: Arc<Self>) {
        if let Some(job) = self.0.upgrade() {
            job.cancel();
        }
    }
}

impl Execute {
    /// Queues a call, now.
    pub(super) fn new(inner: &Arc<Inner>, request: Request<'_>) -> Self {
        match WaitingCall::new(inner, request) {
            Ok(waits) => Self(State::Waiting(waits)),
            Err(error) => Self(State::Rejected(Some(error))),
        }
    }
}

impl WaitingCall {
    fn new(inner: &Arc<Inner>, request: Request<'_>) -> Result<Self, Error> {
        let slot = &inner.slot;
        inner.check_process()?;
        let mut request = request.into_owned();
        let admitted = slot.check_admission().and_then(|()| bound(inner, &mut request));
        let wait_limits = admitted.inspect_err(|_| slot.count_rejected())?;
        if request.is_cancelled() {
            slot.count_rejected();
            return Err(slot.cancelled_before_start());
        }
        let token = request.cancellation_token().cloned();
        let (sender, receiver) = oneshot::channel();
        let job = Arc::new(PooledCall {
            inner: Arc::clone(inner),
            request,
            state: CallState::default(),
            sender: Mutex::new(Some(sender)),
            is_counted: AtomicBool::new(false),
        });
        slot.enqueue(Arc::<PooledCall>::clone(&job), wait_limits)?;
        let mut token = token.map(|token| Box::pin(token.cancelled_owned()));
        if let Some(token) = &mut token {
            let waker = Waker::from(Arc::new(CancelOnWake(Arc::downgrade(&job))));
            if token.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                job.cancel();
            }
        }
        Ok(Self { receiver, job, _token: token })
    }
}

/// How long a call may wait; its deadline becomes the request's.
fn bound(inner: &Inner, request: &mut Request<'_>) -> Result<WaitLimits, Error> {
    let slot = &inner.slot;
    let space_timeout = request.space_timeout();
    let policy = slot.load_policy();
    let want_time = policy.as_ref().is_some_and(|policy| policy.needs_clock(request.deadline()));
    if !want_time && request.deadline().is_none() && space_timeout.is_none() {
        return Ok(WaitLimits::default());
    }
    let now = Instant::now();
    if let Some(deadline) =
        policy.as_ref().and_then(|policy| policy.deadline(now, request.deadline()))
    {
        request.set_deadline(Some(deadline));
    }
    if request.deadline().is_some_and(|deadline| deadline <= now) {
        return Err(slot.deadline_error("was not called: the deadline had passed"));
    }
    let age_max = policy.as_ref().and_then(|policy| policy.queue_timeout);
    Ok(WaitLimits {
        deadline: request.deadline(),
        space_until: space_timeout.map(|timeout| after(now, timeout)),
        expires_at: age_max.map(|age_max| after(now, age_max)),
    })
}

impl Future for Execute {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.0 {
            State::Waiting(waits) if !waits.job.inner.process.is_current() => {
                Err(waits.job.inner.forked())
            }
            State::Waiting(waits) => match Pin::new(&mut waits.receiver).poll(context) {
                Poll::Ready(answer) => answer.unwrap_or_else(|_| Err(lost(&waits.job.inner.slot))),
                Poll::Pending => return Poll::Pending,
            },
            // Polled after it was ready, as no future may be.
            State::Rejected(None) | State::Done => return Poll::Pending,
            State::Rejected(error) => match error.take() {
                Some(error) => Err(error),
                None => return Poll::Pending,
            },
        };
        self.0 = State::Done;
        Poll::Ready(answer)
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        if self.job.inner.process.is_current() {
            self.job.cancel();
        }
    }
}

impl fmt::Debug for Execute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execute").finish_non_exhaustive()
    }
}
