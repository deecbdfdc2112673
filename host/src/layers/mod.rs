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
//! 4. `deadline`: refuses what nobody waits for any more; two loads.
//! 5. `breaker`: refuses while the plugin is quarantined, and judges how calls end; one load.
//! 6. `limit`: bounds the calls that run at once; one load.
//!
//! The slot's lease is innermost.

mod app;
mod breaker;
mod deadline;
mod limit;
mod meter;
mod trace;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hotbay_plugin::Fault;

use crate::error::{Error, ErrorKind};
use crate::manifest::Manifest;
use crate::slot::Slot;
use app::Applications;
pub use app::{Call, Layer, Next};
use breaker::Breaker;
use deadline::Deadline;
use limit::Limit;
use meter::Meter;
use trace::Trace;

/// The corridor of one plugin.
pub(crate) type Stack = Trace<Meter<Applications<Fittings>>>;

type Fittings = Deadline<Breaker<Limit<Arc<Slot>>>>;

/// The layers of an application.
#[derive(Clone, Default)]
pub(crate) struct Layers(Vec<Arc<dyn Layer>>);

impl Layers {
    /// Adds one inside of those that are there.
    pub(crate) fn add(&mut self, layer: Arc<dyn Layer>) {
        self.0.push(layer);
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layers").field(&self.0.len()).finish()
    }
}

/// Puts the corridor of `slot` together.
pub(crate) fn stack(slot: &Arc<Slot>, layers: &Layers, manifest: &Manifest) -> Stack {
    let own = || Arc::clone(slot);
    let applies = |layer: &&Arc<dyn Layer>| layer.applies_to(manifest);
    let applied: Vec<_> = layers.0.iter().filter(applies).cloned().collect();
    let fittings = Deadline::new(own(), Breaker::new(own(), Limit::new(own(), own())));
    Trace::new(own(), Meter::new(own(), Applications::around(slot, &applied, fittings)))
}

/// The error of a call around which `what` of the application panicked.
#[cold]
fn panicked(slot: &Slot, what: &str, payload: Box<dyn Any + Send>) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    let fault = Fault::new(text.unwrap_or("(no text)").to_owned(), None, Vec::new());
    // What a payload's own drop throws is dropped by nobody.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    let message = format!("was called, and {what} of the application panicked");
    Error::new(ErrorKind::Layer, message).caused_by(fault).of(&slot.name)
}
