//! Tests of the queue: order, limits, epochs, deadlines and abandoned workers, with jobs that
//! report their outcome.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::AbandonOutcome;
use super::{
    DeadlineCheck, Epoch, Job, JobOutcome, NextJob, PushOutcome, Queue, QueueLimits, RejectReason,
    WaitLimits, WorkerId,
};

type Report = (u32, Option<RejectReason>);

struct ReportingJob {
    number: u32,
    reports: mpsc::Sender<Report>,
    is_cancelled: AtomicBool,
    due: Option<Instant>,
}

impl Job for ReportingJob {
    fn run(self: Arc<Self>, _: u64) -> JobOutcome {
        self.reports.send((self.number, None)).expect("a receiver");
        JobOutcome::Completed
    }

    fn reject(self: Arc<Self>, reason: RejectReason) {
        self.reports.send((self.number, Some(reason))).expect("a receiver");
    }

    fn panicked(self: Arc<Self>) {}

    fn is_active(&self) -> bool {
        !self.is_cancelled.load(Ordering::Relaxed)
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn check_deadline(self: Arc<Self>, _: Instant) -> DeadlineCheck {
        DeadlineCheck::Exceeded { remaining: None }
    }
}

struct Fixture {
    queue: Arc<Queue>,
    sender: mpsc::Sender<Report>,
    receiver: mpsc::Receiver<Report>,
}

const LIMITS: QueueLimits =
    QueueLimits { max_queued: 3, max_waiting_for_space: 2, max_replaced: 1 };

impl Fixture {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { queue: Arc::new(Queue::new()), sender, receiver }
    }

    fn job(&self, number: u32) -> Arc<ReportingJob> {
        self.job_due(number, None)
    }

    fn job_due(&self, number: u32, due: Option<Instant>) -> Arc<ReportingJob> {
        let reports = self.sender.clone();
        Arc::new(ReportingJob { number, reports, is_cancelled: AtomicBool::new(false), due })
    }

    fn push(&self, number: u32) -> PushOutcome {
        self.queue.push(self.job(number), WaitLimits::default()).0
    }

    fn run_next(&self, worker: WorkerId) {
        let job = self.queue.next(worker).0.job.expect("a job");
        assert_eq!(job.run(0), JobOutcome::Completed);
    }

    fn exits(&self, worker: WorkerId) -> bool {
        self.queue.next(worker).0.job.is_none()
    }

    fn reports(&self) -> Vec<Report> {
        self.receiver.try_iter().collect()
    }
}

#[test]
fn jobs_run_in_order_and_close_rejects_the_rest() {
    let fixture = Fixture::new();
    let (epoch, spawns) = fixture.queue.start_epoch(1, LIMITS);
    assert_eq!(spawns, 0);
    let worker = fixture.queue.register(epoch);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    assert_eq!(fixture.push(2), PushOutcome::Queued);
    assert_eq!(fixture.push(3), PushOutcome::Queued);
    assert_eq!(fixture.push(4), PushOutcome::Full);
    fixture.run_next(worker);
    fixture.queue.close();
    assert!(fixture.exits(worker));
    assert_eq!(fixture.push(5), PushOutcome::Closed);
    assert_eq!(fixture.queue.requeue(worker, fixture.job(6)), PushOutcome::Closed);
    let closed = Some(RejectReason::Closed);
    assert_eq!(fixture.reports(), [(1, None), (2, closed), (3, closed), (6, closed)]);
}

#[test]
fn drained_queue_runs_queued_jobs_before_workers_exit() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    fixture.queue.drain();
    assert_eq!(fixture.push(2), PushOutcome::Closed);
    assert!(!fixture.queue.wait_empty(Instant::now()));
    fixture.run_next(worker);
    assert!(fixture.exits(worker));
    assert!(fixture.queue.wait_empty(Instant::now()));
    assert_eq!(fixture.reports(), [(1, None)]);
}

#[test]
fn requeued_job_keeps_its_place_for_the_next_epoch() {
    let fixture = Fixture::new();
    let (first, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(first);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(first));
    assert_eq!(fixture.push(2), PushOutcome::Queued);
    let back = fixture.queue.next(worker).0.job.expect("a job");
    let (second, spawns) = fixture.queue.start_epoch(2, LIMITS);
    assert_eq!(spawns, 1);
    assert_eq!(fixture.queue.requeue(worker, back), PushOutcome::SpawnWorker(second));
    assert!(fixture.exits(worker), "workers of the previous epoch exit");
    let worker = fixture.queue.register(second);
    fixture.run_next(worker);
    fixture.run_next(worker);
    assert_eq!(fixture.reports(), [(1, None), (2, None)]);
}

