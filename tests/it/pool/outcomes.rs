//! Refused tasks, the storage of outcomes, and tasks that use their own pool or another one.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use hotbay::pool::{Outcome, Stopped, SubmitErrorKind, TaskError, WorkerPool};
use hotbay_tests::block_on;

use super::{GENEROUS, OccupiedWorker, PanicOnDrop, kind, mark_workers, pool};

#[test]
fn awaited_ticket_takes_outcome_from_store() {
    let pool = pool(2, 10, 10);
    let (first, second) = (pool.submit(|| 1).unwrap(), pool.submit(|| 2).unwrap());
    assert!(first.id() < second.id());
    let ids = [first.id(), second.id()];
    assert_eq!(block_on(first), Ok(1));
    assert_eq!(second.wait_timeout(GENEROUS).unwrap(), Ok(2));
    assert_eq!(ids.map(|id| pool.take(id)), [None, None]);
    assert_eq!(pool.stop(), Stopped::Joined);
    assert!(pool.drain().is_empty());
}

#[test]
fn ticket_reserves_outcome_until_dropped() {
    let pool = pool(1, 10, 10);
    let ticket = pool.submit(|| 7).unwrap();
    let id = ticket.id();
    pool.stop();
    assert!(pool.results().is_empty() && pool.drain().is_empty());
    assert_eq!(pool.take(id), None);
    drop(ticket);
    assert_eq!(pool.results().into_iter().collect::<Vec<_>>(), [(id, Ok(7))]);
}

#[test]
fn results_copies_and_only_take_and_drain_remove() {
    let pool = pool(1, 10, 10);
    let ids = [1, 2, 3].map(|number| pool.submit(move || vec![number]).unwrap().leave());
    pool.stop();
    let mut copy = pool.results();
    copy.get_mut(&ids[0]).unwrap().as_mut().unwrap().push(9);
    copy.remove(&ids[1]);
    assert_eq!(pool.take(ids[0]), Some(Ok(vec![1])));
    assert_eq!(pool.take(ids[0]), None);
    assert_eq!(pool.results().len(), 2);
    let drained: Vec<_> = pool.drain().into_iter().collect();
    assert_eq!(drained, [(ids[1], Ok(vec![2])), (ids[2], Ok(vec![3]))]);
    assert!(pool.results().is_empty());
}

#[test]
fn ticket_outlives_pool() {
    let pool = pool(1, 10, 10);
    let ticket = pool.submit(|| "done").unwrap();
    pool.stop();
    drop(pool);
    assert_eq!(ticket.wait(), Ok("done"));
}

#[test]
fn pool_without_workers_refuses_and_returns_tasks() {
    let pool = pool(0, 10, 10);
    let refused = pool.submit(|| 5).unwrap_err();
    assert_eq!(refused.kind(), SubmitErrorKind::NoWorkers);
    assert!(refused.to_string().contains("no workers"), "{refused}");
    assert_eq!(refused.into_task()(), 5);
    assert_eq!(kind(pool.submit_within(GENEROUS, || 5)), SubmitErrorKind::NoWorkers);
    assert_eq!(kind(block_on(pool.submit_waiting(|| 5))), SubmitErrorKind::NoWorkers);
    assert_eq!(pool.stop(), Stopped::Joined);
    assert_eq!(kind(pool.submit(|| 5)), SubmitErrorKind::Closed);
}

#[test]
fn full_queue_refuses_and_waiter_gets_freed_place() {
    let pool = pool(1, 1, 10);
    let occupied = OccupiedWorker::by(&pool);
    let queued = pool.submit(|| 1).unwrap();
    let refused = pool.submit(|| 2).unwrap_err();
    assert_eq!(refused.kind(), SubmitErrorKind::QueueFull);
    let refused = pool.submit_within(Duration::ZERO, refused.into_task()).unwrap_err();
    assert_eq!(refused.kind(), SubmitErrorKind::QueueFull);
    let waiting = thread::spawn({
        let pool = pool.clone();
        move || pool.submit_within(GENEROUS, refused.into_task()).unwrap().wait()
    });
    assert_eq!(occupied.release(), Ok(0));
    assert_eq!(queued.wait(), Ok(1));
    assert_eq!(waiting.join().unwrap(), Ok(2));
}

#[test]
fn full_store_refuses_new_tasks() {
    let pool = pool(1, 10, 2);
    let ids = [1, 2].map(|number| pool.submit(move || number).unwrap().leave());
    assert_eq!(kind(pool.submit(|| 3)), SubmitErrorKind::StoreFull);
    assert_eq!(kind(pool.submit_within(Duration::ZERO, || 3)), SubmitErrorKind::StoreFull);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(pool.submit_waiting(|| 3)).unwrap().wait());
        while pool.take(ids[0]).is_none() {
            thread::yield_now();
        }
        assert_eq!(waiting.join().unwrap(), Ok(3));
    });
    // The space of the awaited task is free again; that of the second is not.
    let ticket = pool.submit(|| 4).unwrap();
    assert_eq!(kind(pool.submit(|| 5)), SubmitErrorKind::StoreFull);
    assert_eq!(ticket.wait(), Ok(4));
    assert_eq!(pool.take(ids[1]), Some(Ok(2)));
}

