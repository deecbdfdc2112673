//! Models of a pool's result store: in every interleaving of tickets, tasks and takers, each outcome
//! is taken once, and its permit is released once. `queues` has the models of the queue.

mod locks {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}
mod caller_runtime {
    use std::time::Instant;

    /// Stands in for the runtime of a caller, which no model has.
    pub(super) enum CallerRuntime {}

    impl CallerRuntime {
        pub(super) fn check_at(&self) -> Instant {
            match *self {}
        }
    }
}
#[allow(dead_code, reason = "included from the host")]
#[path = "../../../../host/src/worker/job.rs"]
mod job;
#[allow(dead_code, reason = "included from the host")]
#[path = "../../../../host/src/worker/queue.rs"]
mod queue;
#[allow(dead_code, reason = "included from the host")]
#[path = "../../../../host/src/worker/queue_inner.rs"]
mod queue_inner;
mod queues;
#[path = "../../../../host/src/worker/result_store.rs"]
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

/// Counts how often a permit was released.
struct QueuePermit(Arc<AtomicU32>);

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A waker that blocks the owner of a ticket until it is woken.
struct BlockingWaker {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Wake for BlockingWaker {
    fn wake(self: Arc<Self>) {
        *lock(&self.is_woken) = true;
        self.woken.notify_one();
    }
}

impl BlockingWaker {
    fn new() -> Arc<Self> {
        Arc::new(Self { is_woken: Mutex::new(false), woken: Condvar::new() })
    }

    fn wait(&self) {
        let mut is_woken = lock(&self.is_woken);
        while !*is_woken {
            is_woken = self.woken.wait(is_woken).unwrap();
        }
        *is_woken = false;
    }
}

const ID: TaskId = TaskId(1);

/// A store in which one task is pending.
struct Pending {
    store: ResultStore<u32>,
    released: Arc<AtomicU32>,
    taken: AtomicU32,
}

impl Pending {
    fn new() -> Arc<Self> {
        let released = Arc::new(AtomicU32::new(0));
        let store = ResultStore::new();
        store.reserve(ID, QueuePermit(Arc::clone(&released)));
        Arc::new(Self { store, released, taken: AtomicU32::new(0) })
    }

    fn all_at_once(self: &Arc<Self>, actions: &'static [fn(&Self)]) {
        let spawn = |action: &'static fn(&Self)| {
            let pending = Arc::clone(self);
            thread::spawn(move || action(&pending))
        };
        let threads: Vec<_> = actions.iter().map(spawn).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    fn complete(&self) {
        self.store.complete(ID, Ok(7));
    }

    /// Polls as a ticket until the outcome is ready.
    fn wait(&self) {
        let waker = BlockingWaker::new();
        loop {
            match self.store.poll(ID, Waker::from(Arc::clone(&waker))) {
                Poll::Ready(outcome) => return self.count(Some(outcome)),
                Poll::Pending => waker.wait(),
            }
        }
    }

    /// Polls as a ticket once, and then drops it.
    fn poll_once_and_drop(&self) {
        match self.store.poll(ID, Waker::noop().clone()) {
            Poll::Ready(outcome) => self.count(Some(outcome)),
            Poll::Pending => self.store.detach(ID),
        }
    }

    fn take(&self) {
        self.count(self.store.take(ID));
    }

    fn drain(&self) {
        for outcome in self.store.drain().into_values() {
            self.count(Some(outcome));
        }
    }

    fn count(&self, outcome: Option<Outcome<u32>>) {
        if let Some(outcome) = outcome {
            assert_eq!(outcome, Ok(7));
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Checks with at most three preemptions; more pass as well, but take long.
fn model(check: impl Fn() + Send + Sync + 'static) {
    preempted(3, check);
}

/// Checks with at most `max` preemptions.
fn preempted(max: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(max);
    builder.check(check);
}

/// Runs the actions concurrently; then one outcome was taken, and its permit released.
fn check(actions: &'static [fn(&Pending)], is_taken: bool) {
    model(move || {
        let pending = Pending::new();
        pending.all_at_once(actions);
        if is_taken {
            assert_eq!(pending.taken(), 1);
        }
        pending.drain();
        assert_eq!((pending.taken(), pending.released.load(Ordering::Relaxed)), (1, 1));
        assert!(pending.store.copy().is_empty());
    });
}

#[test]
fn waiting_ticket_receives_outcome_before_takers() {
    check(&[Pending::complete, Pending::wait], true);
    check(&[Pending::complete, Pending::wait, Pending::take], true);
    check(&[Pending::complete, Pending::wait, Pending::drain], true);
}

#[test]
fn dropped_ticket_leaves_outcome_to_one_taker() {
    check(&[Pending::complete, |pending| pending.store.detach(ID)], false);
    check(&[Pending::complete, Pending::poll_once_and_drop, Pending::take], false);
    check(&[Pending::complete, Pending::poll_once_and_drop, Pending::drain], false);
    check(&[Pending::complete, Pending::take, Pending::drain, |p| p.store.detach(ID)], false);
}

#[test]
fn task_not_accepted_releases_permit_and_leaves_nothing() {
    model(|| {
        let pending = Pending::new();
        pending.all_at_once(&[|pending| pending.store.remove(ID), Pending::take, Pending::drain]);
        assert_eq!((pending.taken(), pending.released.load(Ordering::Relaxed)), (0, 1));
    });
}
