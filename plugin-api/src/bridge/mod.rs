//! What a plugin logs with `tracing` or `log` goes to the host. A library has its own copies of
//! both, in which nobody listens, so a start sets listeners that forward to whoever started it.
//!
//! They keep nothing on a thread that has a destructor, because that would keep the library
//! mapped, and hold no lock while the author's code runs, which formatting is.

mod bounded_text;
#[cfg(feature = "tracing")]
mod fields;
#[cfg(feature = "log")]
mod log;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(all(test, feature = "testing", feature = "tracing", feature = "log"))]
mod tests;
#[cfg(feature = "tracing")]
mod tracing;

use std::cell::Cell;

use crate::services::{HostServices, current};

#[cfg(all(feature = "testing", feature = "log"))]
pub(crate) use self::log::ForwardingLogger;
#[cfg(all(feature = "testing", feature = "tracing"))]
pub(crate) use self::tracing::ForwardingSubscriber;

/// From now on what this library logs goes to whoever started it last; for the library, not for
/// code that is compiled into a host and shares its listeners.
pub(crate) fn install() {
    #[cfg(feature = "tracing")]
    tracing::install();
    #[cfg(feature = "log")]
    log::install();
}

/// Whom to forward to.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// Whoever started this library last.
    LatestStart,
    /// These, in tests.
    #[cfg(feature = "testing")]
    Fixed(HostServices),
}

impl Destination {
    fn services(&self) -> Option<HostServices> {
        match self {
            Self::LatestStart => current::get(),
            #[cfg(feature = "testing")]
            Self::Fixed(services) => Some(services.clone()),
        }
    }
}

thread_local! {
    /// Whether this thread is about to forward. Without a destructor.
    static IS_FORWARDING: Cell<bool> = const { Cell::new(false) };
}

/// Held while a thread forwards. What is logged meanwhile, by a `Debug` of the author's or by a
/// call back from the host, is left out, so that no line brings forth another for ever.
struct ForwardGuard;

impl ForwardGuard {
    fn enter() -> Option<Self> {
        (!IS_FORWARDING.replace(true)).then_some(Self)
    }
}

impl Drop for ForwardGuard {
    fn drop(&mut self) {
        IS_FORWARDING.set(false);
    }
}
