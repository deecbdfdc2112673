//! What callers hold: a plugin by its name, whatever generation serves.

mod batch;
mod batch_async;
mod pooled;
#[cfg(test)]
mod task_tests;
#[cfg(feature = "tower")]
mod tower;

use std::fmt;
use std::sync::Arc;

use hotbay_plugin::Snapshot;
use tokio::sync::oneshot;

use crate::call::{Reply, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::InstanceRef;
use crate::id::{GenerationId, PluginName};
use crate::layers::{PluginLayers, Stack, stack};
use crate::slot::{AsyncService as _, CallScope, Method, Slot, SyncService as _};
use crate::sync::ProcessEpoch;
pub(crate) use batch::BatchItem;
pub use pooled::Execute;

/// A plugin of a host. Cheap to clone; lives through reloads.
#[derive(Clone)]
pub struct PluginHandle {
    inner: Arc<Inner>,
}

struct Inner {
    stack: Stack,
    slot: Arc<Slot>,
    process: ProcessEpoch,
}

impl Inner {
    /// Inlined into the caller, so that the reply lies where the caller wants it: a reply that
    /// was just written is not moved without waiting for the stores.
    #[inline(always)]
    fn run(&self, scope: &CallScope<'_>) -> Result<Reply, Error> {
        let mut answer = Ok(Reply::vacant());
        if let Ok(reply) = &mut answer
            && let Err(error) = self.walk(scope, reply)
        {
            answer = Err(error);
        }
        answer
    }

    /// The corridor, once.
    #[inline(never)]
    fn walk(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        self.check_process()?;
        self.stack.call(scope, reply)
    }

    /// The corridor, by a future.
    async fn run_async(&self, scope: &CallScope<'_>) -> Result<Reply, Error> {
        let mut reply = Reply::vacant();
        self.stack.call_async(scope, &mut reply).await?;
        Ok(reply)
    }

    /// Refuses what a forked child asks for.
    #[inline]
    fn check_process(&self) -> Result<(), Error> {
        if self.process.is_current() { Ok(()) } else { Err(self.forked()) }
    }

    #[cold]
    fn forked(&self) -> Error {
        let message = "was not called: this process was forked after the host was built; build \
                       another host in it";
        Error::new(ErrorKind::Forked, message).of(&self.slot.name)
    }
}

impl PluginHandle {
    pub(crate) fn new(slot: Arc<Slot>, applied: &PluginLayers) -> Self {
        slot.set_supports_async(applied.supports_async());
        let process = ProcessEpoch::now();
        Self { inner: Arc::new(Inner { stack: stack(&slot, applied), slot, process }) }
    }

    /// The plugin's name.
    pub fn name(&self) -> &PluginName {
        &self.inner.slot.name
    }

    /// Calls the plugin in this thread; costs nanoseconds, for plugins that are trusted to end.
    ///
    /// Blocks as long as the plugin takes. What the plugin leaves on this thread, such as a
    /// thread-local value, may keep its library mapped after an unload until this thread ends.
    ///
    /// # Errors
    ///
    /// `Plugin` with the plugin's own error, `Panicked` with the fault, `Quarantined`,
    /// `Retired`, `Shutdown`, `InvalidInput` and `InvalidOutput` for what is too large, `InvalidInput` for what does
    /// not fit its `input_schema` or the application does not accept, `DeadlineExceeded` and
    /// `Cancelled` for what had not begun, `Overloaded` for more calls at once than its
    /// `limits.in_flight`, `PermissionDenied` for an operation that it was not granted, and `LayerPanicked` for a
    /// layer or a validator that panicked.
    #[inline(always)]
    pub fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        self.inner.run(&CallScope::inline(&request))
    }

    /// Calls the plugin in this thread, past all layers: what these cost is measured by this.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    #[cfg(feature = "measure")]
    #[doc(hidden)]
    #[inline(always)]
    pub fn call_without_layers(&self, request: Request<'_>) -> Result<Reply, Error> {
        let mut reply = Reply::vacant();
        self.inner.slot.call(&CallScope::inline(&request), &mut reply)?;
        Ok(reply)
    }

    /// Queues a call for the plugin's own threads, at once; the future waits for the answer.
    ///
    /// Runs on any executor. Dropping the future takes the call back. At the deadline the
    /// answer is `DeadlineExceeded`, whatever the plugin does; a call that runs on is
    /// *abandoned*: its worker is replaced, at most
    /// [`max_abandoned_calls`](crate::HostLimits::max_abandoned_calls) times, and then the plugin is
    /// quarantined until one of them returns.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and `Overloaded` when the queue is full and the request
    /// does not [wait for a place](Request::wait_for_place).
    pub fn execute(&self, request: Request<'_>) -> Execute {
        Execute::new(&self.inner, request)
    }

    /// Asks the plugin whether it can work, on a thread of its own.
    ///
    /// # Errors
    ///
    /// `Plugin` with the plugin's own error, `Panicked`, `Retired`, and `Overloaded` while the
    /// plugin is paused for a reload.
    pub async fn health(&self) -> Result<(), Error> {
        self.inner.check_process()?;
        let answer = self.inner.slot.try_pin()?.call_with(|body| body.health())?;
        self.answer(answer).await
    }

    /// Takes the state that the plugin would hand to its next build; none if it has none.
    /// [`Host::load_with_state`](crate::Host::load_with_state) gives it to a plugin.
    ///
    /// # Errors
    ///
    /// As [`health`](Self::health).
    pub async fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        self.inner.check_process()?;
        let answer = self.inner.slot.try_pin()?.call_with(|body| body.snapshot())?;
        self.answer(answer).await
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        answer.await.unwrap_or_else(|_| Err(lost(&self.inner.slot)))
    }

    /// Holds the current generation, for many calls at raw speed.
    ///
    /// # Errors
    ///
    /// `Retired` after an unload.
    pub fn pin(&self) -> Result<Pinned, Error> {
        self.inner.check_process()?;
        let instance = self.inner.slot.pin()?;
        Ok(Pinned { instance, inner: Arc::clone(&self.inner) })
    }
}

