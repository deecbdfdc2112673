//! Handles of plugins, which stay valid through reloads.

mod batch;
mod brief;
mod method;
mod pooled;
mod stream;
mod task;
#[cfg(test)]
mod task_tests;

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "tower")]
use std::task::{Context, Poll};

use hotbay_plugin::Snapshot;
use hotbay_plugin::contract::ContractText;
use tokio::sync::oneshot;
#[cfg(feature = "tower")]
use tower_service::Service;

use crate::call::{Reply, ReplySlot, Request};
use crate::contracts::KnownContract;
use crate::error::{Error, ErrorKind};
use crate::generation::{InstanceRef, ServedMethod};
use crate::id::{GenerationId, PluginName};
use crate::middleware::{PluginLayers, Stack, stack};
use crate::slot::{AsyncService as _, CallScope, Slot, SyncService as _};
use crate::sync::ProcessEpoch;
pub(crate) use batch::BatchItem;
pub(crate) use method::CallOptions;
pub use method::{DirectTransport, PinnedTransport, PooledTransport};
pub use pooled::Execute;

/// A handle of a plugin. Cheap to clone; stays valid through reloads.
///
/// ```
/// use hotbay::{Host, Output, Request};
///
/// let host = Host::builder()
///     .register_fn("shout", |_, input| Ok(Output::text(input.as_text()?.to_uppercase())))
///     .build()?;
/// let shout = host.plugin("shout")?;
/// assert_eq!(shout.name().as_str(), "shout");
/// assert_eq!(shout.call(Request::text("hello"))?.as_text()?, "HELLO");
/// # Ok::<(), hotbay::Error>(())
/// ```
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
    /// Runs a call through the middleware.
    fn run(&self, scope: &CallScope<'_>) -> Result<Reply, Error> {
        self.check_process()?;
        let mut reply = ReplySlot::new();
        self.stack.call(scope, &mut reply)?;
        Ok(reply.take())
    }

    /// Passes a call through the layers as a future.
    async fn run_async(&self, scope: &CallScope<'_>) -> Result<Reply, Error> {
        let mut reply = ReplySlot::new();
        self.stack.call_async(scope, &mut reply).await?;
        Ok(reply.take())
    }

    /// Fails in a forked child.
    #[inline]
    fn check_process(&self) -> Result<(), Error> {
        if self.process.is_current() { Ok(()) } else { Err(self.forked()) }
    }

    /// Returns the error of a call of a pinned generation that was replaced.
    #[cold]
    fn not_current(&self, pin: &InstanceRef) -> Error {
        if self.slot.is_shutting_down() {
            return self.slot.unloaded_error();
        }
        let generation = pin.generation().id;
        let message =
            format!("was not called: the pinned generation {generation} is no longer current");
        let error = Error::new(ErrorKind::Retired, message).with_hint("pin the plugin again");
        error.of(&self.slot.name).in_generation(generation)
    }

    #[cold]
    fn forked(&self) -> Error {
        let message = "was not called: this process was forked after the host was built";
        let error = Error::new(ErrorKind::Forked, message);
        error.with_hint("build another host in the child process").of(&self.slot.name)
    }
}

impl PluginHandle {
    pub(crate) fn new(slot: Arc<Slot>, applied: &PluginLayers) -> Self {
        slot.set_supports_async(applied.supports_async());
        slot.set_layered(!applied.is_empty());
        let process = ProcessEpoch::now();
        Self { inner: Arc::new(Inner { stack: stack(&slot, applied), slot, process }) }
    }

    /// Returns the plugin's name.
    pub fn name(&self) -> &PluginName {
        &self.inner.slot.name
    }