#[test]
fn wait_for_impossible_place_ends_at_once() {
    let (queueless, storeless) = (pool(1, 0, 10), pool(1, 10, 0));
    for (pool, expected) in
        [(queueless, SubmitErrorKind::QueueFull), (storeless, SubmitErrorKind::StoreFull)]
    {
        assert_eq!(kind(pool.submit(|| 5)), expected);
        assert_eq!(kind(pool.submit_within(GENEROUS, || 5)), expected);
        assert_eq!(kind(block_on(pool.submit_waiting(|| 5))), expected);
    }
}

#[test]
fn dropped_wait_for_space_takes_none() {
    let pool = pool(1, 1, 10);
    let occupied = OccupiedWorker::by(&pool);
    let queued = pool.submit(|| 1).unwrap();
    {
        let mut waiting = pin!(pool.submit_waiting(|| 2));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(occupied.release(), Ok(0));
    assert_eq!(queued.wait(), Ok(1));
    assert_eq!(pool.submit(|| 3).unwrap().wait(), Ok(3));
}

#[test]
fn panicking_task_fails_alone() {
    let pool = pool(1, 10, 20);
    let mark = mark_workers(&pool, 1);
    type Task = fn() -> u32;
    let failing: [(Task, &str); 4] = [
        (|| std::panic::resume_unwind(Box::new("a text")), "a text"),
        (|| std::panic::resume_unwind(Box::new(String::from("a string"))), "a string"),
        (|| std::panic::resume_unwind(Box::new(7)), "not a string"),
        (|| std::panic::resume_unwind(Box::new(PanicOnDrop)), "not a string"),
    ];
    for (task, expected) in failing {
        let error = pool.submit(task).unwrap().wait().unwrap_err();
        assert!(matches!(error, TaskError::Panicked(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(pool.submit(|| 1).unwrap().wait(), Ok(1));
    }
    assert_eq!(Arc::strong_count(&mark), 2, "the worker survived");
}

#[test]
fn worker_waiting_for_its_own_pool_is_refused() {
    let pool = pool::<u32>(1, 10, 10);
    let (inside, (send, sent)) = (pool.clone(), mpsc::channel());
    let outer = pool.submit(move || {
        let inner = inside.submit(|| 1).unwrap();
        let id = inner.id();
        // With a timeout it may wait.
        let inner = inner.wait_timeout(Duration::ZERO).unwrap_err();
        send.send((id, inner.wait())).unwrap();
        2
    });
    let (id, refused): (_, Outcome<u32>) = sent.recv_timeout(GENEROUS).unwrap();
    assert_eq!(refused, Err(TaskError::WaitInside));
    assert_eq!(outer.unwrap().wait(), Ok(2));
    pool.stop();
    assert_eq!(pool.take(id), Some(Ok(1)), "the outcome stays in the store");
}

#[test]
fn worker_may_wait_for_ready_outcomes_and_other_pools() {
    let (pool, other) = (pool::<u32>(1, 10, 10), pool::<u32>(1, 10, 10));
    let done = pool.submit(|| 1).unwrap();
    assert_eq!(pool.submit(|| 0).unwrap().wait(), Ok(0), "the first task is done");
    let outer = pool.submit(move || {
        let there = done.wait().unwrap();
        let elsewhere = other.submit(|| 10).unwrap().wait().unwrap();
        assert_eq!(other.stop(), Stopped::Joined);
        there + elsewhere
    });
    assert_eq!(outer.unwrap().wait(), Ok(11));
}

/// Uses its pool when dropped or woken.
struct UsesPool(WorkerPool<UsesPool>);

impl Drop for UsesPool {
    fn drop(&mut self) {
        assert!(self.0.drain().is_empty());
    }
}

impl Wake for UsesPool {
    fn wake(self: Arc<Self>) {
        drop(self);
    }
}

#[test]
fn outcomes_and_wakers_may_use_pool_without_deadlock() {
    let pool = pool::<UsesPool>(1, 10, 10);
    let (go, release) = mpsc::channel::<()>();
    let (uses_pool, also_uses_pool) = (UsesPool(pool.clone()), UsesPool(pool.clone()));
    let ticket = pool.submit(move || {
        release.recv_timeout(GENEROUS).unwrap();
        uses_pool
    });
    let mut ticket = ticket.unwrap();
    let left = pool.submit(move || also_uses_pool).unwrap().leave();
    // The second waker replaces the first; the task wakes it.
    for _ in 0..2 {
        let waker = Waker::from(Arc::new(UsesPool(pool.clone())));
        assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    go.send(()).unwrap();
    pool.stop();
    assert!(matches!(pool.take(left), Some(Ok(UsesPool(_)))));
    assert!(matches!(ticket.wait(), Ok(UsesPool(_))));
}
