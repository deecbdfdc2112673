//! The corridor walked by a future, for calls that run as tasks instead of on threads of their
//! plugin. The same steps in the same order as [`SyncService`]; each holds its guards while it waits.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{Either, select};

use super::{CallScope, Slot, SyncService};
use crate::call::{CallState, Reply};
use crate::error::{Error, ErrorKind, bug};
use crate::generation::{CallArgs, InstanceRef};

/// One step of the corridor that a future walks.
pub(crate) trait AsyncService: SyncService {
    /// Walks on, to fill `reply`. The visit comes with a lease.
    fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'a;
}

impl Slot {
    /// A hold on the generation of this number, if it is current.
    pub(crate) fn lease(&self, generation: u64) -> Option<Arc<InstanceRef>> {
        self.current.load_full().filter(|instance| instance.generation().id.get() == generation)
    }

    /// Says whether calls may run as tasks.
    pub(crate) fn set_supports_async(&self, is_walkable: bool) {
        self.supports_async.store(is_walkable, Ordering::Relaxed);
    }

    /// Whether each call may be the one that decides whether others are made.
    pub(crate) fn is_probing(&self) -> bool {
        self.health.needs_check()
    }

    /// What a call is told that was taken back while it ran.
    #[cold]
    pub(crate) fn cancelled_error(&self) -> Error {
        let message = "was called, and its caller took the call back";
        Error::new(ErrorKind::Cancelled, message).of(&self.name)
    }

    /// What a call is told that ran on in a generation that had to end.
    #[cold]
    fn aborted_error(&self, instance: &InstanceRef) -> Error {
        let message = "was called, and ended before it had answered: it took longer than the \
                       `drain_timeout` of the host; call again";
        let error = Error::new(ErrorKind::Retired, message).of(&self.name);
        error.in_generation(instance.generation().id)
    }

    /// Waits for an answer for as long as somebody wants it and the plugin is there; dropped,
    /// what is waited for ends.
    pub(crate) async fn until_cancelled<T>(
        &self,
        instance: &InstanceRef,
        state: &CallState,
        answer: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let ended = pin!(instance.generation().calls_aborted());
        let left = pin!(state.cancelled());
        match select(pin!(answer), select(left, ended)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((Either::Left(_), _)) => {
                Err(self.cancelled_error().in_generation(instance.generation().id))
            }
            Either::Right((Either::Right(_), _)) => Err(self.aborted_error(instance)),
        }
    }
}

impl AsyncService for Arc<Slot> {
    /// The end of the corridor: calls the generation of the lease, or has that done together
    /// with others.
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        let CallScope { request, call_id, .. } = *scope;
        let (Some(instance), Some(state)) = (scope.lease, scope.state) else {
            return Err(bug!("a task called `{}` without a lease", self.name));
        };
        if let Some(place) = scope.batch_slot {
            let answer = place.wait(call_id).await;
            *reply = answer.map_err(|error| error.of_if_unset(&self.name))?;
            return Ok(());
        }
        let args = CallArgs { request, state: Some(state), call_id };
        self.until_cancelled(instance, state, instance.call_async(args, reply)).await
    }
}