    /// Calls the plugin on this thread. Costs nanoseconds; for plugins that are trusted to return.
    ///
    /// Blocks until the plugin returns. What the plugin leaves on this thread, such as a
    /// thread-local value, may keep its library mapped after an unload until this thread exits.
    ///
    /// # Errors
    ///
    /// - `Plugin`: the plugin returned an error.
    /// - `Panicked`: the plugin panicked.
    /// - `InvalidInput`: the input is too large, does not match the `input_schema`, or was rejected
    ///   by the application.
    /// - `InvalidOutput`: the output is too large, or the call took more memory than
    ///   `limits.call_memory_bytes`.
    /// - `DeadlineExceeded`, `Cancelled`: before the call had started.
    /// - `Overloaded`: more concurrent calls than `limits.in_flight`.
    /// - `PermissionDenied`: the plugin has no permission for the operation.
    /// - `LayerPanicked`: a layer or validator panicked.
    /// - `Quarantined`, `Retired`, `Shutdown`.
    #[inline(always)]
    pub fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        self.inner.call(request, None)
    }

    /// Queues a call for the plugin's workers at once and returns a future of the reply.
    ///
    /// The future runs on any executor. If the plugin is a process, calling this inside a tokio
    /// runtime with I/O is fastest: the call then runs as a task of that runtime, and on the host's
    /// if that one does not poll it. Dropping the future cancels the call. At the deadline it returns
    /// `DeadlineExceeded`, whatever the plugin does. A call that still runs then is *abandoned*: its
    /// worker is replaced, up to [`max_abandoned_calls`](crate::HostLimits::max_abandoned_calls)
    /// times; after that the plugin is quarantined until one of them returns.
    ///
    /// # Errors
    ///
    /// The same as [`call`](Self::call), and `Overloaded` if the queue is full and the request does
    /// not [wait for space](Request::with_space_timeout).
    pub fn execute(&self, request: Request<'_>) -> Execute {
        Execute::new(&self.inner, request)
    }

    /// Checks the health of the plugin, on a thread of the plugin.
    ///
    /// # Errors
    ///
    /// `Plugin` with the plugin's own error, `Panicked`, `Retired`, and `Overloaded` while the
    /// plugin is paused for a reload.
    pub async fn health(&self) -> Result<(), Error> {
        self.inner.check_process()?;
        let health = self.inner.slot.try_pin()?.call_with(|backend| backend.health())?;
        self.result(health).await
    }

    /// Takes the state that the plugin would hand over to its next build, or `None` if it has none.
    /// [`LoadOptions::with_state`](crate::LoadOptions::with_state) restores it.
    ///
    /// # Errors
    ///
    /// The same as [`health`](Self::health).
    pub async fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        self.inner.check_process()?;
        let snapshot = self.inner.slot.try_pin()?.call_with(|backend| backend.snapshot())?;
        self.result(snapshot).await
    }

    async fn result<T>(&self, result: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        result.await.unwrap_or_else(|_| Err(lost(&self.inner.slot)))
    }

    /// Returns the transport of a contract, which the current generation serves.
    pub(crate) fn contract(&self, contract: Arc<KnownContract>) -> Result<DirectTransport, Error> {
        self.inner.check_process()?;
        self.inner.slot.pin()?.check_contract(&contract)?;
        Ok(DirectTransport::new(&self.inner, contract, None))
    }

    /// Returns whether the current generation serves a contract; fails while the plugin is paused.
    pub(crate) fn check_contract(&self, contract: &KnownContract) -> Result<(), Error> {
        self.inner.check_process()?;
        self.inner.slot.try_pin()?.check_contract(contract)
    }

    /// Returns whether the current generation serves a contract with this text; waits while the
    /// plugin is paused.
    pub(crate) fn check_text(&self, text: &ContractText) -> Result<(), Error> {
        self.inner.check_process()?;
        self.inner.slot.pin()?.check_text(text)
    }

    /// Returns the same as [`check_text`](Self::check_text), but fails while the plugin is paused.
    pub(crate) fn try_check_text(&self, text: &ContractText) -> Result<(), Error> {
        self.inner.slot.try_pin()?.check_text(text)
    }

    /// Returns the transport of a contract, whether or not it is served.
    pub(crate) fn transport(
        &self,
        contract: &Arc<KnownContract>,
        options: Option<&Arc<CallOptions>>,
    ) -> DirectTransport {
        DirectTransport::new(&self.inner, Arc::clone(contract), options.cloned())
    }

    /// Returns how the current generation serves a method; fails while the plugin is paused.
    pub(crate) fn served_method(
        &self,
        contract: &KnownContract,
        index: usize,
    ) -> Result<ServedMethod, Error> {
        self.inner.slot.try_pin()?.served_method(contract, index)
    }

    /// Returns the same as [`contract_text`](Self::contract_text), but fails while the plugin is
    /// paused.
    pub(crate) fn try_contract_text(&self, contract: &str) -> Result<Option<ContractText>, Error> {
        Ok(self.inner.slot.try_pin()?.contract_text(contract))
    }

    /// Returns the text of a contract that the current generation serves; waits while the plugin is
    /// paused.
    pub(crate) fn contract_text(&self, contract: &str) -> Result<Option<ContractText>, Error> {
        Ok(self.inner.slot.pin()?.contract_text(contract))
    }

    /// Pins the current generation, for many calls without a lookup for each.
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

/// Returns the error of a call without a result: code of the host panicked around it, such as a
/// subscriber of its log.
#[cold]
fn lost(slot: &Slot) -> Error {
    Error::new(ErrorKind::Internal, "was called, but the call returned no result").of(&slot.name)
}

/// A pinned generation of a plugin. Its unload waits until this is dropped, so drop it when a call
/// returns `Retired`.
///
/// ```
/// use hotbay::{Host, Output, Request};
///
/// let host = Host::builder()
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// let pinned = host.plugin("echo")?.pin()?;
/// let reply = pinned.call(Request::text("hello"))?;
/// assert_eq!(reply.as_text()?, "hello");
/// assert_eq!(reply.generation(), pinned.generation());
/// # Ok::<(), hotbay::Error>(())
/// ```
pub struct Pinned {
    instance: Arc<InstanceRef>,
    inner: Arc<Inner>,
}

impl Pinned {
    /// Calls the pinned generation on this thread, through all layers.
    ///
    /// # Errors
    ///
    /// The same as [`PluginHandle::call`], and `Retired` once another generation is current.
    #[inline(always)]
    pub fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        self.inner.call(request, Some(&self.instance))
    }

    /// Returns the pinned generation.
    pub fn generation(&self) -> GenerationId {
        self.instance.generation().id
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

#[cfg(feature = "tower")]
impl Service<Request<'static>> for PluginHandle {
    type Response = Reply;
    type Error = Error;
    type Future = Execute;

    /// Always ready. The queue is bounded all the same: if it is full, the call itself returns
    /// `Overloaded`, or waits for as long as the request
    /// [waits for space](Request::with_space_timeout).
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    /// Calls [`execute`](PluginHandle::execute).
    fn call(&mut self, request: Request<'static>) -> Execute {
        self.execute(request)
    }
}
