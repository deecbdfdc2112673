//! A tally: a counter that many threads change without waiting for each other.
//!
//! Each thread adds to a cell of its own with a plain load and store; only threads beyond the
//! table share a cell. The sum is exact once the threads that add are known to be done.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Mutex;

use super::atomic::AtomicI64;
use super::thread_index::{OWNERS, SHARED, shard};
use super::{lock, shards};

/// A counter in cells.
#[repr(align(64))]
pub(crate) struct ShardedCounter {
    cells: [PaddedShard; OWNERS + 1],
}

#[repr(align(64))]
struct PaddedShard(AtomicI64);

/// The cell of the thread that asked for it.
#[derive(Clone, Copy)]
pub(crate) struct LocalShard<'t> {
    cell: &'t AtomicI64,
    is_owned: bool,
    /// Another thread has a cell of its own.
    _of_this_thread: PhantomData<*const ()>,
}

impl LocalShard<'_> {
    #[inline]
    pub(crate) fn add(self, count: i64) {
        shards::add(self.cell, count, self.is_owned);
    }

    #[inline]
    pub(crate) fn get(self) -> i64 {
        shards::get(self.cell)
    }
}

/// Tallies that nobody uses any more, to be lent again.
static FREE: Mutex<Vec<&'static ShardedCounter>> = Mutex::new(Vec::new());

impl ShardedCounter {
    pub(crate) const fn new() -> Self {
        Self { cells: [const { PaddedShard(AtomicI64::new(0)) }; OWNERS + 1] }
    }

    /// Lends a tally that stands at zero, for as long as anybody wants to count in it.
    ///
    /// It lives for ever, so that a reply can point at it without a shared count of its own;
    /// as many live as were ever lent at once.
    pub(crate) fn lend() -> &'static Self {
        let free = lock(&FREE).pop();
        free.unwrap_or_else(|| Box::leak(Box::new(Self::new())))
    }

    /// Takes a tally back that stands at zero; any other is never lent again.
    pub(crate) fn take_back(tally: &'static Self) {
        if tally.sum() == 0 {
            lock(&FREE).push(tally);
        }
    }

    /// Adds to the cell of this thread.
    #[inline]
    pub(crate) fn add(&self, count: i64) {
        self.own().add(count);
    }

    /// The cell of this thread, for who uses it twice.
    #[inline]
    pub(crate) fn own(&self) -> LocalShard<'_> {
        let cell = shard();
        LocalShard {
            cell: &self.cells[cell].0,
            is_owned: cell != SHARED,
            _of_this_thread: PhantomData,
        }
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
    fn nothing_is_lost_with_more_threads_than_cells_that_come_and_go() {
        let tally = ShardedCounter::new();
        for _ in 0..4 {
            thread::scope(|scope| {
                for _ in 0..OWNERS * 2 {
                    scope.spawn(|| (0..1000).for_each(|_| tally.add(1)));
                }
            });
        }
        assert_eq!(tally.sum(), 4 * 1000 * OWNERS as i64 * 2);
    }

    #[test]
    fn what_one_thread_adds_another_may_take_away() {
        let tally = ShardedCounter::lend();
        tally.add(3);
        thread::scope(|scope| scope.spawn(|| tally.add(-3)).join()).expect("no panic");
        assert_eq!(tally.sum(), 0);
        ShardedCounter::take_back(tally);
    }
}
