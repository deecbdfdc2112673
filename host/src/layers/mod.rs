//! The layers around every call, in a fixed stack.
//!
//! # Order
//!
//! Outermost first, with the cost for a call that the layer has nothing to do for:
//!
//! 1. `trace`: a span, if a subscriber is enabled; one load.
//! 2. `meter`: counts calls, including rejected ones; a load and a store in a shard of the thread.
//!    Times one call in 64.
//! 3. the application's layers, in the order in which they were added; nothing without any.
//! 4. `fast_path`: skips the others if none of them has anything to do; three loads.
//! 5. `authorize`: rejects operations that the plugin has no permission for.
//! 6. `validate`: rejects input that does not match the manifest's `input_schema` or that the
//!    application does not accept.
//! 7. `cache`: answers from earlier replies, if the application enables it; a null check.
//! 8. `deadline`: rejects calls that were cancelled or whose deadline has passed.
//! 9. `circuit_breaker`: rejects calls while the plugin is quarantined, and records outcomes.
//! 10. `concurrency_limit`: limits the number of concurrent calls.
//!
//! The slot's lease is innermost. If a reload comes between `authorize` or `validate` and the lease,
//! the slot checks the call again against the generation that it goes to: permissions of one build
//! do not carry over to the next.

mod app;
mod authorize;
mod cache;
mod circuit_breaker;
mod concurrency_limit;
mod deadline;
mod fast_path;
mod meter;
mod trace;
mod validate;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hotbay_manifest::Manifest;

use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::panic::fault_of;
use crate::slot::Slot;
use app::UserLayers;
pub use app::{Call, Layer, Next};
use authorize::Authorize;
use cache::Cache;
pub use cache::ResponseCache;
use circuit_breaker::CircuitBreaker;
use concurrency_limit::ConcurrencyLimit;
use deadline::Deadline;
use fast_path::FastPath;
use meter::Meter;
use trace::Trace;
use validate::{Validate, Validator};

/// The call path of one plugin.
pub(crate) type Stack = Trace<Meter<UserLayers<BuiltinStack>>>;

type BuiltinStack =
    FastPath<Authorize<Validate<Cache<Deadline<CircuitBreaker<ConcurrencyLimit<Arc<Slot>>>>>>>>;

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
    layers: Vec<Arc<dyn Layer>>,
    validators: Vec<Arc<Validator>>,
    cache: Option<ResponseCache>,
}

impl PluginLayers {
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
        let layers = catch_unwind(AssertUnwindSafe(select)).map_err(|payload| {
            let message = "was not loaded: `applies_to` of an application layer panicked";
            let error = Error::new(ErrorKind::LayerPanicked, message).caused_by(fault_of(payload));
            error.of(manifest.name())
        })?;
        let validators = self.validators.get(manifest.name()).cloned().unwrap_or_default();
        let cache = self.caches.get(manifest.name()).cloned();
        Ok(PluginLayers { layers, validators, cache })
    }
}

/// Builds the call path of `slot`.
pub(crate) fn stack(slot: &Arc<Slot>, applied: &PluginLayers) -> Stack {
    let own = || Arc::clone(slot);
    let inner =
        Deadline::new(own(), CircuitBreaker::new(own(), ConcurrencyLimit::new(own(), own())));
    let inner = Cache::new(own(), applied.cache.as_ref(), inner);
    let inner = Authorize::new(own(), Validate::new(own(), &applied.validators, inner));
    let is_disabled = !applied.validators.is_empty() || applied.cache.is_some();
    let builtin = FastPath::new(own(), is_disabled, inner);
    Trace::new(own(), Meter::new(own(), UserLayers::around(slot, &applied.layers, builtin)))
}

/// Returns the error of a call during which `what` of the application panicked.
#[cold]
fn panic_error(slot: &Slot, what: &str, payload: Box<dyn Any + Send>) -> Error {
    let message = format!("was called, but {what} of the application panicked");
    Error::new(ErrorKind::LayerPanicked, message).caused_by(fault_of(payload)).of(&slot.name)
}
