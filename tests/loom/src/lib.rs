//! Loom models of the host's leases and sharded counters, and of a pool's result store and queue. They include
//! the host's files, with loom's atomics and locks instead of std's.

#![cfg(test)]

mod panic {
    pub(crate) fn drop_panic(run: impl FnOnce()) {
        run();
    }
}
#[allow(clippy::arc_with_non_send_sync, reason = "loom checks how its cells are shared")]
mod leases;
mod locks {
    pub(crate) use loom::sync::Mutex;
}
mod pool;
mod sharded_counter {
    use std::cell::Cell;

    /// Lines of a model: those of three threads, and the shared one.
    pub(crate) const LINES: usize = 4;

    /// The line of a thread.
    #[derive(Clone, Copy)]
    pub(crate) struct Shard(usize);

    impl Shard {
        pub(crate) fn index(self) -> usize {
            self.0.min(LINES - 1)
        }

        pub(crate) fn is_owned(self) -> bool {
            self.0 < LINES - 1
        }
    }

    loom::thread_local! {
        static SHARD: Cell<usize> = Cell::new(usize::MAX);
    }

    /// Sets the line of the current thread; any number above the last is the shared one.
    pub(crate) fn set_shard(shard: usize) {
        SHARD.with(|own| own.set(shard));
    }

    pub(crate) fn shard() -> Shard {
        SHARD.with(|own| Shard(own.get()))
    }
}
mod sync {
    use loom::sync::{Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }
}

mod atomic {
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence,
    };
}

#[allow(dead_code, reason = "included from the host")]
#[allow(unsafe_code, reason = "included from the host")]
#[path = "../../../host/src/sync/lease_cell.rs"]
mod lease_cell;

#[allow(dead_code, reason = "included from the host")]
#[path = "../../../host/src/sync/shards.rs"]
mod shards;

use std::sync::Arc;

use sync::lock;

use atomic::{AtomicI64, AtomicU64};
use loom::cell::UnsafeCell;
use loom::thread;
use shards::ShardOwners;

/// One shard to own, and the shared one.
struct Table {
    owners: ShardOwners<1>,
    cells: [AtomicI64; 2],
}

impl Table {
    fn new() -> Arc<Self> {
        let cells = [AtomicI64::new(0), AtomicI64::new(0)];
        Arc::new(Self { owners: ShardOwners::new(AtomicU64::new(0)), cells })
    }

    /// Counts as a thread does between its start and its exit.
    fn count(&self, counts: &[i64]) {
        let own = self.owners.take();
        for count in counts {
            shards::add(&self.cells[own.unwrap_or(1)], *count, own.is_some());
        }
        if let Some(own) = own {
            self.owners.release(own);
        }
    }

    fn sum(&self) -> i64 {
        shards::sum(self.cells.iter())
    }
}

#[test]
fn counts_are_kept_when_a_shard_changes_owner() {
    loom::model(|| {
        let table = Table::new();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let table = Arc::clone(&table);
                thread::spawn(move || table.count(&[1, 2]))
            })
            .collect();
        table.count(&[4]);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(table.sum(), 10);
    });
}

#[test]
fn zero_sum_happens_after_the_last_subtraction() {
    loom::model(|| {
        let table = Table::new();
        // Stands for the memory of a plugin: accessed when a reply is dropped, then unmapped.
        #[allow(clippy::arc_with_non_send_sync, reason = "the model tests this")]
        let memory = Arc::new(UnsafeCell::new(0));
        table.count(&[1]);
        let holder = {
            let (table, memory) = (Arc::clone(&table), Arc::clone(&memory));
            thread::spawn(move || {
                memory.with_mut(|_| {});
                table.count(&[-1]);
            })
        };
        let closer = {
            let (table, memory) = (Arc::clone(&table), Arc::clone(&memory));
            thread::spawn(move || {
                if table.sum() == 0 {
                    memory.with_mut(|_| {});
                }
            })
        };
        holder.join().unwrap();
        closer.join().unwrap();
    });
}
