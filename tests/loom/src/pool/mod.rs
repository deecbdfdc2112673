//! The store of a pool's results: whatever tickets, tasks and takers do at once, each outcome is
//! seen once, and its place is free once. The queue of a pool has its models in `queues`.

mod locks {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}
#[allow(dead_code, reason = "the host's")]
#[path = "../../../../host/src/pool/job.rs"]
mod job;
#[allow(dead_code, reason = "the host's")]
#[path = "../../../../host/src/pool/queue.rs"]
mod queue;
#[allow(dead_code, reason = "the host's")]
#[path = "../../../../host/src/pool/queue_inner.rs"]
mod queue_inner;
#[allow(dead_code, reason = "the host's")]
#[path = "../../../../host/src/pool/queue_now.rs"]
mod queue_now;
mod queues;
#[path = "../../../../host/src/pool/result_store.rs"]
mod result_store;

use std::fmt;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::sync::lock;
use result_store::ResultStore;

type Outcome<T> = Result<T, &'static str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TaskId(u32);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.0)
    }
}

/// Counts how often a place came free.
struct QueuePermit(Arc<AtomicU32>);

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a waker rings, and a ticket's owner waits for.
struct Bell {
    has_rung: Mutex<bool>,
    rung: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *lock(&self.has_rung) = true;
        self.rung.notify_one();
    }
}

impl Bell {
    fn new() -> Arc<Self> {
        Arc::new(Self { has_rung: Mutex::new(false), rung: Condvar::new() })
    }

    fn wait(&self) {
        let mut has_rung = lock(&self.has_rung);
        while !*has_rung {
            has_rung = self.rung.wait(has_rung).unwrap();
        }
        *has_rung = false;
    }
}

const ID: TaskId = TaskId(1);

/// A store in which one task is pending.
struct Pending {
    store: ResultStore<u32>,
    free: Arc<AtomicU32>,
    seen: AtomicU32,
}

impl Pending {
    fn new() -> Arc<Self> {
        let free = Arc::new(AtomicU32::new(0));
        let store = ResultStore::new();
        store.reserve(ID, QueuePermit(Arc::clone(&free)));
        Arc::new(Self { store, free, seen: AtomicU32::new(0) })
    }

    fn all_at_once(self: &Arc<Self>, acts: &'static [fn(&Self)]) {
        let spawn = |act: &'static fn(&Self)| {
            let pending = Arc::clone(self);
            thread::spawn(move || act(&pending))
        };
        let threads: Vec<_> = acts.iter().map(spawn).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    fn settle(&self) {
        self.store.complete(ID, Ok(7));
    }

    /// What the future of a ticket does until it is ready.
    fn wait(&self) {
        let bell = Bell::new();
        loop {
            match self.store.poll(ID, Waker::from(Arc::clone(&bell))) {
                Poll::Ready(outcome) => return self.see(Some(outcome)),
                Poll::Pending => bell.wait(),
            }
        }
    }

    /// What a ticket does that is polled once and then dropped.
    fn poll_and_leave(&self) {
        match self.store.poll(ID, Waker::noop().clone()) {
            Poll::Ready(outcome) => self.see(Some(outcome)),
            Poll::Pending => self.store.detach(ID),
        }
    }

    fn take(&self) {
        self.see(self.store.take(ID));
    }

    fn drain(&self) {
        for outcome in self.store.drain().into_values() {
            self.see(Some(outcome));
        }
    }

    fn see(&self, outcome: Option<Outcome<u32>>) {
        if let Some(outcome) = outcome {
            assert_eq!(outcome, Ok(7));
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn seen(&self) -> u32 {
        self.seen.load(Ordering::Relaxed)
    }
}

/// With at most three preemptions; all orders pass as well, but take long.
fn model(check: impl Fn() + Send + Sync + 'static) {
    preempted(3, check);
}

/// Checks it with at most so many preemptions.
fn preempted(times_max: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(times_max);
    builder.check(check);
}

/// Runs the acts at once, in every order; then one outcome was seen, and its place is free.
fn check(acts: &'static [fn(&Pending)], is_seen_by_them: bool) {
    model(move || {
        let pending = Pending::new();
        pending.all_at_once(acts);
        if is_seen_by_them {
            assert_eq!(pending.seen(), 1);
        }
        pending.drain();
        assert_eq!((pending.seen(), pending.free.load(Ordering::Relaxed)), (1, 1));
        assert!(pending.store.copy().is_empty());
    });
}

#[test]
fn a_ticket_that_waits_is_woken_and_gets_its_outcome_before_all_takers() {
    check(&[Pending::settle, Pending::wait], true);
    check(&[Pending::settle, Pending::wait, Pending::take], true);
    check(&[Pending::settle, Pending::wait, Pending::drain], true);
}

#[test]
fn a_ticket_that_is_dropped_leaves_its_outcome_to_one_taker() {
    check(&[Pending::settle, |pending| pending.store.detach(ID)], false);
    check(&[Pending::settle, Pending::poll_and_leave, Pending::take], false);
    check(&[Pending::settle, Pending::poll_and_leave, Pending::drain], false);
    check(&[Pending::settle, Pending::take, Pending::drain, |p| p.store.detach(ID)], false);
}

#[test]
fn a_task_that_was_not_accepted_gives_its_place_back_and_leaves_nothing() {
    model(|| {
        let pending = Pending::new();
        pending.all_at_once(&[|pending| pending.store.remove(ID), Pending::take, Pending::drain]);
        assert_eq!((pending.seen(), pending.free.load(Ordering::Relaxed)), (0, 1));
    });
}
