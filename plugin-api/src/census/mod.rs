//! What a plugin's library holds: live bytes, live threads, thread-local values with
//! destructors, and what it left in the C library that may call it back. The host asks before it
//! unmaps the library.
//!
//! Every library has its own copy of these counters, because every library links this crate.

mod bytes;
mod callbacks;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod in_front;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod keys;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod on_linux;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod real;

pub use bytes::Counting;
pub(crate) use callbacks::WORDS;
pub use callbacks::{CALLBACKS, Callback};

use std::sync::atomic::{AtomicBool, Ordering};

use crate::root::RawCensus;

/// Whether the library's allocator is one of ours.
static COUNTS_BYTES: AtomicBool = AtomicBool::new(false);

/// Counts what this copy of the crate, and so this library, holds.
pub(crate) fn take() -> RawCensus {
    let mut census = RawCensus {
        live_bytes: bytes::live(),
        counts_bytes: COUNTS_BYTES.load(Ordering::Relaxed),
        calls: callbacks::noted(),
        ..RawCensus::default()
    };
    add_threads(&mut census);
    census
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn add_threads(census: &mut RawCensus) {
    census.live_threads = on_linux::live_threads();
    census.key_threads = keys::key_threads();
    census.counts_threads = on_linux::counts();
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn add_threads(_: &mut RawCensus) {}

/// Whether this thread was started by the plugin itself.
pub(crate) fn on_plugin_thread() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return on_linux::on_plugin_thread();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// Gives back the thread keys of this library, so that none of its destructors runs any more.
pub(crate) fn release_keys() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    keys::release_keys();
}

/// Says what is counted in this library; the exported root does, before anything else.
pub fn exported(counts_bytes: bool) {
    COUNTS_BYTES.store(counts_bytes, Ordering::Relaxed);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    on_linux::stand_in_front();
}
