//! The middleware around every call, in a fixed stack.
//!
//! # Order
//!
//! Outermost first, with the cost for a call that the middleware has nothing to do for:
//!
//! 1. `trace`: a span, if a subscriber is enabled; one load.
//! 2. `meter`: counts calls, including rejected ones; a load and a store in a shard of the thread.
//!    Times one call in 64.
//! 3. `layers`: the application's layers, in the order in which they were added; nothing without
//!    any.
//! 4. `fast_path`: skips the others if none of them has anything to do; three loads.
//! 5. `authorize`: rejects operations that the plugin has no permission for.
//! 6. `validate`: rejects input that does not match the manifest's `input_schema` or that the
//!    application does not accept.
//! 7. `cache`: answers from earlier replies, if the application enables it; a null check.
//! 8. `deadline`: rejects calls that were cancelled or whose deadline has passed.
//! 9. `circuit_breaker`: rejects calls while the plugin is quarantined, and records outcomes.
//! 10. `concurrency_limit`: limits the number of concurrent calls.
//!
//! Most calls on the caller's thread skip all of it (`handle/brief.rs`), and so do most calls that
//! are sent to a process together (`handle/batch.rs`). The slot's lease is
//! innermost. If a reload comes between `authorize` or `validate` and the lease,
//! the slot checks the call again against the generation that it goes to: permissions of one build
//! do not carry over to the next.
//!
//! # Adding one
//!
//! Implement [`Middleware`](service::Middleware) in its own file, add it to the list above, to
//! `BuiltinStack` and to [`stack`], and let the fast path and the brief path know when it has work:
//! by a `SlotFlag` (`slot/health.rs`, set in `Slot::promote`), by `Request::is_plain` and
//! `Request::brief_input`, or, if it has work for every call, by `is_disabled` in [`stack`] and
//! `PluginLayers::is_empty`.

mod authorize;
mod cache;
mod circuit_breaker;
mod concurrency_limit;
mod deadline;
mod fast_path;
mod layers;
mod meter;
mod service;
mod trace;
mod validate;

use std::sync::Arc;

use crate::slot::Slot;
use authorize::Authorize;
use cache::Cache;
pub use cache::ResponseCache;
use circuit_breaker::CircuitBreaker;
use concurrency_limit::ConcurrencyLimit;
use deadline::Deadline;
use fast_path::FastPath;
use layers::UserLayers;
pub use layers::{Call, Layer, Next};
pub(crate) use layers::{Layers, PluginLayers};
use meter::Meter;
pub(crate) use meter::is_sampled;
use service::Layered;
use trace::Trace;
use validate::Validate;

/// The call path of one plugin.
pub(crate) type Stack = Trace<Layered<Meter, UserLayers<BuiltinStack>>>;

type BuiltinStack = FastPath<
    Layered<
        Authorize,
        Layered<
            Validate,
            Layered<
                Cache,
                Layered<Deadline, Layered<CircuitBreaker, Layered<ConcurrencyLimit, Arc<Slot>>>>,
            >,
        >,
    >,
>;

/// Builds the call path of `slot`, from the inside out.
pub(crate) fn stack(slot: &Arc<Slot>, applied: &PluginLayers) -> Stack {
    let own = || Arc::clone(slot);
    let service = Layered::new(ConcurrencyLimit(own()), own());
    let service = Layered::new(CircuitBreaker(own()), service);
    let service = Layered::new(Deadline(own()), service);
    let service = Layered::new(Cache::new(own(), applied.cache.as_ref()), service);
    let service = Layered::new(Validate::new(own(), &applied.validators), service);
    let service = Layered::new(Authorize(own()), service);
    let is_disabled = !applied.validators.is_empty() || applied.cache.is_some();
    let service = FastPath::new(own(), is_disabled, service);
    let service = UserLayers::around(slot, &applied.layers, service);
    Trace::new(own(), Layered::new(Meter(own()), service))
}
