//! A counter that many threads change without contention.
//!
//! Each thread adds to its own shard with a plain load and store; only threads beyond the table
//! share one. The sum is exact once the threads that add are known to be done.

use std::fmt;
use std::sync::Mutex;

use super::atomic::AtomicI64;
use super::thread_index::{OWNERS, SHARED, shard};
use super::{lock, shards};

/// A counter in shards.
#[repr(align(64))]
pub(crate) struct ShardedCounter {
    cells: [PaddedShard; OWNERS + 1],
}

#[repr(align(64))]
struct PaddedShard(AtomicI64);

/// Counters that are not in use, to be lent again.
static FREE: Mutex<Vec<&'static ShardedCounter>> = Mutex::new(Vec::new());

impl ShardedCounter {
    pub(crate) const fn new() -> Self {
        Self { cells: [const { PaddedShard(AtomicI64::new(0)) }; OWNERS + 1] }
    }

    /// Lends a counter with the sum zero.
    ///
    /// It lives forever, so that a reply can refer to it without a reference count. The number of
    /// counters is the maximum ever lent at once.
    pub(crate) fn lend() -> &'static Self {
        let free = lock(&FREE).pop();
        free.unwrap_or_else(|| Box::leak(Box::new(Self::new())))
    }

    /// Returns a lent counter. It is lent again only if its sum is zero.
    pub(crate) fn give_back(counter: &'static Self) {
        if counter.sum() == 0 {
            lock(&FREE).push(counter);
        }
    }

    /// Adds to the shard of this thread.
    #[inline]
    pub(crate) fn add(&self, count: i64) {
        let shard = shard();
        shards::add(&self.cells[shard].0, count, shard != SHARED);
    }

    pub(crate) fn sum(&self) -> i64 {
        shards::sum(self.cells.iter().map(|PaddedShard(cell)| cell))
    }
}

impl fmt::Debug for ShardedCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ShardedCounter").field(&self.sum()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn sum_is_exact_with_more_threads_than_shards() {
        let counter = ShardedCounter::new();
        for _ in 0..4 {
            thread::scope(|scope| {
                for _ in 0..OWNERS * 2 {
                    scope.spawn(|| (0..1000).for_each(|_| counter.add(1)));
                }
            });
        }
        assert_eq!(counter.sum(), 4 * 1000 * OWNERS as i64 * 2);
    }

    #[test]
    fn thread_may_subtract_what_another_added() {
        let counter = ShardedCounter::lend();
        counter.add(3);
        thread::scope(|scope| scope.spawn(|| counter.add(-3)).join()).expect("no panic");
        assert_eq!(counter.sum(), 0);
        ShardedCounter::give_back(counter);
    }
}