#[test]
fn full_queue_drops_cancelled_jobs_and_lets_jobs_wait() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(0, LIMITS);
    let cancelled = fixture.job(1);
    assert_eq!(fixture.queue.push(cancelled.clone(), WaitLimits::default()).0, PushOutcome::Queued);
    assert_eq!((fixture.push(2), fixture.push(3)), (PushOutcome::Queued, PushOutcome::Queued));
    assert_eq!(fixture.push(4), PushOutcome::Full);
    cancelled.is_cancelled.store(true, Ordering::Relaxed);
    assert_eq!(fixture.push(5), PushOutcome::Queued);
    let now = Instant::now();
    let until = now + Duration::from_secs(60);
    let push_waiting = |number| {
        let wait_limits = WaitLimits { space_until: Some(until), ..WaitLimits::default() };
        fixture.queue.push(fixture.job(number), wait_limits)
    };
    assert_eq!(push_waiting(6), (PushOutcome::Queued, Some(until)));
    assert_eq!(push_waiting(7), (PushOutcome::Queued, None));
    assert_eq!(push_waiting(8).0, PushOutcome::Full);
    // The space that becomes free goes to the first job that waits for it.
    let worker = fixture.queue.register(epoch);
    fixture.run_next(worker);
    let due_jobs = fixture.queue.take_due(until);
    for (job, reason) in due_jobs.rejected {
        job.reject(reason);
    }
    assert_eq!(due_jobs.next_due, None);
    assert_eq!(fixture.reports(), [(2, None), (7, Some(RejectReason::QueueFull))]);
    assert_eq!(fixture.queue.queued(), 3);
}

#[test]
fn overdue_jobs_are_found_queued_or_running() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let push = |number, deadline, expires_at: Option<u64>| {
        let deadline = Some(at(deadline));
        let expires_at = expires_at.map(at);
        let wait_limits = WaitLimits { deadline, space_until: None, expires_at };
        fixture.queue.push(fixture.job_due(number, deadline), wait_limits).1
    };
    assert_eq!(push(1, 10, None), Some(at(10)));
    assert_eq!(push(2, 5, None), Some(at(5)));
    assert_eq!(push(3, 20, Some(6)), None);
    assert!(fixture.queue.next(worker).0.job.is_some());
    let due_jobs = fixture.queue.take_due(at(1));
    assert!(due_jobs.rejected.is_empty() && due_jobs.overdue.is_empty());
    assert_eq!(due_jobs.next_due, Some(at(5)));
    let due_jobs = fixture.queue.take_due(at(7));
    let reasons: Vec<_> = due_jobs.rejected.into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, [RejectReason::DeadlineExceeded, RejectReason::Expired]);
    assert_eq!(due_jobs.next_due, Some(at(10)));
    let due_jobs = fixture.queue.take_due(at(10));
    assert_eq!((due_jobs.overdue.len(), due_jobs.next_due), (1, None));
}

#[test]
fn abandoned_workers_are_replaced_up_to_limit_and_rejoin() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let workers = [fixture.queue.register(epoch), fixture.queue.register(epoch)];
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    let first = fixture.queue.next(workers[0]).0.job.expect("a job");
    assert_eq!(fixture.push(2), PushOutcome::Queued);
    let outcome = fixture.queue.abandon(&first, None);
    assert_eq!(outcome, AbandonOutcome { spawn_worker: Some(epoch), is_exhausted: true });
    let second = fixture.queue.next(workers[1]).0.job.expect("a job");
    assert_eq!(fixture.push(3), PushOutcome::Queued);
    // The maximum was replaced: no worker is left for the queued job.
    let outcome = fixture.queue.abandon(&second, None);
    assert_eq!(outcome, AbandonOutcome { spawn_worker: None, is_exhausted: true });
    assert_eq!(fixture.queue.running(), (2, 2));
    // It was replaced, so it exits.
    let (next, _) = fixture.queue.next(workers[0]);
    assert!(next.was_abandoned && next.job.is_none());
    assert!(!fixture.queue.is_exhausted());
    // This one was not replaced, so it continues.
    let (next, _) = fixture.queue.next(workers[1]);
    assert!(next.was_abandoned && next.job.is_some());
    let (next, _) = fixture.queue.next(fixture.queue.register(Epoch(0)));
    assert!(next.job.is_none());
}

