//! Where counts stand: the trait that a collector counts through, and a store in memory.
//! Never forgets a count; what it has no room for stands under one named key.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Counts by key. Implemented by the application, or by [`MemoryStore`].
///
/// It is called by several threads at once. One that panics loses that one event, see
/// [`Collected::failed`](super::Collected::failed).
pub trait MetricStore: Send + Sync {
    /// Adds one to `key`.
    fn inc(&self, key: &str);

    /// How often `key` was added to; zero for a key that never was.
    fn get(&self, key: &str) -> u64;
}

/// Counts in memory, of a bounded number of keys.
///
/// A key beyond `keys_max`, or longer than [`KEY_BYTES_MAX`](Self::KEY_BYTES_MAX), is counted
/// under [`OTHER`](Self::OTHER): the sum of all counts is exact whatever keys come.
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
    /// Never more than `keys_max`; nothing is ever removed.
    counts: RwLock<HashMap<Box<str>, AtomicU64>>,
    keys_max: usize,
    other: AtomicU64,
}

impl MemoryStore {
    /// Keys of [`MemoryStore::default`].
    pub const DEFAULT_MAX_KEYS: usize = 10_000;
    /// Bytes of the longest key that has a count of its own.
    pub const MAX_KEY_BYTES: usize = 256;
    /// The key under which everything is counted that has no count of its own.
    pub const OTHER: &str = "other";

    /// A store without counts that will hold at most `keys_max` keys, besides
    /// [`OTHER`](Self::OTHER).
    pub fn new(keys_max: usize) -> Self {
        Self { counts: RwLock::default(), keys_max, other: AtomicU64::new(0) }
    }

    /// Every key that was ever added to, with its count, sorted by key.
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
        // Another thread may have come first.
        if let Some(count) = counts.get(key) {
            add(count);
        } else if counts.len() < self.keys_max {
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
        let is_full = counts.len() >= self.keys_max;
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

/// Relaxed: a count orders nothing, and joining who counts makes it exact.
fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Self::DEFAULT_MAX_KEYS)
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
    fn nothing_is_lost_when_many_threads_bring_more_keys_than_there_is_room_for() {
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
        assert_eq!(counts.len(), 11, "ten keys, and what is beyond");
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 8000);
        assert_eq!(store.get(MemoryStore::OTHER), 6000);
        for (key, count) in counts {
            assert_eq!(store.get(&key), count);
        }
    }

    #[test]
    fn keys_without_a_count_of_their_own_are_counted_together() {
        let store = MemoryStore::new(2);
        let long = "k".repeat(MemoryStore::MAX_KEY_BYTES);
        let too_long = "k".repeat(MemoryStore::MAX_KEY_BYTES + 1);
        for key in ["", &long, &too_long, MemoryStore::OTHER, "third", ""] {
            store.inc(key);
        }
        for (key, wanted) in [("", 2), (&long, 1), (&too_long, 0), ("other", 3), ("third", 0)] {
            assert_eq!(store.get(key), wanted, "{key}");
        }
        let none = MemoryStore::new(0);
        none.inc("a");
        assert_eq!(none.list(), [("other".to_owned(), 1)]);
    }
}
