//! The end of a pool: by `stop`, by `cancel`, by its token, or by dropping the last handle.

use std::pin::pin;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use hotbay::CancellationToken;
use hotbay::pool::{PoolLimits, Stopped, SubmitErrorKind, TaskError, TaskTicket, WorkerPool};
use hotbay_tests::{LIMIT, block_on, until};

use super::{GENEROUS, OccupiedWorker, PanicOnDrop, kind, limits, mark_workers, pool};

#[test]
fn task_after_pool_stop_is_refused() {
    type End = fn(&WorkerPool<u32>);
    let ends: [End; 3] =
        [|pool| _ = pool.stop(), |pool| _ = pool.cancel(), |pool| pool.token().cancel()];
    for (number, end) in ends.into_iter().enumerate() {
        let pool = pool(1, 10, 10);
        end(&pool);
        let refused = [
            kind(pool.submit(|| 5)),
            kind(pool.submit_within(GENEROUS, || 5)),
            kind(block_on(pool.submit_waiting(|| 5))),
        ];
        assert_eq!(refused, [SubmitErrorKind::Closed; 3], "end {number}");
    }
}

#[test]
fn pool_with_cancelled_token_is_closed() {
    let token = CancellationToken::new();
    token.cancel();
    let pool = WorkerPool::<u32>::new(limits(2, 10, 10), &token).unwrap();
    assert_eq!(kind(pool.submit(|| 5)), SubmitErrorKind::Closed);
    assert_eq!(pool.stop(), Stopped::Joined);
}

#[test]
fn waiting_submitter_is_refused_when_pool_stops() {
    let pool = pool(1, 1, 10);
    let occupied = OccupiedWorker::by(&pool);
    let queued = pool.submit(|| 1).unwrap();
    let mut waiting = pin!(pool.submit_waiting(|| 2));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    pool.token().cancel();
    assert_eq!(kind(block_on(waiting)), SubmitErrorKind::Closed);
    assert_eq!(queued.wait(), Err(TaskError::NeverRan));
    assert_eq!(occupied.release(), Ok(0));
}

#[test]
fn submitter_waiting_for_result_space_is_refused_at_stop() {
    for end in [WorkerPool::stop, WorkerPool::cancel] {
        let pool = pool(1, 10, 1);
        let left = pool.submit(|| 1).unwrap().leave();
        let mut waiting = pin!(pool.submit_waiting(|| 2));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        end(&pool);
        assert_eq!(kind(block_on(waiting)), SubmitErrorKind::Closed);
        assert!(pool.take(left).is_some());
    }
}

#[test]
fn concurrent_stops_finish_queue_and_leave_no_threads() {
    let pool = pool(3, 100, 200);
    let mark = mark_workers(&pool, 3);
    let tickets: Vec<_> = (0..100).map(|number| pool.submit(move || number).unwrap()).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(pool.stop(), Stopped::Joined);
                assert_eq!(Arc::strong_count(&mark), 1, "all threads have exited");
            });
        }
    });
    for (number, ticket) in (0..).zip(tickets) {
        assert_eq!(ticket.wait_timeout(Duration::ZERO).unwrap(), Ok(number));
    }
    assert_eq!((pool.stop(), pool.cancel()), (Stopped::Joined, Stopped::Joined));
}

#[test]
fn stop_inside_task_is_reported_and_stops_pool() {
    let pool = pool::<Stopped>(1, 10, 10);
    let stops: [fn(&WorkerPool<Stopped>) -> Stopped; 2] = [WorkerPool::stop, WorkerPool::cancel];
    let (go, release) = mpsc::channel::<()>();
    let first = pool.submit(move || {
        release.recv_timeout(GENEROUS).unwrap();
        Stopped::Joined
    });
    let tickets = stops.map(|stop| {
        let inside = pool.clone();
        pool.submit(move || stop(&inside)).unwrap()
    });
    let last = pool.submit(|| Stopped::Joined).unwrap();
    go.send(()).unwrap();
    assert_eq!(first.unwrap().wait(), Ok(Stopped::Joined));
    // `stop` lets the tasks behind it run; `cancel` then rejects the last one.
    let [stopped, cancelled] = tickets.map(TaskTicket::wait);
    assert_eq!((stopped, cancelled), (Ok(Stopped::FromInside), Ok(Stopped::FromInside)));
    assert_eq!(last.wait(), Err(TaskError::NeverRan));
    assert_eq!(pool.stop(), Stopped::Joined);
}

#[test]
fn cancel_rejects_waiting_tasks_and_awaits_running() {
    let pool = pool(1, 10, 20);
    let mark = mark_workers(&pool, 1);
    let occupied = OccupiedWorker::by(&pool);
    let waiting = [1, 2].map(|number| pool.submit(move || number).unwrap());
    let left = pool.submit(|| 3).unwrap().leave();
    thread::scope(|scope| {
        let cancel = scope.spawn(|| pool.cancel());
        for ticket in waiting {
            assert_eq!(ticket.wait(), Err(TaskError::NeverRan));
        }
        assert!(!cancel.is_finished(), "one task still runs");
        assert_eq!(occupied.release(), Ok(0));
        assert_eq!(cancel.join().unwrap(), Stopped::Joined);
    });
    assert_eq!(Arc::strong_count(&mark), 1, "the thread has exited");
    assert_eq!(pool.take(left), Some(Err(TaskError::NeverRan)));
}

