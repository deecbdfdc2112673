//! The public worker pool: helpers shared by its tests.

mod concurrent;
mod outcomes;
mod shutdown;

use std::cell::RefCell;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use hotbay::CancellationToken;
use hotbay::pool::{Outcome, PoolLimits, SubmitError, SubmitErrorKind, TaskTicket, WorkerPool};

/// Longer than any wait of these tests.
const GENEROUS: Duration = Duration::from_secs(60);

fn limits(workers: u32, max_queued_calls: u32, max_results: u32) -> PoolLimits {
    let mut limits = PoolLimits::default();
    (limits.workers, limits.max_queued_calls, limits.max_results) =
        (workers, max_queued_calls, max_results);
    limits
}

fn pool<T: Send>(workers: u32, max_queued_calls: u32, max_results: u32) -> WorkerPool<T> {
    WorkerPool::new(limits(workers, max_queued_calls, max_results), &CancellationToken::new())
        .unwrap()
}

/// A worker occupied by a task until the test releases it.
struct OccupiedWorker {
    go: Sender<()>,
    ticket: TaskTicket<u32>,
}

impl OccupiedWorker {
    fn by(pool: &WorkerPool<u32>) -> Self {
        let (go, release) = mpsc::channel();
        let (enter, entered) = mpsc::channel();
        let task = move || {
            enter.send(()).unwrap();
            // Released, or dropped.
            let _ = release.recv_timeout(GENEROUS);
            0
        };
        let ticket = pool.submit(task).unwrap();
        entered.recv_timeout(GENEROUS).unwrap();
        Self { go, ticket }
    }

    fn release(self) -> Outcome<u32> {
        self.go.send(()).unwrap();
        self.ticket.wait()
    }
}

/// Panics when dropped.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        if !thread::panicking() {
            std::panic::panic_any("dropped");
        }
    }
}

/// Marks each worker of a pool; the mark is dropped when the thread exits.
fn mark_workers(pool: &WorkerPool<u32>, workers: usize) -> Arc<()> {
    thread_local! {
        static MARK: RefCell<Option<Arc<()>>> = const { RefCell::new(None) };
    }
    let (mark, all) = (Arc::new(()), Arc::new(Barrier::new(workers)));
    let tickets: Vec<_> = (0..workers)
        .map(|_| {
            let (mark, all) = (Arc::clone(&mark), Arc::clone(&all));
            let task = move || {
                MARK.set(Some(mark));
                all.wait();
                0
            };
            pool.submit(task).unwrap()
        })
        .collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(Arc::strong_count(&mark), 1 + workers);
    mark
}

fn kind<T, F>(refused: Result<TaskTicket<T>, SubmitError<F>>) -> SubmitErrorKind {
    refused.unwrap_err().kind()
}
