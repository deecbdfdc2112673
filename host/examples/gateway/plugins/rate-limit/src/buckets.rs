//! Token buckets by caller. Time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum number of callers with a bucket that is not full.
const MAX_CALLERS: usize = 100_000;

/// A bucket of tokens for each caller, which is full at first and is refilled steadily.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// The time in which one token is added.
    interval: Duration,
    /// The time in which an empty bucket is filled.
    refill: Duration,
    /// The time at which the bucket of a caller will be full. It is full for any other caller.
    full_at: HashMap<String, Instant>,
}

impl Buckets {
    /// Creates buckets that contain `tokens`, which are added again in the time `refill`.
    pub(crate) fn new(tokens: u32, refill: Duration) -> Self {
        Self { interval: refill / tokens.max(1), refill, full_at: HashMap::new() }
    }

    /// Takes a token of a caller, or returns the time until it has one.
    pub(crate) fn take(&mut self, caller: &str, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.get(caller).copied().unwrap_or(now).max(now) + self.interval;
        let wait = full_at.saturating_duration_since(now + self.refill);
        if !wait.is_zero() {
            return Err(wait);
        }
        if self.full_at.len() >= MAX_CALLERS && !self.full_at.contains_key(caller) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_CALLERS {
                return Err(self.interval);
            }
        }
        self.full_at.insert(caller.to_owned(), full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_waits_until_a_token_is_added() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut buckets = Buckets::new(3, 30 * second);
        for _ in 0..3 {
            assert_eq!(buckets.take("a", start), Ok(()));
        }
        assert_eq!(buckets.take("a", start), Err(10 * second));
        assert_eq!(buckets.take("a", start + 4 * second), Err(6 * second));
        assert_eq!(buckets.take("b", start), Ok(()));
        assert_eq!(buckets.take("a", start + 10 * second), Ok(()));
        assert_eq!(buckets.take("a", start + 10 * second), Err(10 * second));
        let later = start + 1000 * second;
        for _ in 0..3 {
            assert_eq!(buckets.take("a", later), Ok(()));
        }
        assert!(buckets.take("a", later).is_err());
    }

    #[test]
    fn callers_are_limited_and_forgotten_when_full() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut buckets = Buckets::new(1, second);
        for caller in 0..MAX_CALLERS {
            assert_eq!(buckets.take(&caller.to_string(), start), Ok(()));
        }
        assert_eq!(buckets.take("one more", start), Err(second));
        assert_eq!(buckets.take("one more", start + second), Ok(()));
        assert_eq!(buckets.full_at.len(), 1);
    }
}