#[test]
fn caller_token_ends_pool_and_nothing_else() {
    let token = CancellationToken::new();
    let other = WorkerPool::<u32>::new(limits(1, 10, 10), &token).unwrap();
    assert_eq!(other.cancel(), Stopped::Joined);
    assert!(!token.is_cancelled());

    let pool = WorkerPool::new(limits(2, 10, 10), &token).unwrap();
    let mark = mark_workers(&pool, 2);
    let (occupied, also_occupied) = (OccupiedWorker::by(&pool), OccupiedWorker::by(&pool));
    let waiting = pool.submit(|| 1).unwrap();
    token.cancel();
    // Reported at once, although no worker is free.
    assert_eq!(waiting.wait_timeout(Duration::ZERO).unwrap(), Err(TaskError::NeverRan));
    assert!(pool.token().is_cancelled());
    assert_eq!((occupied.release(), also_occupied.release()), (Ok(0), Ok(0)));
    until("the threads exit", || (Arc::strong_count(&mark) == 1).then_some(()));
}

#[test]
fn running_task_sees_cancel_through_pool_token() {
    let pool = pool(1, 10, 10);
    let (token, (enter, entered)) = (pool.token(), mpsc::channel());
    let polls = pool.submit(move || {
        enter.send(()).unwrap();
        block_on(token.cancelled());
        5
    });
    entered.recv_timeout(GENEROUS).unwrap();
    assert_eq!(pool.cancel(), Stopped::Joined);
    assert_eq!(polls.unwrap().wait(), Ok(5));
}

#[test]
fn tasks_panicking_on_drop_block_no_notification() {
    let pool = pool(1, 10, 10);
    let occupied = OccupiedWorker::by(&pool);
    let waiting = [1, 2].map(|number| {
        let grenade = PanicOnDrop;
        let task = move || {
            let _grenade = grenade;
            number
        };
        pool.submit(task).unwrap()
    });
    pool.token().cancel();
    for ticket in waiting {
        assert_eq!(ticket.wait(), Err(TaskError::NeverRan));
    }
    assert_eq!(occupied.release(), Ok(0));
}

#[test]
fn last_handle_drop_cancels_and_joins_threads() {
    let pool = pool(1, 10, 10);
    let mark = mark_workers(&pool, 1);
    let occupied = OccupiedWorker::by(&pool);
    let waiting = pool.submit(|| 1).unwrap();
    drop(pool.clone());
    assert!(!pool.token().is_cancelled());
    let dropping = thread::spawn(move || drop(pool));
    assert_eq!(waiting.wait(), Err(TaskError::NeverRan));
    assert_eq!(occupied.release(), Ok(0));
    dropping.join().unwrap();
    assert_eq!(Arc::strong_count(&mark), 1);
}

#[test]
fn task_may_drop_last_handle_of_its_pool() {
    let pool = pool(2, 10, 10);
    let mark = mark_workers(&pool, 2);
    let (give, given): (_, Receiver<WorkerPool<u32>>) = mpsc::channel();
    let ticket = pool.submit(move || {
        drop(given.recv_timeout(GENEROUS).unwrap());
        1
    });
    give.send(pool).unwrap();
    assert_eq!(ticket.unwrap().wait(), Ok(1));
    until("the threads exit", || (Arc::strong_count(&mark) == 1).then_some(()));
}

#[test]
fn unrun_task_may_hold_last_handle_and_token() {
    let token = CancellationToken::new();
    let pool = WorkerPool::new(limits(1, 10, 10), &token).unwrap();
    let mark = mark_workers(&pool, 1);
    let occupied = OccupiedWorker::by(&pool);
    let waiting = {
        let (pool, token) = (pool.clone(), token.clone());
        pool.clone().submit(move || {
            token.cancel();
            drop(pool);
            1
        })
    };
    drop(pool);
    // Drops the task, which drops the pool on this thread; that must not wait for running tasks.
    token.cancel();
    assert_eq!(waiting.unwrap().wait(), Err(TaskError::NeverRan));
    assert_eq!(occupied.release(), Ok(0));
    until("the thread exits", || (Arc::strong_count(&mark) == 1).then_some(()));
}

/// Stops a pool when dropped, and sends the outcome.
struct StopsOnDrop(WorkerPool<u32>, mpsc::Sender<Stopped>);

impl Drop for StopsOnDrop {
    fn drop(&mut self) {
        let _ = self.1.send(self.0.stop());
    }
}

#[test]
fn pool_stop_through_another_pool_reports_inside() {
    let mut limits = PoolLimits::default();
    limits.workers = 1;
    let pool = || WorkerPool::<u32>::new(limits.clone(), &CancellationToken::new()).unwrap();
    let (first, second) = (pool(), pool());
    let (enter, entered) = mpsc::channel::<()>();
    let (go, may_go) = mpsc::channel::<()>();
    let held = second.submit(move || {
        enter.send(()).unwrap();
        may_go.recv_timeout(LIMIT).unwrap();
        1
    });
    entered.recv_timeout(LIMIT).unwrap();
    let (sender, receiver) = mpsc::channel();
    let stops = StopsOnDrop(first.clone(), sender);
    let never = second.submit(move || {
        drop(stops);
        2
    });
    let token = second.token();
    let ends = first.submit(move || {
        // Drops the waiting tasks on this thread.
        token.cancel();
        3
    });
    assert_eq!(receiver.recv_timeout(LIMIT), Ok(Stopped::FromInside));
    assert_eq!(ends.unwrap().wait(), Ok(3));
    assert_eq!(first.stop(), Stopped::Joined);
    go.send(()).unwrap();
    assert_eq!(held.unwrap().wait(), Ok(1));
    assert_eq!(never.unwrap().wait(), Err(TaskError::NeverRan));
}
