//! The queue's promises: order, bounds, epochs, deadlines, lost workers; each with work that
//! says what became of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::AbandonOutcome;
use super::{
    DeadlineCheck, Epoch, Job, JobOutcome, NextJob, PushOutcome, Queue, QueueLimits, RejectReason,
    WaitLimits, WorkerId,
};

type Said = (u32, Option<RejectReason>);

struct Saying {
    number: u32,
    said: mpsc::Sender<Said>,
    unwanted: AtomicBool,
    due: Option<Instant>,
}

impl Job for Saying {
    fn run(self: Arc<Self>, _: u64) -> JobOutcome {
        self.said.send((self.number, None)).expect("a receiver");
        JobOutcome::Completed
    }

    fn reject(self: Arc<Self>, why: RejectReason) {
        self.said.send((self.number, Some(why))).expect("a receiver");
    }

    fn panicked(self: Arc<Self>) {}

    fn is_wanted(&self) -> bool {
        !self.unwanted.load(Ordering::Relaxed)
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
    said: mpsc::Sender<Said>,
    heard: mpsc::Receiver<Said>,
}

const LIMITS: QueueLimits =
    QueueLimits { max_queued: 3, max_waiting_for_space: 2, max_replaced: 1 };

impl Fixture {
    fn new() -> Self {
        let (said, heard) = mpsc::channel();
        Self { queue: Arc::new(Queue::new()), said, heard }
    }

    fn job(&self, number: u32) -> Arc<Saying> {
        self.work_until(number, None)
    }

    fn work_until(&self, number: u32, due: Option<Instant>) -> Arc<Saying> {
        let said = self.said.clone();
        Arc::new(Saying { number, said, unwanted: AtomicBool::new(false), due })
    }

    fn push(&self, number: u32) -> PushOutcome {
        self.queue.push(self.job(number), WaitLimits::default()).0
    }

    fn run_next(&self, worker: WorkerId) {
        let job = self.queue.next(worker).0.job.expect("work");
        assert_eq!(job.run(0), JobOutcome::Completed);
    }

    fn goes_home(&self, worker: WorkerId) -> bool {
        self.queue.next(worker).0.job.is_none()
    }

    fn told(&self) -> Vec<Said> {
        self.heard.try_iter().collect()
    }
}

#[test]
fn work_runs_in_order_and_what_is_left_at_the_close_is_told() {
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
    assert!(fixture.goes_home(worker));
    assert_eq!(fixture.push(5), PushOutcome::Closed);
    assert_eq!(fixture.queue.requeue(worker, fixture.job(6)), PushOutcome::Closed);
    let closed = Some(RejectReason::Closed);
    assert_eq!(fixture.told(), [(1, None), (2, closed), (3, closed), (6, closed)]);
}

#[test]
fn what_waits_is_done_before_a_finished_queue_lets_its_workers_go() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    fixture.queue.drain();
    assert_eq!(fixture.push(2), PushOutcome::Closed);
    assert!(!fixture.queue.wait_empty(Instant::now()));
    fixture.run_next(worker);
    assert!(fixture.goes_home(worker));
    assert!(fixture.queue.wait_empty(Instant::now()));
    assert_eq!(fixture.told(), [(1, None)]);
}

#[test]
fn work_that_is_handed_back_keeps_its_place_and_finds_workers_of_the_next_epoch() {
    let fixture = Fixture::new();
    let (first, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(first);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(first));
    assert_eq!(fixture.push(2), PushOutcome::Queued);
    let back = fixture.queue.next(worker).0.job.expect("work");
    let (second, spawns) = fixture.queue.start_epoch(2, LIMITS);
    assert_eq!(spawns, 1);
    assert_eq!(fixture.queue.requeue(worker, back), PushOutcome::SpawnWorker(second));
    assert!(fixture.goes_home(worker), "the workers before go home");
    let worker = fixture.queue.register(second);
    fixture.run_next(worker);
    fixture.run_next(worker);
    assert_eq!(fixture.told(), [(1, None), (2, None)]);
}

