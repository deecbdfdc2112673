//! Counts calls and their outcomes: exact, and without a shared counter for calls that succeed.
//! Times one call in 64, because reading the clock costs as much as a call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::service::{Before, Middleware};
use crate::call::ReplySlot;
use crate::error::{Error, ErrorKind};
use crate::slot::{CallCounters, CallScope, SAMPLED_ONE_IN, Slot};
use crate::sync::shard;

#[derive(Debug)]
pub(crate) struct Meter(pub(super) Arc<Slot>);

impl Middleware for Meter {
    /// The start of the call, if it is timed.
    type Guard<'c> = Option<Instant>;

    #[inline]
    fn before<'c>(
        &'c self,
        scope: &CallScope<'c>,
        _: &mut ReplySlot,
    ) -> Result<Before<Self::Guard<'c>>, Error> {
        // The first calls of a plugin, so that it has an estimate soon.
        let is_timed = is_sampled(scope.call_id) || self.0.is_untimed();
        Ok(Before::Continue(if is_timed { Some(now()) } else { None }))
    }

    #[inline]
    fn after(
        &self,
        start: Self::Guard<'_>,
        scope: &CallScope<'_>,
        _: &ReplySlot,
        outcome: &Result<(), Error>,
    ) {
        self.0.count_call(shard());
        if let Err(error) = outcome {
            self.0.counters.count_error(scope, error);
        }
        if let Some(start) = start {
            self.0.record_latency(start.elapsed());
        }
    }
}

/// Out of line, to keep the path of the other calls short.
#[cold]
fn now() -> Instant {
    Instant::now()
}

/// Returns whether a call is timed. The ids of a thread's calls are consecutive; multiplying by the
/// golden ratio spreads them evenly, also those of a plugin that gets every second or eighth call.
#[inline]
pub(crate) fn is_sampled(call_id: u64) -> bool {
    call_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) < u64::MAX / SAMPLED_ONE_IN as u64
}

impl CallCounters {
    /// Counts a failed call.
    #[cold]
    pub(crate) fn count_error(&self, scope: &CallScope<'_>, error: &Error) {
        let counter = match error.kind() {
            // It reached the plugin. Timeouts are counted when they are noticed.
            ErrorKind::DeadlineExceeded | ErrorKind::Cancelled | ErrorKind::Retired
                if error.generation().is_some() =>
            {
                return;
            }
            // The timer may have counted it already.
            ErrorKind::DeadlineExceeded
                if scope.state.is_some_and(|state| !state.count_timeout_once()) =>
            {
                return;
            }
            ErrorKind::Panicked => &self.faults,
            ErrorKind::Quarantined
            | ErrorKind::Retired
            | ErrorKind::InvalidInput
            | ErrorKind::Overloaded
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Cancelled
            | ErrorKind::PermissionDenied
            | ErrorKind::LayerPanicked
            | ErrorKind::Shutdown => &self.refused,
            _ => &self.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_in_64_is_sampled_in_every_regular_pattern() {
        for step in 1..=256 {
            let calls = 64_000;
            let sampled = (1..=calls).filter(|at| is_sampled(7 + at * step)).count() as u64;
            assert!((900..=1100).contains(&sampled), "every {step}th: {sampled} of {calls}");
        }
    }
}
