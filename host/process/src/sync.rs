//! A lock that a panic does not poison, and the end of a wait that has no limit.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Locks a mutex whose data is valid even if a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest wait: an instant further away does not exist on every system.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Returns the end of a wait that starts at `start`.
pub(crate) fn after(start: Instant, timeout: Duration) -> Instant {
    start + timeout.min(MAX_TIMEOUT)
}
