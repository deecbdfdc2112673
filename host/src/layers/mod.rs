//! The fittings of the corridor: what happens around every call, in a fixed stack.
//!
//! # Order
//!
//! Outermost first, with what each costs a call that it has nothing to do for:
//!
//! 1. `trace`: a span, if anybody listens; one load.
//! 2. `meter`: counts, refused calls too; a load and a store in a cell of the thread's own. One
//!    call in some is timed.
//! 3. the application's own, in the order in which they were added; nothing if there are none.
//! 4. `shortcut`: past the others where none of them has anything to do; three loads.
//! 5. `permit`: refuses what the plugin was not granted.
//! 6. `validate`: refuses input that does not fit the manifest's `input_schema` or that the
//!    application does not accept.
//! 7. `cache`: answers what was answered before, if the application wants that; a null check.
//! 8. `deadline`: refuses what nobody waits for any more.
//! 9. `breaker`: refuses while the plugin is quarantined, and judges how calls end.
//! 10. `limit`: bounds the calls that run at once.
//!
//! The slot's lease is innermost. Where a reload comes between `permit` or `validate` and the
//! lease, the slot has the call judged again by the generation that it goes to: what was granted
//! to one build is not granted to the next.

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

use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::manifest::Manifest;
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

/// The corridor of one plugin.
pub(crate) type Stack = Trace<Meter<UserLayers<BuiltinStack>>>;

type BuiltinStack =
    FastPath<Authorize<Validate<Cache<Deadline<CircuitBreaker<ConcurrencyLimit<Arc<Slot>>>>>>>>;

/// What an application puts around calls: layers around all, validators and caches before some.
#[derive(Clone, Default)]
pub(crate) struct Layers {
    layers: Vec<Arc<dyn Layer>>,
    validators: BTreeMap<PluginName, Vec<Arc<Validator>>>,
    caches: BTreeMap<PluginName, ResponseCache>,
}

impl Layers {
    /// Adds one inside of those that are there.
    pub(crate) fn add(&mut self, layer: Arc<dyn Layer>) {
        self.layers.push(layer);
    }

    /// Adds a validator of one plugin's requests, after those that are there.
    pub(crate) fn validate(&mut self, plugin: PluginName, validator: Arc<Validator>) {
        self.validators.entry(plugin).or_default().push(validator);
    }

    /// Keeps the replies of one plugin, as the last word about it says.
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

/// What an application puts around the calls of one plugin.
pub(crate) struct PluginLayers {
    layers: Vec<Arc<dyn Layer>>,
    validators: Vec<Arc<Validator>>,
    cache: Option<ResponseCache>,
}

impl PluginLayers {
    /// Whether calls may run as tasks: the application's layers would hold up other tasks.
    pub(crate) fn supports_async(&self) -> bool {
        self.layers.is_empty()
    }
}

impl Layers {
    /// What is put around the calls of a plugin that is about to be loaded; asks the layers.
    pub(crate) fn of(&self, manifest: &Manifest) -> Result<PluginLayers, Error> {
        let applies = |layer: &&Arc<dyn Layer>| layer.applies_to(manifest);
        let asked = || self.layers.iter().filter(applies).cloned().collect();
        let layers = catch_unwind(AssertUnwindSafe(asked)).map_err(|payload| {
            let message = "was not loaded: a layer of the application panicked when it was asked \
                           whether it applies";
            let error = Error::new(ErrorKind::LayerPanicked, message).caused_by(fault_of(payload));
            error.of(manifest.name())
        })?;
        let validators = self.validators.get(manifest.name()).cloned().unwrap_or_default();
        let cache = self.caches.get(manifest.name()).cloned();
        Ok(PluginLayers { layers, validators, cache })
    }
}

/// Puts the corridor of `slot` together.
pub(crate) fn stack(slot: &Arc<Slot>, applied: &PluginLayers) -> Stack {
    let own = || Arc::clone(slot);
    let inner =
        Deadline::new(own(), CircuitBreaker::new(own(), ConcurrencyLimit::new(own(), own())));
    let inner = Cache::new(own(), applied.cache.as_ref(), inner);
    let inner = Authorize::new(own(), Validate::new(own(), &applied.validators, inner));
    let is_closed = !applied.validators.is_empty() || applied.cache.is_some();
    let fittings = FastPath::new(own(), is_closed, inner);
    Trace::new(own(), Meter::new(own(), UserLayers::around(slot, &applied.layers, fittings)))
}

/// The error of a call around which `what` of the application panicked.
#[cold]
fn panic_error(slot: &Slot, what: &str, payload: Box<dyn Any + Send>) -> Error {
    let message = format!("was called, and {what} of the application panicked");
    Error::new(ErrorKind::LayerPanicked, message).caused_by(fault_of(payload)).of(&slot.name)
}
