//! Collectors: every accepted event is counted, however the collector stops; invalid limits are
//! refused, and nothing waits forever.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;

use hotbay::CancellationToken;
use hotbay::metrics::{
    CollectError, Collected, Collector, CollectorLimits, MemoryStore, MetricStore,
};
use hotbay_tests::{block_on, until};

fn start(
    store: &Arc<impl MetricStore + 'static>,
    workers: u32,
    max_queued_events: u32,
) -> Collector {
    start_with(store, workers, max_queued_events, CancellationToken::new())
}

fn start_with(
    store: &Arc<impl MetricStore + 'static>,
    workers: u32,
    max_queued_events: u32,
    token: CancellationToken,
) -> Collector {
    Collector::start(store.clone(), CollectorLimits { workers, max_queued_events }, token).unwrap()
}

#[track_caller]
fn check(collected: Collected, counted: u64, failed: u64) {
    let Collected { accepted, counted: found, failed: lost, .. } = collected;
    assert_eq!((accepted, found, lost), (counted + failed, counted, failed));
}

#[track_caller]
fn is_stopped(answer: Result<(), CollectError>) {
    assert!(matches!(answer, Err(CollectError::Stopped)), "{answer:?}");
}

/// A store that blocks until it is opened.
#[derive(Default)]
struct Gated {
    counts: MemoryStore,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    is_open: bool,
    inside: u32,
}

impl Gated {
    fn open(&self) {
        self.gate.lock().unwrap().is_open = true;
        self.changed.notify_all();
    }

    /// Returns a store that blocks the only worker of a collector, and that collector, whose
    /// channel is full.
    fn with_full_channel(
        max_queued_events: u32,
        token: CancellationToken,
    ) -> (Arc<Self>, Collector) {
        let store = Arc::new(Self::default());
        let collector = start_with(&store, 1, max_queued_events, token);
        collector.try_record("first").unwrap();
        until("the worker is blocked in the store", || {
            (store.gate.lock().unwrap().inside > 0).then_some(())
        });
        (0..max_queued_events).for_each(|_| collector.try_record("kept").unwrap());
        (store, collector)
    }
}

impl MetricStore for Gated {
    fn inc(&self, key: &str) {
        let mut gate = self.gate.lock().unwrap();
        gate.inside += 1;
        drop(self.changed.wait_while(gate, |gate| !gate.is_open).unwrap());
        self.counts.inc(key);
    }

    fn get(&self, key: &str) -> u64 {
        self.counts.get(key)
    }
}

#[test]
fn events_of_many_threads_and_tasks_count_once() {
    const EVENTS: u64 = 2000;
    for (workers, max_queued_events) in [(1, 1), (3, 2), (4, 1000)] {
        let store = Arc::new(MemoryStore::default());
        let collector = start(&store, workers, max_queued_events);
        let tried: u64 = thread::scope(|scope| {
            for thread in 0..3 {
                let collector = &collector;
                let key = move |event| format!("key-{}", (event + thread) % 7);
                scope.spawn(move || {
                    (0..EVENTS).for_each(|event| collector.record_blocking(key(event)).unwrap());
                });
                scope.spawn(move || {
                    block_on(async {
                        for event in 0..EVENTS {
                            collector.record(key(event)).await.unwrap();
                        }
                    });
                });
            }
            let accepted = |_: &u64| collector.try_record("tried").is_ok();
            (0..EVENTS).filter(accepted).count() as u64
        });
        check(collector.stop(), 6 * EVENTS + tried, 0);
        let total: u64 = store.list().iter().map(|(_, count)| count).sum();
        assert_eq!(total, 6 * EVENTS + tried);
        assert_eq!(store.get("tried"), tried);
        assert_eq!(Arc::strong_count(&store), 1, "a worker still runs");
    }
}

