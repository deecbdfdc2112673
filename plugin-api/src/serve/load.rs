//! Decides how many threads may serve at once, by how long connections have recently run. Pure.

use std::time::Duration;

/// A longer run counts as this long, so that a single one does not decide for long.
const MAX_SAMPLE: Duration = Duration::from_millis(1);

/// From this average on, waking another thread costs little compared with a call.
const LONG_ENOUGH: Duration = Duration::from_micros(50);

/// From this average on, most calls are assumed to wait for something.
const MOSTLY_WAITING: Duration = Duration::from_micros(500);

/// Weight of the last sample: one in this many.
const SAMPLES: u32 = 32;

/// A moving average of how long connections have run.
#[derive(Debug)]
pub(super) struct CallLoad {
    average: Duration,
    cores: usize,
    max_threads: usize,
}

impl CallLoad {
    pub(super) fn new(cores: usize, max_threads: usize) -> Self {
        Self { average: Duration::ZERO, cores, max_threads }
    }

    /// Records how long a connection has run.
    pub(super) fn record_run(&mut self, duration: Duration) {
        let sample = duration.min(MAX_SAMPLE);
        self.average = (self.average * (SAMPLES - 1) + sample) / SAMPLES;
    }

    /// Records that a connection still runs after a long time.
    pub(super) fn record_stuck(&mut self) {
        self.record_run(MAX_SAMPLE);
    }

    /// Returns how many threads may serve at once, apart from those that are stuck: one while calls
    /// are short, one for each core while they are longer, and all while most of them wait.
    pub(super) fn max_active(&self) -> usize {
        if self.average < LONG_ENOUGH {
            1
        } else if self.average < MOSTLY_WAITING {
            self.cores.max(2)
        } else {
            self.max_threads
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(runs: &[(u32, u64)]) -> usize {
        let mut load = CallLoad::new(4, 257);
        for &(count, micros) in runs {
            (0..count).for_each(|_| load.record_run(Duration::from_micros(micros)));
        }
        load.max_active()
    }

    #[test]
    fn short_calls_are_served_by_one_thread() {
        assert_eq!(after(&[]), 1);
        assert_eq!(after(&[(1000, 40)]), 1);
        assert_eq!(after(&[(100, 10), (1, 200)]), 1);
    }

    #[test]
    fn long_calls_are_served_by_all_cores() {
        assert_eq!(after(&[(100, 100)]), 4);
        assert_eq!(after(&[(100, 400)]), 4);
        // A few calls that wait among many short ones affect only the next ones.
        assert_eq!(after(&[(100, 10), (1, 1_000_000)]), 1);
        assert_eq!(after(&[(100, 10), (4, 1_000_000)]), 4);
        assert_eq!(after(&[(100, 10), (4, 1_000_000), (50, 10)]), 1);
    }

    #[test]
    fn calls_that_wait_are_served_at_once() {
        assert_eq!(after(&[(100, 2000)]), 257);
        assert_eq!(after(&[(100, 2000), (200, 10)]), 1);
        let mut load = CallLoad::new(1, 257);
        assert_eq!(load.max_active(), 1);
        (0..32).for_each(|_| load.record_stuck());
        assert_eq!(load.max_active(), 257);
    }
}
