//! A counter that many threads change without contention.
//!
//! Each thread adds to its own shard with a plain load and store; only threads beyond the table
//! share one. The sum is exact once the threads that add are known to be done.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Mutex;

use super::atomic::{AtomicI64, AtomicU64};
use super::shards::ShardOwners;
use super::{lock, shards};

/// A counter in shards.
#[repr(align(64))]
pub(crate) struct ShardedCounter {
    cells: [PaddedShard; LINES],
}

#[repr(align(64))]
struct PaddedShard(AtomicI64);

/// Counters that are not in use, to be lent again.
static FREE: Mutex<Vec<&'static ShardedCounter>> = Mutex::new(Vec::new());

impl ShardedCounter {
    pub(crate) const fn new() -> Self {
        Self { cells: [const { PaddedShard(AtomicI64::new(0)) }; LINES] }
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
        shards::add(&self.cells[shard.index()].0, count, shard.is_owned());
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

/// Number of threads that own a shard; the others share one more.
const OWNERS: usize = 31;
/// Number of shards.
pub(super) const LINES: usize = OWNERS + 1;
/// The shared shard.
const SHARED: usize = OWNERS;
const NONE: usize = usize::MAX;

/// The shard of a thread: its own, or the shared one. Stays on its thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard(usize, PhantomData<*const ()>);

impl Shard {
    /// Returns its number, which is below [`LINES`].
    #[inline(always)]
    pub(super) fn index(self) -> usize {
        self.0 % LINES
    }

    /// Returns whether only this thread uses it.
    #[inline(always)]
    pub(crate) fn is_owned(self) -> bool {
        self.0 != SHARED
    }
}

static SHARDS: ShardOwners<OWNERS> = ShardOwners::new(AtomicU64::new(0));

thread_local! {
    // Read at every call, so it has no destructor; `OWNER` has one.
    static SHARD: Cell<usize> = const { Cell::new(NONE) };
    static OWNER: Owner = const { Owner };
}

struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        // What the thread counts after this goes to the shared shard.
        let cell = SHARD.replace(SHARED);
        if cell < OWNERS {
            SHARDS.release(cell);
        }
    }
}

/// Returns the shard of this thread.
#[inline]
pub(crate) fn shard() -> Shard {
    let cell = SHARD.get();
    Shard(if cell == NONE { take() } else { cell }, PhantomData)
}

/// Returns the shard of this thread if it was taken before and is not shared.
#[inline(always)]
pub(crate) fn owned_shard() -> Option<Shard> {
    let cell = SHARD.get();
    (cell < OWNERS).then_some(Shard(cell, PhantomData))
}

#[cold]
fn take() -> usize {
    // Without its destructor a shard would leak, so one is only taken while that can run.
    let cell = OWNER.try_with(|_| SHARDS.take()).ok().flatten().unwrap_or(SHARED);
    SHARD.set(cell);
    cell
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

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
