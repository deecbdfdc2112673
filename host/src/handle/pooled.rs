//! A pooled call: its job, and the future of its result. Exactly one party completes a call: the
//! worker, the timer when the deadline passes, or the caller by cancelling it.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::task::TaskCall;
use super::{Inner, lost};
use crate::call::{CallState, Reply, Request};
use crate::error::Error;
use crate::slot::CallScope;
use crate::sync::{after, lock};
use crate::worker::{
    CallerRuntime, DeadlineCheck, Job, JobFuture, JobOutcome, RejectReason, WaitLimits,
};

type Answer = Result<Reply, Error>;

/// A queued or running call.
struct PooledCall {
    inner: Arc<Inner>,
    request: Request<'static>,
    /// The runtime that queued it, if it can run there.
    caller: Option<CallerRuntime>,
    state: CallState,
    /// `None` once the call was completed.
    sender: Mutex<Option<oneshot::Sender<Answer>>>,
    /// Whether it was counted: by the layers, or as a call that did not start.
    is_counted: AtomicBool,
}

impl PooledCall {
    /// Completes the call, unless another party has. Returns whether this was the first.
    fn complete(&self, answer: impl FnOnce() -> Answer) -> bool {
        // Not sent under the lock: the receiver may run a waker of the application.
        let sender = lock(&self.sender).take();
        let is_first = sender.is_some();
        if let Some(sender) = sender {
            let _ = sender.send(answer());
        }
        is_first
    }
}

