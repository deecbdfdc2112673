//! The end of a wait, for waits of any length.

use std::time::{Duration, Instant};

/// Nobody waits longer; an instant further away cannot be told on every system.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When a wait that begins now ends.
pub(crate) fn deadline_in(wait_max: Duration) -> Instant {
    after(Instant::now(), wait_max)
}

/// When a wait that begins at `start` ends.
pub(crate) fn after(start: Instant, wait_max: Duration) -> Instant {
    start + wait_max.min(WAIT_MAX)
}
