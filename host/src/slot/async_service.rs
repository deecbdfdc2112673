//! The call path as a future, for calls that run as tasks instead of on the plugin's threads. The
//! services and their order are those of [`SyncService`]; each holds its guards across awaits.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{Either, select};

use super::{CallScope, Slot, SyncService};
use crate::call::{CallState, Reply};
use crate::error::{Error, ErrorKind, bug};
use crate::generation::{CallArgs, InstanceRef};

/// A service of the call path that can run as a future.
pub(crate) trait AsyncService: SyncService {
    /// Makes the call and fills `reply`. The scope must hold a lease.
    fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'a;
}

impl Slot {
    /// Returns the instance of this generation if it is current.
    pub(crate) fn lease(&self, generation: u64) -> Option<Arc<InstanceRef>> {
        self.current.load_full().filter(|instance| instance.generation().id.get() == generation)
    }

    /// Sets whether calls may run as tasks.
    pub(crate) fn set_supports_async(&self, supports_async: bool) {
        self.supports_async.store(supports_async, Ordering::Relaxed);
    }

    /// Returns whether the next call may be a probe, so that calls must not be batched.
    pub(crate) fn is_probing(&self) -> bool {
        self.health.needs_check()
    }

    /// Returns the error of a call that was cancelled while it ran.
    #[cold]
    pub(crate) fn cancelled_error(&self) -> Error {
        let message = "was called, but the caller cancelled the call";
        Error::new(ErrorKind::Cancelled, message).of(&self.name)
    }

    /// Returns the error of a call that outlasted the unload of its generation.
    #[cold]
    fn aborted_error(&self, instance: &InstanceRef) -> Error {
        let message = "was unloaded before it answered: the call exceeded the host's \
                       `drain_timeout`";
        let error = Error::new(ErrorKind::Retired, message).with_hint("call again").of(&self.name);
        error.in_generation(instance.generation().id)
    }

    /// Awaits `answer` until the call is cancelled or the generation aborts its calls; then drops
    /// it, which ends the exchange.
    pub(crate) async fn until_cancelled<T>(
        &self,
        instance: &InstanceRef,
        state: &CallState,
        answer: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let ended = pin!(instance.generation().calls_aborted());
        let cancelled = pin!(state.cancelled());
        match select(pin!(answer), select(cancelled, ended)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((Either::Left(_), _)) => {
                Err(self.cancelled_error().in_generation(instance.generation().id))
            }
            Either::Right((Either::Right(_), _)) => Err(self.aborted_error(instance)),
        }
    }
}

impl AsyncService for Arc<Slot> {
    /// Calls the leased generation, or hands the call to its batch.
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        let CallScope { request, call_id, .. } = *scope;
        let (Some(instance), Some(state)) = (scope.lease, scope.state) else {
            return Err(bug!("a task called `{}` without a lease", self.name));
        };
        if let Some(batch_slot) = scope.batch_slot {
            let answer = batch_slot.wait(call_id).await;
            *reply = answer.map_err(|error| error.of_if_unset(&self.name))?;
            return Ok(());
        }
        let args = CallArgs { request, state: Some(state), call_id };
        self.until_cancelled(instance, state, instance.call_async(args, reply)).await
    }
}