impl PooledCall {
    /// Cancels the call.
    fn cancel(self: &Arc<Self>) {
        self.state.cancel();
        if self.complete(|| Err(self.inner.slot.cancelled_error())) {
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
        let answer = self.inner.slot.with_lease(generation, |instance| {
            self.inner.run(&CallScope::pooled(&self.request, instance, &self.state))
        });
        let Some(answer) = answer else { return JobOutcome::StaleEpoch };
        self.is_counted.store(true, Ordering::Relaxed);
        self.complete(|| answer);
        JobOutcome::Completed
    }

    fn run_async(self: Arc<Self>, generation: u64) -> JobFuture {
        Box::pin(async move {
            if !self.state.is_active() {
                return JobOutcome::Completed;
            }
            let Some(instance) = self.inner.slot.lease(generation) else {
                return JobOutcome::StaleEpoch;
            };
            let scope = CallScope::pooled(&self.request, &instance, &self.state);
            let answer = self.inner.run_async(&scope).await;
            // Released first: the caller may wait for the unload of this generation.
            drop(instance);
            self.is_counted.store(true, Ordering::Relaxed);
            self.complete(|| answer);
            JobOutcome::Completed
        })
    }

    fn caller_runtime(&self) -> Option<&CallerRuntime> {
        self.caller.as_ref()
    }

    fn reject(self: Arc<Self>, reason: RejectReason) {
        self.is_counted.store(true, Ordering::Relaxed);
        self.complete(|| Err(self.inner.slot.reject_error(reason)));
    }

    fn panicked(self: Arc<Self>) {
        self.complete(|| Err(lost(&self.inner.slot)));
    }

    fn is_active(&self) -> bool {
        self.state.is_active()
    }

    fn due(&self) -> Option<Instant> {
        self.request.deadline()
    }

    fn check_deadline(self: Arc<Self>, _: Instant) -> DeadlineCheck {
        self.state.time_out();
        if self.complete(|| Err(self.inner.slot.timeout_error(&self.state))) {
            DeadlineCheck::Exceeded { remaining: None }
        } else {
            DeadlineCheck::WithinDeadline
        }
    }
}

impl Drop for PooledCall {
    /// Counts a call that was cancelled or not accepted.
    fn drop(&mut self) {
        if *self.is_counted.get_mut() {
            return;
        }
        // The timer may have counted its timeout, between the worker's taking it and running it.
        let is_rejected = !self.state.has_reached_plugin() && self.state.count_timeout_once();
        match is_rejected {
            true => self.inner.slot.count_rejected(),
            false => self.inner.slot.count_cancelled(),
        }
    }
}

/// The future of a pooled call, which is queued already. Dropping it cancels the call: a call that
/// has not started never starts, and the plugin of a running one can query the cancellation.
///
/// ```
/// use std::time::Duration;
/// use hotbay::{Host, Output, Request};
///
/// let host = Host::builder()
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// let call = host.plugin("echo")?.execute(Request::text("a").with_timeout(Duration::from_secs(60)));
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert_eq!(call.await?.as_text()?, "a");
/// # Ok::<(), hotbay::Error>(())
/// # })?;
/// # Ok::<(), hotbay::Error>(())
/// ```
#[must_use = "dropping the future cancels the call"]
pub struct Execute(State);

enum State {
    Waiting(WaitingCall),
    /// Without a worker.
    Task(TaskCall),
    Ready(Option<Answer>),
    Done,
}

struct WaitingCall {
    receiver: oneshot::Receiver<Answer>,
    job: Arc<PooledCall>,
    /// Woken when the request's token is cancelled, whether or not the future is polled.
    _token: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Cancels a call when its token is cancelled, on the thread that cancels the token.
struct CancelOnWake(Weak<PooledCall>);

impl Wake for CancelOnWake {
    fn wake(self: Arc<Self>) {
        if let Some(job) = self.0.upgrade() {
            job.cancel();
        }
    }
}

impl Execute {
    /// Queues a call.
    pub(super) fn new(inner: &Arc<Inner>, request: Request<'_>) -> Self {
        Self(match TaskCall::start(inner, &request) {
            Some(Ok(task)) => State::Task(task),
            Some(Err(answer)) => State::Ready(Some(answer)),
            None => match WaitingCall::new(inner, request) {
                Ok(waiting) => State::Waiting(waiting),
                Err(error) => State::Ready(Some(Err(error))),
            },
        })
    }
}

impl WaitingCall {
    fn new(inner: &Arc<Inner>, request: Request<'_>) -> Result<Self, Error> {
        let slot = &inner.slot;
        inner.check_process()?;
        let mut request = request.into_owned();
        request.join_chain();
        // Its workers may all wait for this call.
        if let Some(chain) = request.chain() {
            chain.check(&slot.name).inspect_err(|_| slot.count_rejected())?;
        }
        let admitted = slot.check_admission().and_then(|()| limit_wait(inner, &mut request));
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
            caller: slot.caller_runtime(),
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

/// Returns how long a call may wait, and sets its deadline.
fn limit_wait(inner: &Inner, request: &mut Request<'_>) -> Result<WaitLimits, Error> {
    let slot = &inner.slot;
    let space_timeout = request.space_timeout();
    let policy = slot.load_policy();
    let needs_clock = policy.as_ref().is_some_and(|policy| policy.needs_clock(request.deadline()));
    if !needs_clock && request.deadline().is_none() && space_timeout.is_none() {
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
    let queue_timeout = policy.as_ref().and_then(|policy| policy.queue_timeout);
    Ok(WaitLimits {
        deadline: request.deadline(),
        space_until: space_timeout.map(|timeout| after(now, timeout)),
        expires_at: queue_timeout.map(|timeout| after(now, timeout)),
    })
}

impl Future for Execute {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.0 {
            State::Waiting(waiting) if !waiting.job.inner.process.is_current() => {
                Err(waiting.job.inner.forked())
            }
            State::Waiting(waiting) => match Pin::new(&mut waiting.receiver).poll(context) {
                Poll::Ready(answer) => {
                    answer.unwrap_or_else(|_| Err(lost(&waiting.job.inner.slot)))
                }
                Poll::Pending => return Poll::Pending,
            },
            State::Task(task) => match task.poll(context) {
                Poll::Ready(answer) => answer,
                Poll::Pending => return Poll::Pending,
            },
            State::Ready(answer) => match answer.take() {
                Some(answer) => answer,
                None => return Poll::Pending,
            },
            // Polled after it was ready, which no executor does.
            State::Done => return Poll::Pending,
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
