//! Cells that threads own one at a time: who has which, and how an owner counts in its own
//! without an atomic addition. Checked with loom by `tests/loom`, which brings its own atomics.

use super::atomic::{AtomicI64, AtomicU64, Ordering};

/// Which of `SHARDS` cells are owned; at most 63.
#[derive(Debug)]
pub(crate) struct ShardOwners<const CELLS: usize> {
    /// Bit n is set while cell n is owned.
    taken: AtomicU64,
}

impl<const CELLS: usize> ShardOwners<CELLS> {
    pub(crate) const fn new(taken: AtomicU64) -> Self {
        Self { taken }
    }

    /// Takes the lowest free cell, if there is one.
    pub(crate) fn take(&self) -> Option<usize> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let cell = (!taken).trailing_zeros() as usize;
            if cell >= CELLS {
                return None;
            }
            // Acquire: sees what the owner before wrote into the cell.
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            match self.taken.compare_exchange_weak(taken, taken | 1 << cell, success, failure) {
                Ok(_) => return Some(cell),
                Err(now) => taken = now,
            }
        }
    }

    /// Gives a cell back that was taken.
    pub(crate) fn release(&self, cell: usize) {
        // Release: whoever owns the cell next sees what was written into it.
        self.taken.fetch_and(!(1 << cell), Ordering::Release);
    }
}

/// Adds to a cell that this thread owns, or to one that is shared.
///
/// Release: whoever sums, and sees the addition, sees what was done before it.
#[inline]
pub(crate) fn add(cell: &AtomicI64, count: i64, is_owned: bool) {
    if is_owned {
        // Nobody else writes here, so nothing can come between the load and the store.
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Release);
    } else {
        cell.fetch_add(count, Ordering::Release);
    }
}

/// What a cell stands at.
#[inline]
pub(crate) fn get(cell: &AtomicI64) -> i64 {
    cell.load(Ordering::Relaxed)
}

/// Sums cells; exact once those who add are known to be done.
pub(crate) fn sum<'c>(cells: impl Iterator<Item = &'c AtomicI64>) -> i64 {
    cells.map(|cell| cell.load(Ordering::Acquire)).fold(0, i64::wrapping_add)
}
