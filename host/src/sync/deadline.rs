//! Deadlines of waits of any length.

use std::time::{Duration, Instant};

/// The longest wait: an instant further away does not exist on every system.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Returns the end of a wait that starts now.
pub(crate) fn deadline_in(timeout: Duration) -> Instant {
    after(Instant::now(), timeout)
}

/// Returns the end of a wait that starts at `start`.
pub(crate) fn after(start: Instant, timeout: Duration) -> Instant {
    start + timeout.min(MAX_TIMEOUT)
}
