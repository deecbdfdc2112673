//! Counts running calls, measures idle time, and decides when the program stops.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Set once the program stops; the other bits count the running calls.
const CLOSING: u64 = 1 << 63;

/// Shared by all connections; a call costs two atomic additions.
#[derive(Debug)]
pub(super) struct Presence {
    word: AtomicU64,
    /// End of the last call, in nanoseconds after `started_at`.
    quiet_ns: AtomicU64,
    since: Instant,
}

/// Whether a connection is kept for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Stay {
    Stays,
    Leaves,
}

/// Result of an idle check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Idle {
    /// Not idle for long enough: check again after this time.
    Wait(Duration),
    LongEnough,
}

/// Result of an attempt to stop an idle program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Leave {
    Closing,
    SomebodyCalls,
}

impl Presence {
    pub(super) fn new(now: Instant) -> Self {
        Self { word: AtomicU64::new(0), quiet_ns: AtomicU64::new(0), since: now }
    }

    /// Records the start of a call.
    pub(super) fn begin(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
    }

    /// Records the end of a call.
    pub(super) fn end(&self, now: Instant) -> Stay {
        let ns = now.saturating_duration_since(self.since).as_nanos();
        self.quiet_ns.store(u64::try_from(ns).unwrap_or(u64::MAX), Ordering::Relaxed);
        stay(self.word.fetch_sub(1, Ordering::SeqCst))
    }

    /// Returns whether connections are currently kept for another request.
    pub(super) fn stay(&self) -> Stay {
        stay(self.word.load(Ordering::SeqCst))
    }

    /// Checks whether no call has run for `idle_timeout`.
    pub(super) fn idle(&self, idle_after: Duration, now: Instant) -> Idle {
        if self.word.load(Ordering::SeqCst) & !CLOSING != 0 {
            return Idle::Wait(idle_after);
        }
        let quiet_since = self.since + Duration::from_nanos(self.quiet_ns.load(Ordering::Relaxed));
        let quiet = now.saturating_duration_since(quiet_since);
        match idle_after.checked_sub(quiet) {
            Some(left) if !left.is_zero() => Idle::Wait(left),
            _ => Idle::LongEnough,
        }
    }

    /// Begins to stop, unless a call is running.
    pub(super) fn leave_if_nobody_calls(&self) -> Leave {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        match self.word.compare_exchange(0, CLOSING, success, failure) {
            Ok(_) => Leave::Closing,
            Err(_) => Leave::SomebodyCalls,
        }
    }

    /// Begins to stop, even if calls are running.
    pub(super) fn leave(&self) {
        self.word.fetch_or(CLOSING, Ordering::SeqCst);
    }
}

fn stay(word: u64) -> Stay {
    if word & CLOSING == 0 { Stay::Stays } else { Stay::Leaves }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_AFTER: Duration = Duration::from_secs(10);

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn idle_time_starts_at_the_end_of_the_last_call() {
        let start = Instant::now();
        let presence = Presence::new(start);
        let idle = |now| presence.idle(IDLE_AFTER, start + second(now));
        assert_eq!(idle(0), Idle::Wait(second(10)));
        assert_eq!(idle(9), Idle::Wait(second(1)));
        assert_eq!(idle(10), Idle::LongEnough);
        presence.begin();
        assert_eq!(idle(100), Idle::Wait(second(10)));
        assert_eq!(presence.end(start + second(103)), Stay::Stays);
        assert_eq!(idle(104), Idle::Wait(second(9)));
        assert_eq!(idle(113), Idle::LongEnough);
    }

    #[test]
    fn idle_program_stops_only_without_running_calls() {
        let start = Instant::now();
        let presence = Presence::new(start);
        presence.begin();
        assert_eq!(presence.leave_if_nobody_calls(), Leave::SomebodyCalls);
        assert_eq!(presence.end(start), Stay::Stays);
        assert_eq!(presence.stay(), Stay::Stays);
        assert_eq!(presence.leave_if_nobody_calls(), Leave::Closing);
        presence.begin();
        assert_eq!((presence.stay(), presence.end(start)), (Stay::Leaves, Stay::Leaves));
    }

    #[test]
    fn call_running_at_the_stop_closes_its_connection() {
        let start = Instant::now();
        let presence = Presence::new(start);
        presence.begin();
        presence.leave();
        assert_eq!(presence.end(start), Stay::Leaves);
    }
}
