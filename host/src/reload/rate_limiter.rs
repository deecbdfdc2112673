//! How many lines a plugin may log in a second, and what is told of those that were too many.
//! Pure: time is an argument.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How long lines are dropped before that is told, and how often it is told.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What becomes of a line.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineDecision {
    /// It passes.
    Pass,
    /// It passes, and it is to be told that so many before it did not.
    PassAndReport { dropped: NonZeroU64 },
    /// It is dropped.
    Drop,
}

/// A bucket that holds the lines of one second and fills as fast.
#[derive(Debug)]
pub(super) struct RateLimiter {
    line_takes: Duration,
    /// When the bucket would be full again; in the past, it is.
    full_at: Option<Instant>,
    /// Lines that were dropped since it was told, and when the first of them was.
    dropped: Option<(NonZeroU64, Instant)>,
}

impl RateLimiter {
    pub(super) fn new(lines_per_s_max: u32) -> Self {
        let line_takes = Duration::from_secs(1) / lines_per_s_max.max(1);
        Self { line_takes, full_at: None, dropped: None }
    }

    /// Judges a line that is logged now.
    pub(super) fn line(&mut self, now: Instant) -> LineDecision {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.line_takes;
        if full_at.duration_since(now) > Duration::from_secs(1) {
            self.dropped = Some(match self.dropped {
                Some((lines, since)) => (lines.saturating_add(1), since),
                None => (NonZeroU64::MIN, now),
            });
            return LineDecision::Drop;
        }
        self.full_at = Some(full_at);
        match self.dropped {
            Some((dropped, since)) if now.duration_since(since) >= REPORT_EVERY => {
                self.dropped = None;
                LineDecision::PassAndReport { dropped }
            }
            _ => LineDecision::Pass,
        }
    }

    /// Takes the lines that were dropped and not told of yet.
    pub(super) fn take_unreported(&mut self) -> Option<NonZeroU64> {
        self.dropped.take().map(|(lines, _)| lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs lines at these times, in ms; answers with how many passed and what was told.
    fn run(
        flood: &mut RateLimiter,
        start: Instant,
        times_ms: impl Iterator<Item = u64>,
    ) -> (u64, Vec<u64>) {
        let (mut passed, mut told) = (0, Vec::new());
        for ms in times_ms {
            match flood.line(start + Duration::from_millis(ms)) {
                LineDecision::Pass => passed += 1,
                LineDecision::PassAndReport { dropped } => {
                    passed += 1;
                    told.push(dropped.get());
                }
                LineDecision::Drop => {}
            }
        }
        (passed, told)
    }

    fn check(times_ms: impl Iterator<Item = u64>, passed: u64, told: &[u64], untold: u64) {
        let mut flood = RateLimiter::new(1000);
        assert_eq!(run(&mut flood, Instant::now(), times_ms), (passed, told.to_vec()));
        assert_eq!(flood.take_unreported().map_or(0, NonZeroU64::get), untold);
    }

    #[test]
    fn as_many_as_are_allowed_pass_for_ever() {
        check(0..100_000, 100_000, &[], 0);
    }

    #[test]
    fn a_burst_of_a_second_passes_and_no_more() {
        check(std::iter::repeat_n(0, 5000), 1000, &[], 4000);
    }

    #[test]
    fn the_bucket_fills_as_time_goes() {
        let burst = || std::iter::repeat_n(0, 1000);
        check(burst().chain(std::iter::repeat_n(500, 1000)), 1500, &[], 500);
        check(burst().chain(std::iter::repeat_n(5000, 2000)), 2000, &[], 1000);
    }

    #[test]
    fn a_lasting_flood_is_told_once_a_second() {
        // Ten lines in each ms: one passes, nine do not, once the bucket is empty.
        let flood = (0..3500).flat_map(|ms| std::iter::repeat_n(ms, 10));
        let (passed, told) = run(&mut RateLimiter::new(1000), Instant::now(), flood);
        assert_eq!(passed, 1000 + 3499);
        assert_eq!(told, [9000, 9000, 9000]);
    }

    #[test]
    fn a_short_flood_is_told_with_the_next_line() {
        let burst = std::iter::repeat_n(0, 1500);
        check(burst.chain([60_000, 60_001]), 1002, &[500], 0);
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut flood = RateLimiter::new(1);
        let now = Instant::now();
        assert_eq!(flood.line(now), LineDecision::Pass);
        assert_eq!(flood.line(now), LineDecision::Drop);
        assert_eq!(flood.take_unreported(), NonZeroU64::new(1));
        assert_eq!(flood.take_unreported(), None);
    }

    #[test]
    fn a_clock_that_stands_still_and_a_limit_of_none_do_no_harm() {
        let (mut flood, now) = (RateLimiter::new(0), Instant::now());
        assert_eq!(flood.line(now + REPORT_EVERY), LineDecision::Pass);
        assert_eq!(flood.line(now), LineDecision::Drop);
        assert_eq!(RateLimiter::new(u32::MAX).line(now), LineDecision::Pass);
    }
}
