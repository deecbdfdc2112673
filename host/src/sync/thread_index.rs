//! A small number for each living thread, so that a thread can own a shard. Numbers are reused when
//! threads exit; threads beyond the table share the last shard.

use std::cell::Cell;

use super::atomic::AtomicU64;
use super::shards::ShardOwners;

/// Number of threads that own a shard; the others share one more.
pub(super) const OWNERS: usize = 31;
/// The shared shard.
pub(super) const SHARED: usize = OWNERS;
const NONE: usize = usize::MAX;

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

/// Returns the shard of this thread: its own below [`OWNERS`], or [`SHARED`].
#[inline]
pub(super) fn shard() -> usize {
    let cell = SHARD.get();
    if cell == NONE { take() } else { cell }
}

#[cold]
fn take() -> usize {
    // Without its destructor a shard would leak, so one is only taken while that can run.
    let cell = OWNER.try_with(|_| SHARDS.take()).ok().flatten().unwrap_or(SHARED);
    SHARD.set(cell);
    cell
}
