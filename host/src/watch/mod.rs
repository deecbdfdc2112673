//! Watches plugin directories, and reports the folders whose files stopped changing. Knows no
//! plugins: a handler loads them and returns the outcome.

mod debounce;
#[cfg(feature = "watch")]
mod fs_watcher;
#[cfg(not(feature = "watch"))]
#[path = "no_fs_watcher.rs"]
mod fs_watcher;
mod roots;
mod thread;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use debounce::Change;
pub(crate) use debounce::{Attempt, AttemptOutcome};
pub(crate) use thread::{ChangeHandler, OutcomeSender, Watch, WatchOptions};

/// A message that wakes the watch thread.
#[cfg_attr(not(feature = "watch"), allow(dead_code, reason = "for the file watcher"))]
#[derive(Debug)]
pub(crate) enum Event {
    /// A path changed.
    Changed { path: PathBuf, change: Change },
    /// Events were lost.
    EventsLost,
    /// An attempt finished, or the thread should stop.
    Woken,
}

/// Flags of the watch thread, besides its events.
#[derive(Debug, Default)]
pub(super) struct Flags {
    pub(super) stop: AtomicBool,
    /// Events were lost.
    pub(super) events_lost: AtomicBool,
}
