//! Primitives shared between threads: counters without contention, a slot to return a value, fork
//! detection. Knows no plugins.

mod atomic {
    pub(crate) use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
}
mod deadline;
#[allow(unsafe_code, reason = "registers a fork handler")]
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
pub(crate) use sharded_counter::ShardedCounter;
pub(crate) use wait_group::WaitGroup;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data is valid even if a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