#[test]
fn a_full_queue_makes_room_for_what_is_wanted_and_lets_those_wait_that_may() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(0, LIMITS);
    let unwanted = fixture.job(1);
    assert_eq!(fixture.queue.push(unwanted.clone(), WaitLimits::default()).0, PushOutcome::Queued);
    assert_eq!((fixture.push(2), fixture.push(3)), (PushOutcome::Queued, PushOutcome::Queued));
    assert_eq!(fixture.push(4), PushOutcome::Full);
    unwanted.unwanted.store(true, Ordering::Relaxed);
    assert_eq!(fixture.push(5), PushOutcome::Queued);
    let now = Instant::now();
    let until = now + Duration::from_secs(60);
    let patient = |number| {
        let wait_limits = WaitLimits { space_until: Some(until), ..WaitLimits::default() };
        fixture.queue.push(fixture.job(number), wait_limits)
    };
    assert_eq!(patient(6), (PushOutcome::Queued, Some(until)));
    assert_eq!(patient(7), (PushOutcome::Queued, None));
    assert_eq!(patient(8).0, PushOutcome::Full);
    // One place is free now, for the first of those that wait for one.
    let worker = fixture.queue.register(epoch);
    fixture.run_next(worker);
    let looked = fixture.queue.take_due(until);
    for (job, why) in looked.rejected {
        job.reject(why);
    }
    assert_eq!(looked.next_due, None);
    assert_eq!(fixture.told(), [(2, None), (7, Some(RejectReason::QueueFull))]);
    assert_eq!(fixture.queue.queued(), 3);
}

#[test]
fn what_is_late_is_told_whether_it_waits_or_runs() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let push = |number, late, old: Option<u64>| {
        let late = Some(at(late));
        let wait_limits = WaitLimits { deadline: late, space_until: None, expires_at: old.map(at) };
        fixture.queue.push(fixture.work_until(number, late), wait_limits).1
    };
    assert_eq!(push(1, 10, None), Some(at(10)));
    assert_eq!(push(2, 5, None), Some(at(5)));
    assert_eq!(push(3, 20, Some(6)), None);
    assert!(fixture.queue.next(worker).0.job.is_some());
    let looked = fixture.queue.take_due(at(1));
    assert!(looked.rejected.is_empty() && looked.overdue.is_empty());
    assert_eq!(looked.next_due, Some(at(5)));
    let looked = fixture.queue.take_due(at(7));
    let never: Vec<_> = looked.rejected.into_iter().map(|(_, why)| why).collect();
    assert_eq!(never, [RejectReason::DeadlineExceeded, RejectReason::Expired]);
    assert_eq!(looked.next_due, Some(at(10)));
    let looked = fixture.queue.take_due(at(10));
    assert_eq!((looked.overdue.len(), looked.next_due), (1, None));
}

#[test]
fn lost_workers_are_replaced_a_limited_number_of_times_and_welcome_when_they_come_back() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let seats = [fixture.queue.register(epoch), fixture.queue.register(epoch)];
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    let first = fixture.queue.next(seats[0]).0.job.expect("work");
    assert_eq!(fixture.push(2), PushOutcome::Queued);
    let given_up = fixture.queue.abandon(&first, None);
    assert_eq!(given_up, AbandonOutcome { spawn_worker: Some(epoch), is_exhausted: true });
    let second = fixture.queue.next(seats[1]).0.job.expect("work");
    assert_eq!(fixture.push(3), PushOutcome::Queued);
    // As many are replaced as may be: nobody does what waits.
    let given_up = fixture.queue.abandon(&second, None);
    assert_eq!(given_up, AbandonOutcome { spawn_worker: None, is_exhausted: true });
    assert_eq!(fixture.queue.running(), (2, 2));
    // Its place is taken, so it goes home.
    let (taken, _) = fixture.queue.next(seats[0]);
    assert!(taken.was_abandoned && taken.job.is_none());
    assert!(!fixture.queue.is_exhausted());
    // This one was never replaced, so it goes on.
    let (taken, _) = fixture.queue.next(seats[1]);
    assert!(taken.was_abandoned && taken.job.is_some());
    let (taken, _) = fixture.queue.next(fixture.queue.register(Epoch(0)));
    assert!(taken.job.is_none());
}

