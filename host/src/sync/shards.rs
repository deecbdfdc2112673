//! Shards that threads own one at a time: who owns which, and how an owner counts in its shard
//! without an atomic addition. Checked with loom by `tests/loom`, which brings its own atomics.

use super::atomic::{AtomicI64, AtomicU64, Ordering};

/// Which of `CELLS` shards are owned; at most 63.
#[derive(Debug)]
pub(crate) struct ShardOwners<const CELLS: usize> {
    /// Bit n is set while shard n is owned.
    taken: AtomicU64,
}

impl<const CELLS: usize> ShardOwners<CELLS> {
    pub(crate) const fn new(taken: AtomicU64) -> Self {
        Self { taken }
    }

    /// Takes the lowest free shard, if any.
    pub(crate) fn take(&self) -> Option<usize> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let shard = (!taken).trailing_zeros() as usize;
            if shard >= CELLS {
                return None;
            }
            // Acquire: sees what the previous owner wrote into the shard.
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            match self.taken.compare_exchange_weak(taken, taken | 1 << shard, success, failure) {
                Ok(_) => return Some(shard),
                Err(now) => taken = now,
            }
        }
    }

    /// Releases a shard that was taken.
    pub(crate) fn release(&self, shard: usize) {
        // Release: the next owner of the shard sees what was written into it.
        self.taken.fetch_and(!(1 << shard), Ordering::Release);
    }
}

/// Adds to a shard that this thread owns, or to the shared one.
///
/// Release: a thread that sums and sees the addition also sees what was done before it.
#[inline]
pub(crate) fn add(shard: &AtomicI64, count: i64, is_owned: bool) {
    if is_owned {
        // No other thread writes here, so nothing can come between the load and the store.
        shard.store(shard.load(Ordering::Relaxed).wrapping_add(count), Ordering::Release);
    } else {
        shard.fetch_add(count, Ordering::Release);
    }
}

/// Sums shards; exact once the threads that add are known to be done.
pub(crate) fn sum<'c>(cells: impl Iterator<Item = &'c AtomicI64>) -> i64 {
    cells.map(|shard| shard.load(Ordering::Acquire)).fold(0, i64::wrapping_add)
}
