//! Counts what a plugin's library holds, so that the host knows whether it can unmap the library:
//! live bytes, live threads, thread-local values with destructors, and pointers in the C library.
//!
//! Every library links this crate and so has its own copy of these counters.

mod allocator;
mod call_meter;
mod callbacks;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod interpose;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod symbols;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod threads;

pub use allocator::CountingAllocator;
pub(crate) use call_meter::{begin as begin_call, end as end_call};
pub use callbacks::{CALLBACKS, Callback};

/// Functions that replace those of the C library in a plugin's library.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod interposers {
    pub use super::interpose::*;
    pub use super::threads::*;
}

use std::sync::atomic::{AtomicBool, Ordering};

use crate::root::RawCensus;

/// Whether the library's allocator is a [`CountingAllocator`].
static COUNTS_BYTES: AtomicBool = AtomicBool::new(false);

/// Returns what this library holds.
pub(crate) fn take() -> RawCensus {
    let mut census = RawCensus {
        live_bytes: allocator::live_bytes(),
        counts_bytes: COUNTS_BYTES.load(Ordering::Relaxed),
        calls: callbacks::recorded(),
        ..RawCensus::default()
    };
    add_threads(&mut census);
    census
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn add_threads(census: &mut RawCensus) {
    census.live_threads = threads::live_threads();
    census.key_threads = threads::key_threads();
    census.counts_threads = threads::is_counting();
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn add_threads(_: &mut RawCensus) {}

/// Returns whether the plugin itself started the current thread.
pub(crate) fn on_plugin_thread() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return threads::on_plugin_thread();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// Deletes the thread keys of this library, so that their destructors no longer run.
pub(crate) fn release_keys() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    threads::release_keys();
}

/// Enables the counters of this library. The exported root calls it before anything else.
pub fn init_census(counts_bytes: bool) {
    COUNTS_BYTES.store(counts_bytes, Ordering::Relaxed);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    threads::enable_counting();
}
