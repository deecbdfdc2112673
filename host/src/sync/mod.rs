//! Primitives shared between threads: leases and counters without contention, waits, deadlines, fork
//! detection. Knows no plugins.

mod atomic {
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence,
    };
}
mod blocking;
mod clock;
mod fences;
#[allow(unsafe_code, reason = "registers a fork handler")]
mod fork;
#[allow(unsafe_code, reason = "owns a value by a tagged pointer")]
mod lease_cell;
#[cfg(test)]
mod lease_cell_tests;
mod locks {
    pub(crate) use std::sync::Mutex;
}
mod sharded_counter;
mod shards;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use blocking::{ReturnSlot, WaitGroup, WaitGuard, block_on, block_on_until};
pub(crate) use clock::has_passed;
pub(crate) use fences::ProcessFences;
pub(crate) use fork::{ProcessEpoch, SameProcess};
pub(crate) use lease_cell::{Lease, LeaseCell};
pub(crate) use sharded_counter::{Shard, ShardedCounter, owned_shard, shard};

/// Locks a mutex whose data is valid even if a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest wait: an instant further away does not exist on every system.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Returns the end of a wait that starts now.
pub(crate) fn deadline_in(timeout: Duration) -> Instant {
    after(Instant::now(), timeout)
}

/// Returns the end of a wait that starts at `start`.
pub(crate) fn after(start: Instant, timeout: Duration) -> Instant {
    start + timeout.min(MAX_TIMEOUT)
}
