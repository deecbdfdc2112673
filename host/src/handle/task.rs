//! Calls that run as tasks of their plugin: of async methods, and of async plugins. The caller's
//! future is the call; no worker of the host takes part in it.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::future::{Either, select};

use super::Inner;
use crate::call::{CallState, Reply, Request};
use crate::error::Error;
use crate::generation::InstanceRef;
use crate::slot::{CallScope, Slot};
use crate::worker::TimerEntry;

/// A started call of an async plugin. Dropping it cancels the call.
pub(super) struct TaskCall {
    inner: Arc<Inner>,
    /// `None` once it was dropped. In a mutex, so that it is `Sync`; never locked.
    call: Option<Mutex<Pin<Box<RunningCall>>>>,
}

type Answer = Result<Reply, Error>;
type RunningCall = dyn Future<Output = Answer> + Send;

impl TaskCall {
    /// Starts a call of an async plugin, and returns its result if there is one already. `None` if
    /// the call does not run as a task.
    pub(super) fn start(inner: &Arc<Inner>, request: &Request<'_>) -> Option<Result<Self, Answer>> {
        let slot = &inner.slot;
        let is_async = slot.current().is_some_and(|instance| instance.is_async());
        if !is_async || !slot.supports_async() || request.method_request().is_some() {
            return None;
        }
        let instance = slot.try_pin().ok().filter(|instance| instance.is_task(request))?;
        let mut request = request.clone().into_owned();
        request.join_chain();
        let mut call = Self::of(inner, request, instance);
        // Starts the task. The caller's waker is known at the next poll.
        Some(match call.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(call),
            Poll::Ready(answer) => Err(answer),
        })
    }

    /// Creates a call that runs as a task of the plugin. The first poll starts it.
    pub(super) fn of(
        inner: &Arc<Inner>,
        request: Request<'static>,
        instance: Arc<InstanceRef>,
    ) -> Self {
        let own = Arc::clone(inner);
        let call = async move { call_as_task(&own, request, instance).await };
        Self { inner: Arc::clone(inner), call: Some(Mutex::new(Box::pin(call))) }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        if !self.inner.process.is_current() {
            return Poll::Ready(Err(self.inner.forked()));
        }
        match &mut self.call {
            Some(call) => {
                let call = call.get_mut().unwrap_or_else(PoisonError::into_inner);
                call.as_mut().poll(context)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for TaskCall {
    fn drop(&mut self) {
        if !self.inner.process.is_current() {
            // The task is that of the parent process.
            std::mem::forget(self.call.take());
        }
    }
}

impl fmt::Debug for TaskCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskCall").finish_non_exhaustive()
    }
}

/// Makes a call as a task of the plugin, which this future waits for.
async fn call_as_task(
    inner: &Arc<Inner>,
    request: Request<'static>,
    instance: Arc<InstanceRef>,
) -> Result<Reply, Error> {
    let slot = &inner.slot;
    slot.check_admission().inspect_err(|_| slot.count_rejected())?;
    let call = Arc::new(AsyncCall::default());
    let deadline = slot.load_policy().as_ref().map_or(request.deadline(), |policy| {
        match policy.needs_clock(request.deadline()) {
            true => policy.deadline(Instant::now(), request.deadline()),
            false => request.deadline(),
        }
    });
    let mut request = request;
    request.set_deadline(deadline);
    if let Some(deadline) = deadline {
        let entry: Arc<dyn TimerEntry> = Arc::<AsyncCall>::clone(&call);
        slot.schedule(deadline, &entry);
    }
    let mut counted = CountOnDrop(Some(slot));
    let scope = CallScope::pooled(&request, &instance, &call.state);
    // Boxed, since it is large and would be moved along with the caller's future.
    let run: Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send + '_>> =
        Box::pin(inner.run_async(&scope));
    let outcome = match request.cancellation_token() {
        None => run.await,
        Some(token) => match select(run, pin!(token.cancelled())).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => {
                call.state.cancel();
                return Err(slot.cancelled_error().in_generation(instance.generation().id));
            }
        },
    };
    counted.0 = None;
    match outcome {
        Err(_) if call.state.timed_out() => {
            let error = slot.timeout_error(&call.state);
            // The task was dropped.
            Err(match call.state.has_reached_plugin() {
                true => instance.generation().not_in_time(),
                false => error,
            })
        }
        outcome => outcome,
    }
}

/// A call that its caller waits for.
#[derive(Debug, Default)]
struct AsyncCall {
    state: CallState,
}

impl TimerEntry for AsyncCall {
    fn fire_due(self: Arc<Self>, _: Instant) -> Option<Instant> {
        self.state.time_out();
        None
    }
}

/// Counts a call that was dropped or cancelled before it was finished.
pub(super) struct CountOnDrop<'s>(pub(super) Option<&'s Arc<Slot>>);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.count_cancelled();
        }
    }
}
