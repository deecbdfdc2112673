//! The application's code around the calls of its plugins: the trait [`Layer`], and which layers,
//! validators and caches apply to which plugin.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbay_manifest::Manifest;
use hotbay_plugin::TraceContext;

use super::cache::ResponseCache;
use super::service::panic_error;
use super::validate::Validator;
use crate::call::{Reply, ReplySlot, Request};
use crate::error::{Error, ErrorKind, bug};
use crate::id::PluginName;
use crate::panic::catch_fault;
use crate::slot::{AsyncService, CallScope, Method, Slot, SyncService};

/// A layer of the application around the calls of its plugins, such as authentication, a cache or
/// a log.
///
/// Runs on the thread of the call: the caller's for [`call`](crate::PluginHandle::call), a worker
/// of the plugin for [`execute`](crate::PluginHandle::execute). Costs two calls through a pointer.
///
/// ```
/// use hotbay::{Call, Error, Host, Layer, Next, Output, Reply, Request};
///
/// struct Shouting;
///
/// impl Layer for Shouting {
///     fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
///         let text = String::from_utf8_lossy(call.request().as_bytes()).to_uppercase();
///         next.call(call.with_request(&Request::text(&text).with_options_of(call.request())))
///     }
/// }
///
/// let host = Host::builder()
///     .layer(Shouting)
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// let reply = host.plugin("echo")?.call(Request::text("hello"))?;
/// assert_eq!(reply.as_text()?, "HELLO");
/// # Ok::<(), Error>(())
/// ```
///
/// # Panics
///
/// A call fails with `LayerPanicked` if a layer panics; the plugin's health is not affected.
pub trait Layer: Send + Sync + 'static {
    /// Handles a call: usually returns what `next` returns. To reject the call, return an error
    /// such as [`Error::denied`].
    ///
    /// # Errors
    ///
    /// The errors of `next`, and the layer's own.
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error>;

    /// Returns whether this layer applies to a plugin. Called once, when the plugin is first
    /// loaded. By default a layer applies to all.
    fn applies_to(&self, manifest: &Manifest) -> bool {
        let _ = manifest;
        true
    }
}

/// A call on its way to a plugin.
#[derive(Clone, Copy)]
pub struct Call<'c> {
    plugin: &'c PluginName,
    scope: &'c CallScope<'c>,
    /// The request of `scope`, or the one that replaces it.
    request: &'c Request<'c>,
}

impl<'c> Call<'c> {
    /// Returns the name of the plugin.
    pub fn plugin(&self) -> &'c PluginName {
        self.plugin
    }

    /// Returns the method by which the call is made.
    pub fn method(&self) -> Method {
        self.scope.method
    }

    /// Returns the request.
    pub fn request(&self) -> &'c Request<'c> {
        self.request
    }

    /// Returns the operation, if the request names one.
    pub fn operation(&self) -> Option<&'c str> {
        self.request.operation()
    }

    /// Returns the trace context, if the request has one.
    pub fn trace(&self) -> Option<&'c TraceContext> {
        self.request.trace()
    }

    /// Returns the time until the deadline, or `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.request.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Replaces the request; see [`Request::with_options_of`].
    #[must_use]
    pub fn with_request<'n>(self, request: &'n Request<'n>) -> Call<'n>
    where
        'c: 'n,
    {
        Call { plugin: self.plugin, scope: self.scope, request }
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("plugin", &self.plugin)
            .field("method", &self.method())
            .finish_non_exhaustive()
    }
}

/// The rest of the call path: the next layer, or the plugin. May be called again, to retry.
#[derive(Clone, Copy)]
pub struct Next<'n> {
    service: &'n dyn SyncService,
}

