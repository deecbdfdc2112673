//! What threads share: counters that do not make them wait for each other, and a place to hand back.
//! Nothing here knows plugins.

mod atomic {
    pub(crate) use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
}
mod deadline;
#[allow(unsafe_code, reason = "asks the system to count forks")]
mod fork;
pub(crate) mod park;
mod return_slot;
mod sharded_counter;
mod shards;
mod thread_index;
mod wait_group;

pub(crate) use deadline::{after, deadline_in};
pub(crate) use fork::{ProcessEpoch, SameProcess};
pub(crate) use return_slot::ReturnSlot;
pub(crate) use sharded_counter::{LocalShard, ShardedCounter};
pub(crate) use wait_group::WaitGroup;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks what is sound even if a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
