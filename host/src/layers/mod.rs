//! The fittings of the corridor: what happens around every call, in a fixed stack.
//!
//! # Order
//!
//! Outermost first: `trace` (a span, if anybody listens), `meter` (counts, refused calls too),
//! `breaker` (refuses while the plugin is quarantined). The slot's lease is innermost.

mod breaker;
mod meter;
mod trace;

use std::sync::Arc;

use crate::slot::Slot;
use breaker::Breaker;
use meter::Meter;
use trace::Trace;

/// The corridor of one plugin.
pub(crate) type Stack = Trace<Meter<Breaker<Arc<Slot>>>>;

/// Puts the corridor of `slot` together.
pub(crate) fn stack(slot: &Arc<Slot>) -> Stack {
    let breaker = Breaker::new(Arc::clone(slot), Arc::clone(slot));
    Trace::new(Arc::clone(slot), Meter::new(Arc::clone(slot), breaker))
}