impl Next<'_> {
    /// Continues the call.
    ///
    /// # Errors
    ///
    /// The same as [`PluginHandle::call`](crate::PluginHandle::call).
    pub fn call(&self, call: Call<'_>) -> Result<Reply, Error> {
        let mut reply = ReplySlot::new();
        if std::ptr::eq(call.request, call.scope.request) {
            self.service.call(call.scope, &mut reply)?;
        } else {
            let scope = CallScope { request: call.request, ..*call.scope };
            self.service.call(&scope, &mut reply)?;
        }
        Ok(reply.take())
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// One layer of the application, and the service inside it.
struct UserLayer {
    layer: Arc<dyn Layer>,
    slot: Arc<Slot>,
    inner: Box<dyn SyncService>,
}

impl SyncService for UserLayer {
    fn call(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        let call = Call { plugin: &self.slot.name, scope, request: scope.request };
        let next = Next { service: &*self.inner };
        // The reply is set inside, so that only a pointer is moved out of the closure.
        let outcome = catch_fault(|| self.layer.call(call, next).map(|answer| reply.set(answer)));
        match outcome {
            Ok(outcome) => outcome.map_err(|error| {
                error.of_if_unset_because(&self.slot.name, "did not complete the call")
            }),
            Err(fault) => Err(panic_error(&self.slot, "a layer", fault)),
        }
    }
}

/// The application's layers around one plugin.
pub(crate) enum UserLayers<S> {
    None(S),
    Some(Box<dyn SyncService>),
}

impl<S: SyncService + 'static> UserLayers<S> {
    /// Wraps `inner` in `layers`, the first outermost.
    pub(super) fn around(slot: &Arc<Slot>, layers: &[Arc<dyn Layer>], inner: S) -> Self {
        let Some((first, others)) = layers.split_first() else { return Self::None(inner) };
        let mut service: Box<dyn SyncService> = Box::new(inner);
        for layer in others.iter().rev().chain([first]) {
            let (layer, slot) = (Arc::clone(layer), Arc::clone(slot));
            service = Box::new(UserLayer { layer, slot, inner: service });
        }
        Self::Some(service)
    }
}

impl<S: SyncService> SyncService for UserLayers<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        match self {
            Self::None(inner) => inner.call(scope, reply),
            Self::Some(layered) => layered.call(scope, reply),
        }
    }
}

impl<S: AsyncService> AsyncService for UserLayers<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut ReplySlot,
    ) -> Result<(), Error> {
        match self {
            Self::None(inner) => inner.call_async(scope, reply).await,
            // A layer is synchronous and would block the runtime.
            Self::Some(_) => Err(bug!("a task went through layers of the application")),
        }
    }
}

impl<S> fmt::Debug for UserLayers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserLayers").finish_non_exhaustive()
    }
}

/// The application's additions around calls: layers for all plugins, validators and caches for
/// some.
#[derive(Clone, Default)]
pub(crate) struct Layers {
    layers: Vec<Arc<dyn Layer>>,
    validators: BTreeMap<PluginName, Vec<Arc<Validator>>>,
    caches: BTreeMap<PluginName, ResponseCache>,
}

impl Layers {
    /// Adds a layer inside the existing ones.
    pub(crate) fn add(&mut self, layer: Arc<dyn Layer>) {
        self.layers.push(layer);
    }

    /// Adds a validator for one plugin's requests, after the existing ones.
    pub(crate) fn validate(&mut self, plugin: PluginName, validator: Arc<Validator>) {
        self.validators.entry(plugin).or_default().push(validator);
    }

    /// Sets the cache for one plugin's replies.
    pub(crate) fn cache(&mut self, plugin: PluginName, cache: ResponseCache) {
        self.caches.insert(plugin, cache);
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers")
            .field("layers", &self.layers.len())
            .field("validated", &self.validators.keys())
            .field("cached", &self.caches.keys())
            .finish()
    }
}

/// The application's additions around the calls of one plugin.
pub(crate) struct PluginLayers {
    pub(super) layers: Vec<Arc<dyn Layer>>,
    pub(super) validators: Vec<Arc<Validator>>,
    pub(super) cache: Option<ResponseCache>,
}

impl PluginLayers {
    /// Returns whether nothing of the application is around the calls.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.validators.is_empty() && self.cache.is_none()
    }

    /// Returns whether calls may run as tasks: layers of the application would block the runtime.
    pub(crate) fn supports_async(&self) -> bool {
        self.layers.is_empty()
    }
}

impl Layers {
    /// Selects the layers for a plugin that is about to be loaded.
    pub(crate) fn of(&self, manifest: &Manifest) -> Result<PluginLayers, Error> {
        let applies = |layer: &&Arc<dyn Layer>| layer.applies_to(manifest);
        let select = || self.layers.iter().filter(applies).cloned().collect();
        let layers = catch_fault(select).map_err(|fault| {
            let message = "was not loaded: `applies_to` of an application layer panicked";
            let error = Error::new(ErrorKind::LayerPanicked, message).caused_by(fault);
            error.of(manifest.name())
        })?;
        let validators = self.validators.get(manifest.name()).cloned().unwrap_or_default();
        let cache = self.caches.get(manifest.name()).cloned();
        Ok(PluginLayers { layers, validators, cache })
    }
}
