//! Forwards lines that a plugin logs with `tracing` or `log` to the host. A library has its own
//! copies of both crates, so each start of a plugin installs a subscriber and a logger there.
//!
//! They use no thread-local with a destructor, which would keep the library mapped. They hold no
//! lock while a value is formatted, which runs the author's code.

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

/// Forwards everything that this library logs to its latest start. Not for plugins that are
/// compiled into a host, which share the host's subscriber and logger.
pub(crate) fn install() {
    #[cfg(feature = "tracing")]
    tracing::install();
    #[cfg(feature = "log")]
    log::install();
}

/// Destination of forwarded lines.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// The host of the latest start of this library.
    LatestStart,
    /// The given services, in tests.
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
    /// Whether this thread is forwarding a line. Has no destructor.
    static IS_FORWARDING: Cell<bool> = const { Cell::new(false) };
}

/// Held while a thread forwards a line. Lines that are logged meanwhile, by a `Debug`
/// implementation or by the host, are dropped to prevent infinite recursion.
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
