//! Stress of the lease with real threads and barriers: no value is used after its drop. The same
//! stress without barriers fails, which shows that it can. `tests/loom` checks all interleavings.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use std::sync::{Arc, Barrier, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::lease_cell::{Fences, LeaseCell};
use super::{ProcessFences, shard};

/// Limit of a test that ends much sooner.
const LIMIT: Duration = Duration::from_secs(300);

/// Memory of each reader that does not fit into its cache.
const FAR_BYTES: usize = 32 << 20;
/// Stores to that memory before each lease.
const FAR_STORES: u64 = 24;

struct Value {
    is_alive: AtomicBool,
    drops: Arc<AtomicU64>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.is_alive.store(false, Ordering::Relaxed);
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a stress found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    uses_after_drop: u64,
    drops: u64,
}

/// Leases with `readers` threads while one replaces the value `swaps` times or more, or until a value
/// was used after its drop.
fn stress<F: Fences + Copy>(fences: F, readers: usize, swaps: u64) -> Found {
    let drops = Arc::new(AtomicU64::new(0));
    let value = || {
        let drops = Arc::clone(&drops);
        Arc::new(Value { is_alive: AtomicBool::new(true), drops })
    };
    let cell = LeaseCell::new(fences);
    // Keeps the memory of dropped values, so that a use after the drop is harmless.
    let mut kept: Vec<Weak<Value>> = Vec::new();
    let first = value();
    kept.push(Arc::downgrade(&first));
    cell.replace(Some(first), |_| ());
    let (uses_after_drop, is_done) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Barrier::new(readers + 1);
    thread::scope(|scope| {
        for reader in 0..readers {
            let (cell, uses_after_drop, is_done, start) =
                (&cell, &uses_after_drop, &is_done, &start);
            scope.spawn(move || {
                let mut far = vec![0_u8; if readers > 3 { 0 } else { FAR_BYTES }];
                start.wait();
                let check = |value: &Value| {
                    if !value.is_alive.load(Ordering::Relaxed) {
                        uses_after_drop.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let mut calls = 0_u64;
                while !is_done.load(Ordering::Relaxed) {
                    calls += 1;
                    // Stores that miss the cache keep the one of the lease waiting behind them, while
                    // the load after it goes ahead, unless a barrier orders them.
                    for line in 0..FAR_STORES.min(far.len() as u64) {
                        let at = (calls * FAR_STORES + line).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        far[at as usize % FAR_BYTES] = line as u8;
                    }
                    black_box(&far);
                    let Some(lease) = cell.lease() else { continue };
                    check(&lease);
                    cell.count_by(shard());
                    if calls.is_multiple_of(64) {
                        // Ends before, and outlives, the other.
                        let (nested, held) = (cell.lease(), cell.get());
                        drop(lease);
                        nested.iter().for_each(|nested| check(nested));
                        held.iter().for_each(|held| check(held));
                    } else {
                        (0..calls % 16).for_each(|step| _ = black_box(step));
                        check(&lease);
                    }
                    if reader == 0 && calls.is_multiple_of(4096) {
                        thread::yield_now();
                    }
                }
            });
        }
        start.wait();
        let since = Instant::now();
        let mut swap = 0;
        // Readers may be started only after the last swap.
        while swap < swaps || cell.count() < readers as i64 {
            swap += 1;
            let next = value();
            kept.push(Arc::downgrade(&next));
            cell.replace(Some(next), |_| ());
            if uses_after_drop.load(Ordering::Relaxed) > 0 || since.elapsed() > LIMIT {
                break;
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(cell.count() > 0);
    let is_replaced = cell.replace(None, |_| ()).is_some();
    assert!(is_replaced && cell.lease().is_none());
    let made = kept.len() as u64;
    let found = Found {
        uses_after_drop: uses_after_drop.load(Ordering::Relaxed),
        drops: drops.load(Ordering::Relaxed),
    };
    // Nothing is leased any more, so every value was dropped.
    assert_eq!(found.drops, made);
    found
}

#[test]
fn no_value_is_used_after_its_drop() {
    for readers in [1, 3] {
        let found = stress(ProcessFences::get(), readers, 20_000);
        assert_eq!(found.uses_after_drop, 0, "{readers} readers");
    }
}

#[test]
fn no_value_is_used_after_its_drop_with_more_threads_than_lines() {
    let found = stress(ProcessFences::get(), 40, 2_000);
    assert_eq!(found.uses_after_drop, 0);
}

#[test]
fn fences_without_membarrier_are_enough() {
    let found = stress(ProcessFences::symmetric(), 2, 20_000);
    assert_eq!(found.uses_after_drop, 0);
}

/// Fences that order nothing but the compiler's code.
#[derive(Clone, Copy)]
struct NoFences;

impl Fences for NoFences {
    fn light(&self) {
        compiler_fence(Ordering::SeqCst);
    }

    fn heavy(&self) -> bool {
        compiler_fence(Ordering::SeqCst);
        true
    }
}

#[test]
#[cfg_attr(miri, ignore = "depends on the processor")]
fn without_barriers_a_value_is_used_after_its_drop() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    let found = stress(NoFences, 1, u64::MAX);
    assert!(found.uses_after_drop > 0, "{found:?}");
}

/// Fences of which the heavy one fails until it is allowed to succeed.
struct FailingFences<'a>(&'a AtomicBool);

impl Fences for FailingFences<'_> {
    fn light(&self) {
        ProcessFences::symmetric().light();
    }

    fn heavy(&self) -> bool {
        self.0.load(Ordering::Relaxed) && ProcessFences::symmetric().heavy()
    }
}

#[test]
fn value_is_kept_until_a_barrier_succeeds() {
    let drops = Arc::new(AtomicU64::new(0));
    let value = || {
        let drops = Arc::clone(&drops);
        Arc::new(Value { is_alive: AtomicBool::new(true), drops })
    };
    let succeeds = AtomicBool::new(false);
    let cell = LeaseCell::new(FailingFences(&succeeds));
    cell.replace(Some(value()), |_| ());
    cell.replace(Some(value()), |_| ());
    drop(cell.lease());
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    succeeds.store(true, Ordering::Relaxed);
    drop(cell.lease());
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    drop(cell);
    assert_eq!(drops.load(Ordering::Relaxed), 2);
}

#[test]
fn values_that_stay_leased_are_dropped_with_their_last_lease() {
    let drops = Arc::new(AtomicU64::new(0));
    let cell = LeaseCell::new(ProcessFences::get());
    let mut leases = Vec::new();
    // More than there are lanes.
    for _ in 0..20 {
        let drops = Arc::clone(&drops);
        let value = Arc::new(Value { is_alive: AtomicBool::new(true), drops });
        let weak = Arc::downgrade(&value);
        cell.replace(Some(value), |_| ());
        leases.push((cell.lease().expect("a value"), weak));
    }
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    let (lease, oldest) = &leases[0];
    assert!(lease.is_alive.load(Ordering::Relaxed));
    assert!(cell.uses(oldest) >= 1);
    for (lease, _) in leases {
        assert!(lease.is_alive.load(Ordering::Relaxed));
        drop(lease);
    }
    // All but the current one.
    assert_eq!(drops.load(Ordering::Relaxed), 19);
}

#[test]
fn value_that_was_current_twice_counts_all_its_leases() {
    let cell = LeaseCell::new(ProcessFences::get());
    let value = Arc::new(0_u64);
    let weak = Arc::downgrade(&value);
    let leases = [(); 2].map(|()| {
        cell.replace(weak.upgrade(), |_| ());
        let lease = cell.lease().expect("a value");
        cell.replace(None, |_| ());
        lease
    });
    drop(value);
    assert_eq!(cell.uses(&weak), 2);
    drop(leases);
    assert!(weak.upgrade().is_none());
}

#[test]
fn lease_that_ends_while_an_empty_cell_is_filled_drops_its_value() {
    let rounds = if cfg!(miri) { 20 } else { 20_000 };
    let cell = LeaseCell::new(ProcessFences::get());
    let (mut lost, turn) = (0, AtomicU64::new(0));
    let wait_for = |now: u64| {
        while turn.load(Ordering::Acquire) < now {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                wait_for(4 * round + 1);
                let lease = cell.lease();
                turn.store(4 * round + 2, Ordering::Release);
                wait_for(4 * round + 3);
                drop(lease);
                turn.store(4 * round + 4, Ordering::Release);
            }
        });
        for round in 0..rounds {
            let value = Arc::new(round);
            let weak = Arc::downgrade(&value);
            cell.replace(Some(value), |_| ());
            turn.store(4 * round + 1, Ordering::Release);
            wait_for(4 * round + 2);
            cell.replace(None, |_| ());
            turn.store(4 * round + 3, Ordering::Release);
            cell.replace(Some(Arc::new(0)), |_| ());
            wait_for(4 * round + 4);
            lost += weak.strong_count();
            cell.replace(None, |_| ());
        }
    });
    assert_eq!(lost, 0, "values that were not dropped");
}
