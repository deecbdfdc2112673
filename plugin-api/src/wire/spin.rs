//! Waits by trying again instead of sleeping, while that pays off. Two threads that call each other
//! would otherwise sleep and be woken for each message, which takes longer than a short call; on an
//! idle virtual machine, it takes about 70 µs.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// The longest time that one wait tries again: about what sleeping and waking costs.
const MAX_SPIN: Duration = Duration::from_micros(60);

/// Number of tries before the clock is read.
const TRIES_PER_READ: u32 = 4;

/// Number of failures one after another after which waits sleep.
const MAX_FAILURES: u32 = 4;

/// Number of waits that sleep before spinning is tried again; doubled with each failure.
const MIN_PAUSE: u32 = 64;
const MAX_PAUSE: u32 = 8192;

/// Whether the waits of one connection spin. They stop when the peer is slow, idle, or has no
/// processor to run on at the same time.
#[derive(Debug)]
pub struct Spin {
    /// Failures since the last success.
    failures: u32,
    /// Number of waits to sleep in.
    pause: u32,
    next_pause: u32,
}

impl Default for Spin {
    fn default() -> Self {
        Self { failures: 0, pause: 0, next_pause: MIN_PAUSE }
    }
}

impl Spin {
    /// Tries until it returns a value, for a short time. `None` means that the caller has to sleep.
    pub fn wait<T>(&mut self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let start = Instant::now();
        loop {
            for _ in 0..TRIES_PER_READ {
                if let Some(value) = attempt() {
                    self.record(true);
                    return Some(value);
                }
                spin_loop();
            }
            if start.elapsed() >= MAX_SPIN {
                self.record(false);
                return None;
            }
        }
    }

    fn record(&mut self, succeeded: bool) {
        if succeeded {
            *self = Self::default();
            return;
        }
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(MAX_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of waits, of so many, that try at all.
    fn spinning(spin: &mut Spin, waits: u32, succeed: bool) -> u32 {
        let mut spinning = 0;
        for _ in 0..waits {
            let mut tried = false;
            let found = spin.wait(|| {
                tried = true;
                succeed.then_some(())
            });
            assert_eq!(found.is_some(), tried && succeed);
            spinning += u32::from(tried);
        }
        spinning
    }

    #[test]
    fn waits_spin_as_long_as_that_pays_off() {
        let mut spin = Spin::default();
        assert_eq!(spinning(&mut spin, 100, true), 100);
        assert_eq!(spinning(&mut spin, MAX_FAILURES, false), MAX_FAILURES);
        assert_eq!(spinning(&mut spin, MIN_PAUSE, true), 0);
        assert_eq!(spinning(&mut spin, 100, true), 100);
    }

    #[test]
    fn pauses_grow_while_it_does_not() {
        let mut spin = Spin::default();
        let all = MAX_PAUSE * 4;
        let spun = spinning(&mut spin, all, false);
        assert!((5..20).contains(&spun), "{spun}");
    }
}
