//! Limits how many lines a plugin may log per second, and counts dropped ones. Pure: time is an
//! argument.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// The interval of reports about dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The decision about a line.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineDecision {
    /// It passes.
    Pass,
    /// It passes, and the caller reports the lines that were dropped before it.
    PassAndReport { dropped: NonZeroU64 },
    /// It is dropped.
    Drop,
}

/// A token bucket that holds the lines of one second.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    interval: Duration,
    /// When the bucket is full again; it is full if this is in the past.
    full_at: Option<Instant>,
    /// Lines dropped since the last report, and when the first of them was.
    dropped: Option<(NonZeroU64, Instant)>,
}

impl RateLimiter {
    pub(crate) fn new(max_lines_per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / max_lines_per_second.max(1);
        Self { interval, full_at: None, dropped: None }
    }

    /// Decides about a line that is logged now.
    pub(crate) fn check(&mut self, now: Instant) -> LineDecision {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.interval;
        if full_at.duration_since(now) > Duration::from_secs(1) {
            self.dropped = Some(match self.dropped {
                Some((lines, since)) => (lines.saturating_add(1), since),
                None => (NonZeroU64::MIN, now),
            });
            return LineDecision::Drop;
        }
        self.full_at = Some(full_at);
        match self.dropped {
            Some((dropped, since)) if now.duration_since(since) >= REPORT_INTERVAL => {
                self.dropped = None;
                LineDecision::PassAndReport { dropped }
            }
            _ => LineDecision::Pass,
        }
    }

    /// Takes the number of dropped lines that were not reported yet.
    pub(crate) fn take_unreported(&mut self) -> Option<NonZeroU64> {
        self.dropped.take().map(|(lines, _)| lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs lines at these times, in ms; returns how many passed and the reports.
    fn run(
        limiter: &mut RateLimiter,
        start: Instant,
        times_ms: impl Iterator<Item = u64>,
    ) -> (u64, Vec<u64>) {
        let (mut passed, mut reports) = (0, Vec::new());
        for ms in times_ms {
            match limiter.check(start + Duration::from_millis(ms)) {
                LineDecision::Pass => passed += 1,
                LineDecision::PassAndReport { dropped } => {
                    passed += 1;
                    reports.push(dropped.get());
                }
                LineDecision::Drop => {}
            }
        }
        (passed, reports)
    }

    fn check(times_ms: impl Iterator<Item = u64>, passed: u64, reports: &[u64], unreported: u64) {
        let mut limiter = RateLimiter::new(1000);
        assert_eq!(run(&mut limiter, Instant::now(), times_ms), (passed, reports.to_vec()));
        assert_eq!(limiter.take_unreported().map_or(0, NonZeroU64::get), unreported);
    }

    #[test]
    fn lines_within_limit_always_pass() {
        check(0..100_000, 100_000, &[], 0);
    }

    #[test]
    fn burst_passes_one_second_of_lines() {
        check(std::iter::repeat_n(0, 5000), 1000, &[], 4000);
    }

    #[test]
    fn bucket_refills_over_time() {
        let burst = || std::iter::repeat_n(0, 1000);
        check(burst().chain(std::iter::repeat_n(500, 1000)), 1500, &[], 500);
        check(burst().chain(std::iter::repeat_n(5000, 2000)), 2000, &[], 1000);
    }

    #[test]
    fn lasting_flood_is_reported_once_a_second() {
        // Ten lines in each ms: one passes, nine do not, once the bucket is empty.
        let times = (0..3500).flat_map(|ms| std::iter::repeat_n(ms, 10));
        let (passed, reports) = run(&mut RateLimiter::new(1000), Instant::now(), times);
        assert_eq!(passed, 1000 + 3499);
        assert_eq!(reports, [9000, 9000, 9000]);
    }

    #[test]
    fn short_flood_is_reported_with_next_line() {
        let burst = std::iter::repeat_n(0, 1500);
        check(burst.chain([60_000, 60_001]), 1002, &[500], 0);
    }

    #[test]
    fn dropped_lines_are_reported_once() {
        let mut limiter = RateLimiter::new(1);
        let now = Instant::now();
        assert_eq!(limiter.check(now), LineDecision::Pass);
        assert_eq!(limiter.check(now), LineDecision::Drop);
        assert_eq!(limiter.take_unreported(), NonZeroU64::new(1));
        assert_eq!(limiter.take_unreported(), None);
    }

    #[test]
    fn clock_going_back_and_zero_limit_are_handled() {
        let (mut limiter, now) = (RateLimiter::new(0), Instant::now());
        assert_eq!(limiter.check(now + REPORT_INTERVAL), LineDecision::Pass);
        assert_eq!(limiter.check(now), LineDecision::Drop);
        assert_eq!(RateLimiter::new(u32::MAX).check(now), LineDecision::Pass);
    }
}
