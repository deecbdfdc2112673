//! Stores of counts: the trait that a collector counts with, and a store in memory. Never loses a
//! count; keys beyond a limit are counted together.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// A store of counts by key, implemented by the application or by [`MemoryStore`].
///
/// Several threads call it at once. A panic loses one event: see
/// [`Collected::failed`](super::Collected::failed).
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use hotbay::metrics::MetricStore;
///
/// struct Total(AtomicU64);
///
/// impl MetricStore for Total {
///     fn inc(&self, _: &str) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
///     fn get(&self, _: &str) -> u64 {
///         self.0.load(Ordering::Relaxed)
///     }
/// }
///
/// let total = Total(AtomicU64::new(0));
/// total.inc("logins");
/// assert_eq!(total.get("any key"), 1);
/// ```
pub trait MetricStore: Send + Sync {
    /// Adds one to `key`.
    fn inc(&self, key: &str);

    /// Returns the count of `key`; zero if it was never counted.
    fn get(&self, key: &str) -> u64;
}

/// Counts in memory for a bounded number of keys.
///
/// A key beyond `max_keys`, or longer than [`MAX_KEY_BYTES`](Self::MAX_KEY_BYTES), is counted under
/// [`OTHER`](Self::OTHER), so the sum of all counts is always exact.
///
/// ```
/// use hotbay::metrics::{MemoryStore, MetricStore};
///
/// let store = MemoryStore::new(1);
/// ["a", "a", "b", "c"].into_iter().for_each(|key| store.inc(key));
/// assert_eq!((store.get("a"), store.get("b")), (2, 0));
/// assert_eq!(store.get(MemoryStore::OTHER), 2);
/// ```
pub struct MemoryStore {
    /// At most `max_keys` keys; none is ever removed.
    counts: RwLock<HashMap<Box<str>, AtomicU64>>,
    max_keys: usize,
    other: AtomicU64,
}

impl MemoryStore {
    /// The maximum number of keys of [`MemoryStore::default`].
    pub const KEYS_MAX_DEFAULT: usize = 10_000;
    /// The maximum length of a key that is counted by itself.
    pub const MAX_KEY_BYTES: usize = 256;
    /// The key under which all other keys are counted.
    pub const OTHER: &str = "other";

    /// Creates a store for at most `max_keys` keys besides [`OTHER`](Self::OTHER).
    pub fn new(max_keys: usize) -> Self {
        Self { counts: RwLock::default(), max_keys, other: AtomicU64::new(0) }
    }

    /// Returns all keys with their counts, sorted by key.
    pub fn list(&self) -> Vec<(String, u64)> {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.iter().map(|(key, count)| (key.to_string(), read(count)));
        let other = Some(read(&self.other)).filter(|count| *count > 0);
        let other = other.map(|count| (Self::OTHER.to_owned(), count));
        let mut counts: Vec<_> = counts.chain(other).collect();
        counts.sort_unstable();
        counts
    }

    #[cold]
    fn inc_new(&self, key: &str) {
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have inserted the key.
        if let Some(count) = counts.get(key) {
            add(count);
        } else if counts.len() < self.max_keys {
            counts.insert(key.into(), AtomicU64::new(1));
        } else {
            add(&self.other);
        }
    }
}

impl MetricStore for MemoryStore {
    fn inc(&self, key: &str) {
        if key == Self::OTHER || key.len() > Self::MAX_KEY_BYTES {
            return add(&self.other);
        }
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get(key) {
            return add(count);
        }
        let is_full = counts.len() >= self.max_keys;
        drop(counts);
        if is_full { add(&self.other) } else { self.inc_new(key) }
    }

    fn get(&self, key: &str) -> u64 {
        if key == Self::OTHER {
            return read(&self.other);
        }
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        counts.get(key).map_or(0, read)
    }
}

/// Adds one. Relaxed: counts order nothing, and joining the threads that count makes them exact.
fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Self::KEYS_MAX_DEFAULT)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.list()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn counts_are_exact_with_more_keys_than_the_limit() {
        let store = MemoryStore::new(10);
        thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for event in 0..1000 {
                        store.inc(&format!("key-{}", (event + thread) % 40));
                    }
                });
            }
        });
        let counts = store.list();
        assert_eq!(counts.len(), 11, "ten keys and `other`");
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 8000);
        assert_eq!(store.get(MemoryStore::OTHER), 6000);
        for (key, count) in counts {
            assert_eq!(store.get(&key), count);
        }
    }

    #[test]
    fn keys_beyond_limits_are_counted_as_other() {
        let store = MemoryStore::new(2);
        let long = "k".repeat(MemoryStore::MAX_KEY_BYTES);
        let too_long = "k".repeat(MemoryStore::MAX_KEY_BYTES + 1);
        for key in ["", &long, &too_long, MemoryStore::OTHER, "third", ""] {
            store.inc(key);
        }
        for (key, expected) in [("", 2), (&long, 1), (&too_long, 0), ("other", 3), ("third", 0)] {
            assert_eq!(store.get(key), expected, "{key}");
        }
        let none = MemoryStore::new(0);
        none.inc("a");
        assert_eq!(none.list(), [("other".to_owned(), 1)]);
    }
}
