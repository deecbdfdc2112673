//! The end of a wait, for waits of any length.

use std::time::{Duration, Instant};

/// Nobody waits longer; an instant further away cannot be told on every system.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When a wait that begins now ends.
pub(crate) fn deadline_in(timeout: Duration) -> Instant {
    after(Instant::now(), timeout)
}

/// When a wait that begins at `start` ends.
pub(crate) fn after(start: Instant, timeout: Duration) -> Instant {
    start + timeout.min(WAIT_MAX)
}
