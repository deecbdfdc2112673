//! A small number for each living thread, so that a thread can own a cell of a table.
//! Numbers go back when threads end; beyond the table, threads share the last cell.

use std::cell::Cell;

use super::atomic::AtomicU64;
use super::shards::ShardOwners;

/// Threads that own a cell; the others share one more.
pub(super) const OWNERS: usize = 31;
/// The cell that is shared.
pub(super) const SHARED: usize = OWNERS;
const NONE: usize = usize::MAX;

static SHARDS: ShardOwners<OWNERS> = ShardOwners::new(AtomicU64::new(0));

thread_local! {
    // Read at every call, so without a destructor; `Owner` beside it has one.
    static SHARD: Cell<usize> = const { Cell::new(NONE) };
    static OWNER: Owner = const { Owner };
}

struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        // What the thread still counts after this goes to the shared cell.
        let cell = SHARD.replace(SHARED);
        if cell < OWNERS {
            SHARDS.release(cell);
        }
    }
}

/// The cell of this thread: its own below [`OWNERS`], or [`SHARED`].
#[inline]
pub(super) fn shard() -> usize {
    let cell = SHARD.get();
    if cell == NONE { take() } else { cell }
}

#[cold]
fn take() -> usize {
    // Without its destructor a cell would be lost, so one is only taken while that can run.
    let cell = OWNER.try_with(|_| SHARDS.take()).ok().flatten().unwrap_or(SHARED);
    SHARD.set(cell);
    cell
}
