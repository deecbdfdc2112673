//! Counts the plugin calls that run on a thread, one in another.

use std::cell::Cell;

thread_local! {
    /// Number of nested plugin calls on this thread.
    pub(super) static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs `call`, and marks this thread as in a plugin call meanwhile.
pub(in crate::generation) fn in_plugin_call<T>(call: impl FnOnce() -> T) -> T {
    let depth = DEPTH.get();
    DEPTH.set(depth + 1);
    let result = call();
    DEPTH.set(depth);
    result
}

/// Returns whether this thread is in a plugin call, and so holds a lease.
pub(crate) fn is_in_plugin_call() -> bool {
    DEPTH.get() > 0
}
