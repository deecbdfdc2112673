//! When a child is started again: pure, time and chance are arguments.
//! How many ends within a window lead to a quarantine is decided elsewhere: the health of the
//! slot counts them, this file only spreads the starts over time.

use std::time::{Duration, Instant};

/// The wait after the first of several failures in a row.
pub(crate) const BACK_OFF_FIRST: Duration = Duration::from_millis(50);

/// The longest wait between two starts.
pub(crate) const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// A child that was ready for this long is no part of a row of failures, even if nobody called it.
pub(crate) const STEADY_MIN: Duration = Duration::from_secs(60);

/// How a child came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCause {
    /// It had answered at least one call.
    Served,
    /// It was ready, but had not answered a call yet.
    Unused,
    /// The start failed.
    NotStarted,
    /// It left with exit code 0 while nothing ran: its own idle timer.
    Idle,
}

/// When to start the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Decision {
    /// Now.
    AtOnce,
    /// When this long has passed.
    After(Duration),
    /// When it is called.
    OnDemand,
}

/// The failures of one plugin's children, as far as they matter for the next start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    failures_in_a_row: u32,
    ready_since: Option<Instant>,
    max_backoff: Duration,
}

impl History {
    /// No failures yet; no wait will be longer than `max_backoff`.
    pub(crate) fn new(max_backoff: Duration) -> Self {
        Self { failures_in_a_row: 0, ready_since: None, max_backoff }
    }

    /// A child is ready to be called.
    pub(crate) fn started(&mut self, now: Instant) {
        self.ready_since = Some(now);
    }

    /// A child has ended, or a start failed. `chance` is between 0 and 1 and spreads the starts
    /// of many plugins that failed at the same time.
    pub(crate) fn exited(&mut self, now: Instant, how: ExitCause, chance: f64) -> Decision {
        let was_ready = self.ready_since.take();
        match how {
            ExitCause::Served => {
                self.failures_in_a_row = 0;
                Decision::AtOnce
            }
            ExitCause::Idle => {
                self.failures_in_a_row = 0;
                Decision::OnDemand
            }
            ExitCause::Unused | ExitCause::NotStarted => {
                let ready_for = was_ready.map(|since| now.saturating_duration_since(since));
                if ready_for.is_some_and(|ready_for| ready_for >= STEADY_MIN) {
                    self.failures_in_a_row = 0;
                }
                let wait = self.back_off();
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                Decision::After(wait.mul_f64(0.5 + within_one(chance) / 2.0))
            }
        }
    }

    fn back_off(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.failures_in_a_row);
        BACK_OFF_FIRST.saturating_mul(factor).min(self.max_backoff)
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new(BACK_OFF_MAX)
    }
}

fn within_one(chance: f64) -> f64 {
    if chance.is_nan() { 1.0 } else { chance.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(wait_ms: u64) -> Decision {
        Decision::After(Duration::from_millis(wait_ms))
    }

    /// Each step: whether the child was ready and for how many seconds, how it ended, what follows.
    fn check(steps: &[(Option<u64>, ExitCause, Decision)]) {
        let mut history = History::default();
        let mut now = Instant::now();
        for (at, (ready_s, how, expect)) in steps.iter().enumerate() {
            if let Some(ready_s) = ready_s {
                history.started(now);
                now += Duration::from_secs(*ready_s);
            }
            assert_eq!(history.exited(now, *how, 1.0), *expect, "step {at} of {steps:?}");
        }
    }

    #[test]
    fn a_start_that_fails_again_waits_twice_as_long_up_to_the_limit() {
        let waits_ms = [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000];
        check(&waits_ms.map(|wait_ms| (None, ExitCause::NotStarted, after(wait_ms))));
        check(&waits_ms.map(|wait_ms| (Some(1), ExitCause::Unused, after(wait_ms))));
    }

    #[test]
    fn an_answered_call_makes_the_back_off_forgotten() {
        check(&[
            (None, ExitCause::NotStarted, after(50)),
            (Some(0), ExitCause::Unused, after(100)),
            (Some(1), ExitCause::Served, Decision::AtOnce),
            (Some(1), ExitCause::Served, Decision::AtOnce),
            (None, ExitCause::NotStarted, after(50)),
        ]);
    }

    #[test]
    fn what_left_when_idle_is_started_on_demand() {
        check(&[
            (None, ExitCause::NotStarted, after(50)),
            (Some(3_600), ExitCause::Idle, Decision::OnDemand),
            (None, ExitCause::NotStarted, after(50)),
            (None, ExitCause::NotStarted, after(100)),
        ]);
    }

    #[test]
    fn a_child_that_was_ready_for_long_begins_the_back_off_anew() {
        check(&[
            (Some(59), ExitCause::Unused, after(50)),
            (Some(59), ExitCause::Unused, after(100)),
            (Some(60), ExitCause::Unused, after(50)),
            (None, ExitCause::NotStarted, after(100)),
        ]);
    }

    #[test]
    fn chance_takes_away_up_to_half_of_the_wait() {
        let cases = [(0.0, 25), (0.5, 37), (1.0, 50), (-3.0, 25), (7.0, 50), (f64::NAN, 50)];
        for (chance, expect_ms) in cases {
            let decision = History::default().exited(Instant::now(), ExitCause::NotStarted, chance);
            let Decision::After(wait) = decision else { panic!("{decision:?}") };
            assert_eq!(wait.as_millis(), expect_ms, "{chance}");
        }
    }

    #[test]
    fn the_limit_is_the_callers() {
        let mut history = History::new(Duration::from_millis(70));
        let mut exited = || history.exited(Instant::now(), ExitCause::NotStarted, 1.0);
        assert_eq!([exited(), exited(), exited()], [after(50), after(70), after(70)]);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_limit(ends in prop::collection::vec((0..4_usize, any::<f64>()), 0..100)) {
            let mut history = History::default();
            let now = Instant::now();
            for (how, chance) in ends {
                let how = [ExitCause::Served, ExitCause::Unused, ExitCause::NotStarted, ExitCause::Idle][how];
                if let Decision::After(wait) = history.exited(now, how, chance) {
                    prop_assert!(wait <= BACK_OFF_MAX && wait >= BACK_OFF_FIRST / 2);
                }
            }
        }
    }
}