#[test]
fn unusable_collector_limits_are_refused() {
    let check = |workers, max_queued_events, expected: &str| {
        let limits = CollectorLimits { workers, max_queued_events };
        let store = Arc::new(MemoryStore::default());
        let error = Collector::start(store.clone(), limits, CancellationToken::new()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(Arc::strong_count(&store), 1);
        error
    };
    let workers = "workers; expected 1 to 1024";
    let none = check(0, 1, &format!("cannot start a collector with 0 {workers}"));
    assert!(matches!(none, CollectError::Workers { wanted: 0 }));
    let too_many = check(1025, 1, &format!("cannot start a collector with 1025 {workers}"));
    assert!(matches!(too_many, CollectError::Workers { wanted: 1025 }));
    let no_capacity =
        check(1, 0, "cannot start a collector with `max_queued_events` 0; expected at least 1");
    assert!(matches!(no_capacity, CollectError::NoCapacity));
}

#[test]
fn event_after_stop_is_refused_and_not_counted() {
    let store = Arc::new(MemoryStore::default());
    let collector = start(&store, 2, 8);
    collector.record_blocking("before").unwrap();
    check(collector.stop(), 1, 0);
    is_stopped(collector.try_record("after"));
    is_stopped(collector.record_blocking("after"));
    is_stopped(block_on(collector.record("after")));
    check(collector.stop(), 1, 0);
    assert_eq!((store.get("before"), store.get("after")), (1, 0));
}

#[test]
fn concurrent_stops_return_same_report() {
    let (store, collector) = Gated::with_full_channel(5, CancellationToken::new());
    thread::scope(|scope| {
        let stops: Vec<_> = (0..4).map(|_| scope.spawn(|| collector.stop())).collect();
        until("it is stopped", || {
            collector
                .try_record("late")
                .err()
                .and_then(|error| matches!(error, CollectError::Stopped).then_some(()))
        });
        assert!(!stops.iter().any(|stop| stop.is_finished()), "events are still waiting");
        store.open();
        stops.into_iter().for_each(|stop| check(stop.join().unwrap(), 6, 0));
    });
}

#[test]
fn full_channel_applies_backpressure_in_order() {
    let (store, collector) = Gated::with_full_channel(2, CancellationToken::new());
    let full = collector.try_record("refused");
    assert!(matches!(full, Err(CollectError::Full { max_queued_events: 2 })), "{full:?}");
    let message = full.unwrap_err().to_string();
    assert_eq!(message, "the channel is full (`max_queued_events` is 2)");
    let mut cx = Context::from_waker(Waker::noop());
    let mut waits = pin!(collector.record("waited"));
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    thread::scope(|scope| {
        let blocked = scope.spawn(|| collector.record_blocking("waited"));
        store.open();
        blocked.join().unwrap().unwrap();
    });
    block_on(waits).unwrap();
    check(collector.stop(), 5, 0);
    assert_eq!((store.get("kept"), store.get("waited"), store.get("refused")), (2, 2, 0));
}

#[test]
fn stop_fails_waiting_senders_and_counts_queued_events() {
    let (store, collector) = Gated::with_full_channel(3, CancellationToken::new());
    let mut cx = Context::from_waker(Waker::noop());
    // One is polled again, one is dropped, and one is never polled again.
    let mut repolled = pin!(collector.record("waits"));
    let mut forgotten = pin!(collector.record("waits"));
    let mut dropped = Box::pin(collector.record("waits"));
    assert!(repolled.as_mut().poll(&mut cx).is_pending());
    assert!(forgotten.as_mut().poll(&mut cx).is_pending());
    assert!(dropped.as_mut().poll(&mut cx).is_pending());
    drop(dropped);
    thread::scope(|scope| {
        let blocked = scope.spawn(|| collector.record_blocking("waits"));
        let task = scope.spawn(|| block_on(collector.record("waits")));
        let stop = scope.spawn(|| collector.stop());
        // They need not wait for the store.
        is_stopped(blocked.join().unwrap());
        is_stopped(task.join().unwrap());
        store.open();
        check(stop.join().unwrap(), 4, 0);
    });
    let Poll::Ready(answer) = repolled.poll(&mut cx) else {
        panic!("the waiting event is still pending")
    };
    is_stopped(answer);
    assert_eq!((store.get("kept"), store.get("waits")), (3, 0));
}

#[test]
fn cancelled_token_stops_after_counting_accepted_events() {
    let token = CancellationToken::new();
    let (store, collector) = Gated::with_full_channel(3, token.child_token());
    let mut cx = Context::from_waker(Waker::noop());
    let mut waits = pin!(collector.record("waits"));
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    token.cancel();
    // From now on, although the store is blocked and `stop` was not called.
    is_stopped(collector.try_record("late"));
    is_stopped(block_on(waits));
    store.open();
    until("all events are counted", || (collector.collected().counted == 4).then_some(()));
    check(collector.stop(), 4, 0);
    assert_eq!((store.get("kept"), store.get("waits"), store.get("late")), (3, 0, 0));
}

#[test]
fn token_may_be_cancelled_before_start_or_after_stop() {
    let store = Arc::new(MemoryStore::default());
    let token = CancellationToken::new();
    let ended = start_with(&store, 1, 1, token.clone());
    drop(ended);
    token.cancel();
    let never = start_with(&store, 1, 1, token);
    is_stopped(never.try_record("a"));
    check(never.stop(), 0, 0);
}

#[test]
fn drop_counts_accepted_events() {
    let store = Arc::new(MemoryStore::default());
    let collector = start(&store, 2, 100);
    (0..100).for_each(|_| collector.record_blocking("a").unwrap());
    drop(collector);
    assert_eq!(store.get("a"), 100);
}

/// A store that panics for some keys, once with a payload that panics when dropped.
#[derive(Default)]
struct Panicky(MemoryStore);

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new(()));
    }
}

