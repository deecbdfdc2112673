//! How many calls run, when the last one ended, and whether the program takes its leave.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Set once the program ends; the other bits count calls.
const CLOSING: u64 = 1 << 63;

/// Shared by all connections; a call costs it two additions.
#[derive(Debug)]
pub(super) struct Presence {
    word: AtomicU64,
    /// When the last call ended, in nanoseconds after `since`.
    quiet_ns: AtomicU64,
    since: Instant,
}

/// Whether a connection is used for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Stay {
    Stays,
    Leaves,
}

/// Whether nobody has called for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Idle {
    /// Ask again after that.
    Wait(Duration),
    LongEnough,
}

/// How an attempt to leave while nobody calls ended.
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

    /// A call begins, which keeps the program from being idle.
    pub(super) fn begin(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
    }

    /// A call has ended.
    pub(super) fn end(&self, now: Instant) -> Stay {
        let ns = now.saturating_duration_since(self.since).as_nanos();
        self.quiet_ns.store(u64::try_from(ns).unwrap_or(u64::MAX), Ordering::Relaxed);
        stay(self.word.fetch_sub(1, Ordering::SeqCst))
    }

    /// Whether connections are used for another request now.
    pub(super) fn stay(&self) -> Stay {
        stay(self.word.load(Ordering::SeqCst))
    }

    /// Whether nobody has called for that long.
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

    /// Takes leave, unless somebody calls.
    pub(super) fn leave_if_nobody_calls(&self) -> Leave {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        match self.word.compare_exchange(0, CLOSING, success, failure) {
            Ok(_) => Leave::Closing,
            Err(_) => Leave::SomebodyCalls,
        }
    }

    /// Takes leave, whoever calls.
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
    fn idle_counts_from_the_end_of_the_last_call() {
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
    fn nobody_leaves_while_a_call_runs() {
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
    fn a_call_that_runs_when_the_program_is_told_to_end_ends_its_connection() {
        let start = Instant::now();
        let presence = Presence::new(start);
        presence.begin();
        presence.leave();
        assert_eq!(presence.end(start), Stay::Leaves);
    }
}
