//! Decides when a child is restarted. Pure: time and jitter are arguments.
//! It only spreads restarts over time; the health of the slot counts exits and decides about
//! quarantine.

use std::time::{Duration, Instant};

/// The delay after the first of several consecutive failures.
pub(crate) const INITIAL_BACKOFF: Duration = Duration::from_millis(50);

/// The longest delay between two starts.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A child that was ready for this long resets the failures, even if it received no calls.
pub(crate) const STEADY_AFTER: Duration = Duration::from_secs(60);

/// The way in which a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCause {
    /// It had answered at least one call.
    Served,
    /// It was ready, but had not answered any call yet.
    Unused,
    /// The start failed.
    NotStarted,
    /// It exited with code 0 while no call was in flight: its idle timeout passed.
    Idle,
}

/// When to start the next child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Decision {
    /// Immediately.
    Immediately,
    /// After this time.
    After(Duration),
    /// With the next call.
    OnDemand,
}

/// The recent failures of one plugin's children.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    consecutive_failures: u32,
    ready_since: Option<Instant>,
    max_backoff: Duration,
}

impl History {
    /// Returns a history without failures; no delay exceeds `max_backoff`.
    pub(crate) fn new(max_backoff: Duration) -> Self {
        Self { consecutive_failures: 0, ready_since: None, max_backoff }
    }

    /// Records that a child is ready.
    pub(crate) fn started(&mut self, now: Instant) {
        self.ready_since = Some(now);
    }

    /// Records that a child has exited, or that a start failed. `jitter` is between 0 and 1 and
    /// spreads the restarts of plugins that failed at the same time.
    pub(crate) fn exited(&mut self, now: Instant, cause: ExitCause, jitter: f64) -> Decision {
        let was_ready = self.ready_since.take();
        match cause {
            ExitCause::Served => {
                self.consecutive_failures = 0;
                Decision::Immediately
            }
            ExitCause::Idle => {
                self.consecutive_failures = 0;
                Decision::OnDemand
            }
            ExitCause::Unused | ExitCause::NotStarted => {
                let ready_for = was_ready.map(|since| now.saturating_duration_since(since));
                if ready_for.is_some_and(|ready_for| ready_for >= STEADY_AFTER) {
                    self.consecutive_failures = 0;
                }
                let wait = self.backoff();
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                Decision::After(wait.mul_f64(0.5 + clamped(jitter) / 2.0))
            }
        }
    }

    fn backoff(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.consecutive_failures);
        INITIAL_BACKOFF.saturating_mul(factor).min(self.max_backoff)
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new(MAX_BACKOFF)
    }
}

fn clamped(jitter: f64) -> f64 {
    if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(wait_ms: u64) -> Decision {
        Decision::After(Duration::from_millis(wait_ms))
    }

    /// Checks steps: how many seconds the child was ready, if at all, how it ended, and the
    /// decision.
    fn check(steps: &[(Option<u64>, ExitCause, Decision)]) {
        let mut history = History::default();
        let mut now = Instant::now();
        for (at, (ready_s, cause, expect)) in steps.iter().enumerate() {
            if let Some(ready_s) = ready_s {
                history.started(now);
                now += Duration::from_secs(*ready_s);
            }
            assert_eq!(history.exited(now, *cause, 1.0), *expect, "step {at} of {steps:?}");
        }
    }

    #[test]
    fn repeated_failure_doubles_the_delay_up_to_the_limit() {
        let waits_ms = [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000];
        check(&waits_ms.map(|wait_ms| (None, ExitCause::NotStarted, after(wait_ms))));
        check(&waits_ms.map(|wait_ms| (Some(1), ExitCause::Unused, after(wait_ms))));
    }

    #[test]
    fn answered_call_resets_the_backoff() {
        check(&[
            (None, ExitCause::NotStarted, after(50)),
            (Some(0), ExitCause::Unused, after(100)),
            (Some(1), ExitCause::Served, Decision::Immediately),
            (Some(1), ExitCause::Served, Decision::Immediately),
            (None, ExitCause::NotStarted, after(50)),
        ]);
    }

    #[test]
    fn idle_exit_restarts_on_demand() {
        check(&[
            (None, ExitCause::NotStarted, after(50)),
            (Some(3_600), ExitCause::Idle, Decision::OnDemand),
            (None, ExitCause::NotStarted, after(50)),
            (None, ExitCause::NotStarted, after(100)),
        ]);
    }

    #[test]
    fn child_that_was_ready_for_long_resets_the_backoff() {
        check(&[
            (Some(59), ExitCause::Unused, after(50)),
            (Some(59), ExitCause::Unused, after(100)),
            (Some(60), ExitCause::Unused, after(50)),
            (None, ExitCause::NotStarted, after(100)),
        ]);
    }

    #[test]
    fn jitter_reduces_the_delay_by_up_to_half() {
        let cases = [(0.0, 25), (0.5, 37), (1.0, 50), (-3.0, 25), (7.0, 50), (f64::NAN, 50)];
        for (jitter, expect_ms) in cases {
            let decision = History::default().exited(Instant::now(), ExitCause::NotStarted, jitter);
            let Decision::After(wait) = decision else { panic!("{decision:?}") };
            assert_eq!(wait.as_millis(), expect_ms, "{jitter}");
        }
    }

    #[test]
    fn max_backoff_of_the_caller_applies() {
        let mut history = History::new(Duration::from_millis(70));
        let mut exited = || history.exited(Instant::now(), ExitCause::NotStarted, 1.0);
        assert_eq!([exited(), exited(), exited()], [after(50), after(70), after(70)]);
    }

    proptest! {
        #[test]
        fn delay_never_exceeds_the_limit(ends in prop::collection::vec((0..4_usize, any::<f64>()), 0..100)) {
            let mut history = History::default();
            let now = Instant::now();
            for (cause, jitter) in ends {
                let cause = [ExitCause::Served, ExitCause::Unused, ExitCause::NotStarted, ExitCause::Idle][cause];
                if let Decision::After(wait) = history.exited(now, cause, jitter) {
                    prop_assert!(wait <= MAX_BACKOFF && wait >= INITIAL_BACKOFF / 2);
                }
            }
        }
    }
}