impl MetricStore for Panicky {
    fn inc(&self, key: &str) {
        match key {
            "panic" => std::panic::resume_unwind(Box::new("on purpose")),
            "bomb" => std::panic::resume_unwind(Box::new(PanicOnDrop)),
            _ => self.0.inc(key),
        }
    }

    fn get(&self, key: &str) -> u64 {
        self.0.get(key)
    }
}

#[test]
fn panicking_store_loses_only_that_event() {
    let store = Arc::new(Panicky::default());
    let collector = start(&store, 2, 10);
    for key in ["fine", "panic", "bomb", "fine", "fine"].into_iter().cycle().take(500) {
        collector.record_blocking(key).unwrap();
    }
    check(collector.stop(), 300, 200);
    assert_eq!(store.get("fine"), 300);
}

/// A store that uses its own collector.
#[derive(Default)]
struct Inward {
    counts: MemoryStore,
    collector: Mutex<Weak<Collector>>,
    has_collector: AtomicBool,
}

impl MetricStore for Inward {
    fn inc(&self, key: &str) {
        self.counts.inc(key);
        let collector = self.collector.lock().unwrap().upgrade();
        self.has_collector.store(collector.is_some(), Ordering::Release);
        match (key, collector) {
            ("stop", Some(collector)) => drop(collector.stop()),
            // Waits until it holds the last reference.
            ("drop", Some(collector)) => until("it holds the last reference", || {
                (Arc::strong_count(&collector) == 1).then_some(())
            }),
            ("again", Some(collector)) => collector.try_record("once").unwrap(),
            _ => {}
        }
    }

    fn get(&self, key: &str) -> u64 {
        self.counts.get(key)
    }
}

#[test]
fn store_may_use_stop_and_drop_its_collector() {
    let inward = |key: &'static str| {
        let store = Arc::new(Inward::default());
        let collector = Arc::new(start(&store, 2, 10));
        *store.collector.lock().unwrap() = Arc::downgrade(&collector);
        collector.record_blocking(key).unwrap();
        (store, collector)
    };
    let (store, collector) = inward("again");
    until("the event is counted", || (store.get("once") == 1).then_some(()));
    check(collector.stop(), 2, 0);

    let (store, collector) = inward("stop");
    until("the collector stops", || collector.try_record("x").is_err().then_some(()));
    assert_eq!(collector.stop().failed, 0);
    assert_eq!(store.get("stop"), 1);

    let (store, collector) = inward("drop");
    until("the store holds the collector", || {
        store.has_collector.load(Ordering::Acquire).then_some(())
    });
    drop(collector);
    until("the workers have exited", || (Arc::strong_count(&store) == 1).then_some(()));
    assert_eq!(store.get("drop"), 1);
}
