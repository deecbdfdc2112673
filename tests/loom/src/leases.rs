//! Models of the cell whose value threads lease: no value is used after its drop, and each replaced
//! value is dropped once its last lease ends. Loom has no fence for all threads of a process, so the
//! light fences are full ones, too. If either fence is missing, the same models fail.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use loom::cell::UnsafeCell;
use loom::sync::atomic::fence;
use loom::thread;

use crate::lease_cell::{Fences, LeaseCell};
use crate::sharded_counter::set_shard;

/// The fences of a model, each of which may be missing.
#[derive(Clone, Copy)]
struct ModelFences {
    light: bool,
    heavy: bool,
}

impl Fences for ModelFences {
    fn light(&self) {
        if self.light {
            fence(Ordering::SeqCst);
        }
    }

    fn heavy(&self) -> bool {
        if self.heavy {
            fence(Ordering::SeqCst);
        }
        true
    }
}

const ALL: ModelFences = ModelFences { light: true, heavy: true };

/// A value whose drop conflicts with every use that does not come before it.
struct Value {
    /// Leaked, since a mutant uses it after the drop.
    used: &'static UnsafeCell<()>,
    drops: Arc<AtomicU32>,
}

impl Value {
    /// Creates a value whose memory is kept as long as `kept`: a mutant reads it after the drop.
    fn new(drops: &Arc<AtomicU32>, kept: &mut Vec<Weak<Self>>) -> Arc<Self> {
        let used = Box::leak(Box::new(UnsafeCell::new(())));
        let value = Arc::new(Self { used, drops: Arc::clone(drops) });
        kept.push(Arc::downgrade(&value));
        value
    }

    fn read(&self) {
        self.used.with(|_| ());
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.used.with_mut(|_| ());
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Replaces the value `swaps` times while each of `readers` leases it once. The readers from
/// `shared` on share a line.
fn model(fences: ModelFences, swaps: u32, readers: usize, shared: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let drops = Arc::new(AtomicU32::new(0));
        let mut kept = Vec::new();
        let cell = Arc::new(LeaseCell::new(fences));
        assert!(cell.replace(Some(Value::new(&drops, &mut kept)), |_| ()).is_none());
        let threads: Vec<_> = (0..readers)
            .map(|reader| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || {
                    set_shard(if reader < shared { reader } else { usize::MAX });
                    let lease = cell.lease().expect("the cell has a value");
                    lease.read();
                })
            })
            .collect();
        set_shard(readers);
        for _ in 0..swaps {
            let value = Value::new(&drops, &mut kept);
            assert!(cell.replace(Some(value), |before| before.read()).is_some());
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // Nothing is leased, so only the current value is left.
        assert_eq!(drops.load(Ordering::Relaxed), swaps);
        drop(cell);
        assert_eq!(drops.load(Ordering::Relaxed), swaps + 1);
    });
}

#[test]
fn leased_value_outlives_its_replacement() {
    model(ALL, 1, 1, 1);
    model(ALL, 2, 1, 1);
}

#[test]
fn last_of_two_leases_drops_replaced_value() {
    model(ALL, 1, 2, 2);
}

#[test]
fn threads_may_share_a_line() {
    model(ALL, 1, 2, 0);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_light_fence_a_leased_value_is_dropped() {
    model(ModelFences { light: false, ..ALL }, 1, 1, 1);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_heavy_fence_a_leased_value_is_dropped() {
    model(ModelFences { heavy: false, ..ALL }, 1, 1, 1);
}