#[test]
fn remainder_of_abandoned_job_runs_on_another_worker() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    let job = fixture.queue.next(worker).0.job.expect("a job");
    let outcome = fixture.queue.abandon(&job, Some(fixture.job(2)));
    assert_eq!(outcome.spawn_worker, Some(epoch));
    fixture.run_next(fixture.queue.register(epoch));
    fixture.queue.close();
    let _ = fixture.queue.abandon(&job, Some(fixture.job(3)));
    assert_eq!(fixture.reports(), [(2, None), (3, Some(RejectReason::Closed))]);
}

#[test]
fn jobs_run_exactly_once_across_workers_and_epochs() {
    let fixture = Fixture::new();
    let mut workers = Vec::new();
    let queue = &fixture.queue;
    let mut spawn_worker = |epoch| {
        let queue = Arc::clone(queue);
        workers.push(thread::spawn(move || {
            let worker = queue.register(epoch);
            while let (NextJob { job: Some(job), .. }, _) = queue.next(worker) {
                assert_eq!(job.run(0), JobOutcome::Completed);
            }
        }));
    };
    let limits = QueueLimits { max_queued: usize::MAX, ..LIMITS };
    for number in 0..1000 {
        if number % 100 == 0 {
            let (epoch, spawns) = queue.start_epoch(2, limits);
            (0..spawns).for_each(|_| spawn_worker(epoch));
        }
        if let PushOutcome::SpawnWorker(epoch) = fixture.push(number) {
            spawn_worker(epoch);
        }
    }
    let mut numbers: Vec<_> =
        fixture.receiver.iter().take(1000).map(|(number, _)| number).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..1000));
    queue.close();
    for worker in workers {
        worker.join().expect("no panic");
    }
}

#[test]
fn async_worker_exits_on_empty_queue_and_next_job_spawns_one() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    for round in [1, 3] {
        assert_eq!(fixture.push(round), PushOutcome::SpawnWorker(epoch));
        assert_eq!(fixture.push(round + 1), PushOutcome::Queued);
        for _ in 0..2 {
            let job = fixture.queue.try_next(worker).0.expect("a job");
            assert_eq!(job.run(0), JobOutcome::Completed);
        }
        assert_eq!(fixture.queue.running(), (1, 0));
        assert!(fixture.queue.try_next(worker).0.is_none());
        assert_eq!(fixture.queue.running(), (0, 0));
    }
    assert_eq!(fixture.reports(), [(1, None), (2, None), (3, None), (4, None)]);
}

#[test]
fn async_job_is_neither_timed_nor_abandoned_and_can_be_requeued() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    let now = Instant::now();
    let job: Arc<dyn Job> = fixture.job_due(1, Some(now));
    let _ = fixture.queue.push(Arc::clone(&job), WaitLimits::default());
    assert!(fixture.queue.try_next(worker).0.is_some());
    let due_jobs = fixture.queue.take_due(now);
    assert!(due_jobs.overdue.is_empty() && due_jobs.next_due.is_none());
    assert_eq!(fixture.queue.abandon(&job, None), AbandonOutcome::default());
    assert_eq!(fixture.queue.running(), (1, 0));
    assert_eq!(fixture.push(2), PushOutcome::Queued);
    assert_eq!(fixture.queue.requeue(worker, job), PushOutcome::Queued);
    fixture.queue.deregister(worker);
    assert_eq!(fixture.push(3), PushOutcome::SpawnWorker(epoch));
}

#[test]
fn resume_spawns_for_async_worker_that_exited_while_suspended() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(2, LIMITS);
    let worker = fixture.queue.register(epoch);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    fixture.queue.suspend();
    assert!(fixture.queue.try_next(worker).0.is_none());
    assert_eq!(fixture.queue.resume(), (epoch, 1));
    fixture.queue.drain();
    let job = fixture.queue.try_next(fixture.queue.register(epoch)).0.expect("a job");
    assert!(!fixture.queue.wait_empty(Instant::now()));
    fixture.queue.deregister(WorkerId { number: 2, ..worker });
    assert!(fixture.queue.wait_empty(Instant::now()));
    drop(job);
}
