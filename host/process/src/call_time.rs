//! How much processor time each call in flight has used, estimated from samples of the whole program.
//! Pure: what was in flight and used at which sample is an argument.
//!
//! The time between two samples is divided evenly among all calls that were in flight meanwhile. Only
//! calls that were in flight at both samples are charged their part, so a call that ran alone is never
//! charged more than it used.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::state::CallsInFlight;

/// The time that was charged to the calls in flight.
#[derive(Debug, Default)]
pub(crate) struct CallTimes {
    last: Option<(CallsInFlight, Duration)>,
    charged: BTreeMap<u64, Duration>,
}

impl CallTimes {
    /// Adds a sample: the calls in flight before and after the total processor time was read. Returns
    /// the highest time of a call.
    pub(crate) fn sample(
        &mut self,
        before: CallsInFlight,
        used: Duration,
        after: &CallsInFlight,
    ) -> Duration {
        let Some((first, used_before)) = self.last.replace((before, used)) else {
            return Duration::ZERO;
        };
        let begun = after.begun.wrapping_sub(first.begun);
        let calls = first.running.saturating_add(begun).max(1);
        let part = used.saturating_sub(used_before) / calls;
        let charged = first.ids.iter().filter(|id| after.ids.contains(id)).map(|id| {
            let before = self.charged.get(id).copied().unwrap_or_default();
            (*id, before.saturating_add(part))
        });
        self.charged = charged.collect();
        self.charged.values().copied().max().unwrap_or_default()
    }

    /// Forgets all samples, since no call is in flight.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the highest times after samples of `(total in ms, calls begun, calls in flight)`.
    fn times(samples: &[(u64, u32, &[u64])]) -> Vec<u64> {
        let mut times = CallTimes::default();
        let highest = samples.iter().map(|(used_ms, begun, ids)| {
            let running = u32::try_from(ids.len()).expect("a small number");
            let calls = CallsInFlight { running, begun: *begun, ids: ids.to_vec() };
            let used = Duration::from_millis(*used_ms);
            let highest = times.sample(calls.clone(), used, &calls);
            u64::try_from(highest.as_millis()).expect("a small number")
        });
        highest.collect()
    }

    #[test]
    fn single_call_is_charged_everything_since_it_was_seen() {
        assert_eq!(times(&[(500, 1, &[1]), (600, 1, &[1]), (690, 1, &[1])]), [0, 100, 190]);
    }

    #[test]
    fn short_calls_are_not_charged() {
        let samples: [(u64, u32, &[u64]); 4] =
            [(100, 10, &[10]), (200, 20, &[20]), (300, 30, &[30]), (400, 40, &[])];
        assert_eq!(times(&samples), [0, 0, 0, 0]);
    }

    #[test]
    fn calls_at_once_share_evenly() {
        let samples: [(u64, u32, &[u64]); 3] =
            [(0, 2, &[1, 2]), (100, 2, &[1, 2]), (200, 2, &[1, 2])];
        assert_eq!(times(&samples), [0, 50, 100]);
        // The second call ends, and three others begin and end meanwhile.
        let samples: [(u64, u32, &[u64]); 3] = [(0, 2, &[1, 2]), (100, 5, &[1]), (200, 5, &[1])];
        assert_eq!(times(&samples), [0, 20, 120]);
    }

    #[test]
    fn ended_call_and_its_successor_are_separate() {
        let samples: [(u64, u32, &[u64]); 4] =
            [(0, 1, &[1]), (90, 1, &[1]), (180, 2, &[2]), (270, 2, &[2])];
        assert_eq!(times(&samples), [0, 90, 0, 90]);
        // The total shrinks when a process with all its time is gone.
        assert_eq!(times(&[(500, 1, &[1]), (400, 1, &[1]), (450, 1, &[1])]), [0, 0, 50]);
    }

    #[test]
    fn call_that_ends_while_the_time_is_read_is_not_charged() {
        let calls = |ids: &[u64]| CallsInFlight { running: 1, begun: 1, ids: ids.to_vec() };
        let mut times = CallTimes::default();
        let _ = times.sample(calls(&[1]), Duration::ZERO, &calls(&[1]));
        let highest = times.sample(calls(&[1]), Duration::from_secs(9), &calls(&[]));
        assert_eq!(highest, Duration::ZERO);
    }
}