impl fmt::Debug for PluginHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHandle").field("name", self.name()).finish()
    }
}

/// A call that ended without an answer: something of the host's own panicked around it, such as
/// a subscriber of its log.
#[cold]
fn lost(slot: &Slot) -> Error {
    Error::new(ErrorKind::Internal, "was called, and the call ended without an answer")
        .of(&slot.name)
}

/// A hold on one generation of a plugin. Whatever ends that generation waits until this is
/// dropped, so drop it when a call answers `Retired`.
pub struct Pinned {
    instance: Arc<InstanceRef>,
    inner: Arc<Inner>,
}

impl Pinned {
    /// Calls the generation in this thread, counted and guarded as every call.
    ///
    /// # Errors
    ///
    /// Those of [`PluginHandle::call`]; `Retired` once another generation is current.
    #[inline(always)]
    pub fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        if !self.instance.generation().is_current() {
            return Err(self.not_current());
        }
        let scope = CallScope { method: Method::Pinned, ..CallScope::inline(&request) };
        self.inner.run(&CallScope { lease: Some(&self.instance), ..scope })
    }

    /// The generation that is held.
    pub fn generation(&self) -> GenerationId {
        self.instance.generation().id
    }

    #[cold]
    fn not_current(&self) -> Error {
        if self.inner.slot.is_shutting_down() {
            return self.inner.slot.unloaded_error();
        }
        let generation = self.generation();
        let message =
            format!("is pinned at generation {generation}, which has ended; pin it again");
        let error = Error::new(ErrorKind::Retired, message);
        error.of(&self.inner.slot.name).in_generation(generation)
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned")
            .field("plugin", &self.inner.slot.name)
            .field("generation", &self.generation())
            .finish()
    }
}