#[test]
fn the_rest_of_lost_work_is_done_by_somebody_else() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    let job = fixture.queue.next(worker).0.job.expect("work");
    let given_up = fixture.queue.abandon(&job, Some(fixture.job(2)));
    assert_eq!(given_up.spawn_worker, Some(epoch));
    fixture.run_next(fixture.queue.register(epoch));
    fixture.queue.close();
    let _ = fixture.queue.abandon(&job, Some(fixture.job(3)));
    assert_eq!(fixture.told(), [(2, None), (3, Some(RejectReason::Closed))]);
}

#[test]
fn no_work_is_lost_or_done_twice_by_many_workers_of_changing_epochs() {
    let fixture = Fixture::new();
    let mut workers = Vec::new();
    let queue = &fixture.queue;
    let mut hire = |epoch| {
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
            (0..spawns).for_each(|_| hire(epoch));
        }
        if let PushOutcome::SpawnWorker(epoch) = fixture.push(number) {
            hire(epoch);
        }
    }
    let mut seen: Vec<_> = fixture.heard.iter().take(1000).map(|(number, _)| number).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..1000));
    queue.close();
    for worker in workers {
        worker.join().expect("no panic");
    }
}

#[test]
fn a_worker_without_a_thread_goes_home_when_nothing_waits_and_the_next_work_hires_another() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    for round in [1, 3] {
        assert_eq!(fixture.push(round), PushOutcome::SpawnWorker(epoch));
        assert_eq!(fixture.push(round + 1), PushOutcome::Queued);
        for _ in 0..2 {
            let job = fixture.queue.try_next(worker).expect("work");
            assert_eq!(job.run(0), JobOutcome::Completed);
        }
        assert_eq!(fixture.queue.running(), (1, 0));
        assert!(fixture.queue.try_next(worker).is_none());
        assert_eq!(fixture.queue.running(), (0, 0));
    }
    assert_eq!(fixture.told(), [(1, None), (2, None), (3, None), (4, None)]);
}

#[test]
fn work_without_a_thread_is_neither_looked_at_nor_given_up_and_what_it_left_is_for_others() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(1, LIMITS);
    let worker = fixture.queue.register(epoch);
    let now = Instant::now();
    let job: Arc<dyn Job> = fixture.work_until(1, Some(now));
    let _ = fixture.queue.push(Arc::clone(&job), WaitLimits::default());
    assert!(fixture.queue.try_next(worker).is_some());
    let looked = fixture.queue.take_due(now);
    assert!(looked.overdue.is_empty() && looked.next_due.is_none());
    assert_eq!(fixture.queue.abandon(&job, None), AbandonOutcome::default());
    assert_eq!(fixture.queue.running(), (1, 0));
    assert_eq!(fixture.push(2), PushOutcome::Queued);
    assert_eq!(fixture.queue.requeue(worker, job), PushOutcome::Queued);
    fixture.queue.deregister(worker);
    assert_eq!(fixture.push(3), PushOutcome::SpawnWorker(epoch));
}

#[test]
fn what_a_worker_without_a_thread_leaves_while_nobody_begins_anything_hires_when_that_is_over() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.start_epoch(2, LIMITS);
    let worker = fixture.queue.register(epoch);
    assert_eq!(fixture.push(1), PushOutcome::SpawnWorker(epoch));
    fixture.queue.suspend();
    assert!(fixture.queue.try_next(worker).is_none());
    assert_eq!(fixture.queue.resume(), (epoch, 1));
    fixture.queue.drain();
    let job = fixture.queue.try_next(fixture.queue.register(epoch)).expect("work");
    assert!(!fixture.queue.wait_empty(Instant::now()));
    fixture.queue.deregister(WorkerId { number: 2, ..worker });
    assert!(fixture.queue.wait_empty(Instant::now()));
    drop(job);
}
