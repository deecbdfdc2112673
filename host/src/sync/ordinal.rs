//! A small number for each living thread, so that a thread can own a cell of a table.
//! Numbers go back when threads end; beyond the table, threads share the last cell.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that own a cell; the others share one more.
pub(super) const OWNERS: usize = 31;
/// The cell that is shared.
pub(super) const SHARED: usize = OWNERS;
const NONE: usize = usize::MAX;

/// Bit n is set while a thread owns cell n.
static TAKEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Read at every call, so without a destructor; `Owner` beside it has one.
    static CELL: Cell<usize> = const { Cell::new(NONE) };
    static OWNER: Owner = const { Owner };
}

struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        // What the thread still counts after this goes to the shared cell.
        let cell = CELL.replace(SHARED);
        if cell < OWNERS {
            // Release: whoever takes the cell next sees what this thread wrote there.
            TAKEN.fetch_and(!(1 << cell), Ordering::Release);
        }
    }
}

/// The cell of this thread: its own below [`OWNERS`], or [`SHARED`].
#[inline]
pub(super) fn cell() -> usize {
    let cell = CELL.get();
    if cell == NONE { take() } else { cell }
}

#[cold]
fn take() -> usize {
    // Without its destructor a cell would be lost, so one is only taken while that can run.
    let cell = OWNER.try_with(|_| lowest_free()).unwrap_or(SHARED);
    CELL.set(cell);
    cell
}

fn lowest_free() -> usize {
    let mut taken = TAKEN.load(Ordering::Relaxed);
    loop {
        let cell = (!taken).trailing_zeros() as usize;
        if cell >= OWNERS {
            return SHARED;
        }
        // Acquire: sees what the thread before wrote into the cell.
        match TAKEN.compare_exchange_weak(
            taken,
            taken | 1 << cell,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => return cell,
            Err(now) => taken = now,
        }
    }
}
