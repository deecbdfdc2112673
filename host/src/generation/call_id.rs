//! The ids of calls.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads take call ids in blocks of this size, so that a call shares no counter.
const ID_BLOCK: u64 = 1 << 20;

/// Returns the id of the next call, unique in this process.
#[inline]
pub(crate) fn next_call_id() -> u64 {
    static BLOCKS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    let mut next = NEXT.get();
    if next.is_multiple_of(ID_BLOCK) {
        next = BLOCKS.fetch_add(1, Ordering::Relaxed) * ID_BLOCK + 1;
    }
    NEXT.set(next + 1);
    next
}
