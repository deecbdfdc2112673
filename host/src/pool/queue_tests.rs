//! The queue's promises: order, bounds, epochs, deadlines, lost workers; each with work that
//! says what became of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::GivenUp;
use super::{Epoch, Never, Overrun, Patience, Pushed, Queue, QueueLimits, Ran, Seat, Taken, Work};

type Said = (u32, Option<Never>);

struct Saying {
    number: u32,
    said: mpsc::Sender<Said>,
    unwanted: AtomicBool,
    due: Option<Instant>,
}

impl Work for Saying {
    fn run(self: Arc<Self>, _: u64) -> Ran {
        self.said.send((self.number, None)).expect("a receiver");
        Ran::Done
    }

    fn never(self: Arc<Self>, why: Never) {
        self.said.send((self.number, Some(why))).expect("a receiver");
    }

    fn broke(self: Arc<Self>) {}

    fn is_wanted(&self) -> bool {
        !self.unwanted.load(Ordering::Relaxed)
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn overrun(self: Arc<Self>, _: Instant) -> Overrun {
        Overrun::Late { rest: None }
    }
}

struct Fixture {
    queue: Arc<Queue>,
    said: mpsc::Sender<Said>,
    heard: mpsc::Receiver<Said>,
}

const LIMITS: QueueLimits = QueueLimits { places: 3, outside: 2, replaced: 1 };

impl Fixture {
    fn new() -> Self {
        let (said, heard) = mpsc::channel();
        Self { queue: Arc::new(Queue::new()), said, heard }
    }

    fn work(&self, number: u32) -> Arc<Saying> {
        self.work_until(number, None)
    }

    fn work_until(&self, number: u32, due: Option<Instant>) -> Arc<Saying> {
        let said = self.said.clone();
        Arc::new(Saying { number, said, unwanted: AtomicBool::new(false), due })
    }

    fn push(&self, number: u32) -> Pushed {
        self.queue.push(self.work(number), Patience::default()).0
    }

    fn run_next(&self, seat: Seat) {
        let work = self.queue.take(seat).0.work.expect("work");
        assert_eq!(work.run(0), Ran::Done);
    }

    fn goes_home(&self, seat: Seat) -> bool {
        self.queue.take(seat).0.work.is_none()
    }

    fn told(&self) -> Vec<Said> {
        self.heard.try_iter().collect()
    }
}

#[test]
fn work_runs_in_order_and_what_is_left_at_the_close_is_told() {
    let fixture = Fixture::new();
    let (epoch, hires) = fixture.queue.begin(1, LIMITS);
    assert_eq!(hires, 0);
    let seat = fixture.queue.sit(epoch);
    assert_eq!(fixture.push(1), Pushed::Hire(epoch));
    assert_eq!(fixture.push(2), Pushed::Waits);
    assert_eq!(fixture.push(3), Pushed::Waits);
    assert_eq!(fixture.push(4), Pushed::Full);
    fixture.run_next(seat);
    fixture.queue.close();
    assert!(fixture.goes_home(seat));
    assert_eq!(fixture.push(5), Pushed::Closed);
    assert_eq!(fixture.queue.hand_back(seat, fixture.work(6)), Pushed::Closed);
    let closed = Some(Never::Closed);
    assert_eq!(fixture.told(), [(1, None), (2, closed), (3, closed), (6, closed)]);
}

#[test]
fn what_waits_is_done_before_a_finished_queue_lets_its_workers_go() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.begin(1, LIMITS);
    let seat = fixture.queue.sit(epoch);
    assert_eq!(fixture.push(1), Pushed::Hire(epoch));
    fixture.queue.finish();
    assert_eq!(fixture.push(2), Pushed::Closed);
    assert!(!fixture.queue.wait_empty(Instant::now()));
    fixture.run_next(seat);
    assert!(fixture.goes_home(seat));
    assert!(fixture.queue.wait_empty(Instant::now()));
    assert_eq!(fixture.told(), [(1, None)]);
}

#[test]
fn work_that_is_handed_back_keeps_its_place_and_finds_workers_of_the_next_epoch() {
    let fixture = Fixture::new();
    let (first, _) = fixture.queue.begin(1, LIMITS);
    let seat = fixture.queue.sit(first);
    assert_eq!(fixture.push(1), Pushed::Hire(first));
    assert_eq!(fixture.push(2), Pushed::Waits);
    let back = fixture.queue.take(seat).0.work.expect("work");
    let (second, hires) = fixture.queue.begin(2, LIMITS);
    assert_eq!(hires, 1);
    assert_eq!(fixture.queue.hand_back(seat, back), Pushed::Hire(second));
    assert!(fixture.goes_home(seat), "the workers before go home");
    let seat = fixture.queue.sit(second);
    fixture.run_next(seat);
    fixture.run_next(seat);
    assert_eq!(fixture.told(), [(1, None), (2, None)]);
}

#[test]
fn a_full_queue_makes_room_for_what_is_wanted_and_lets_those_wait_that_may() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.begin(0, LIMITS);
    let unwanted = fixture.work(1);
    assert_eq!(fixture.queue.push(unwanted.clone(), Patience::default()).0, Pushed::Waits);
    assert_eq!((fixture.push(2), fixture.push(3)), (Pushed::Waits, Pushed::Waits));
    assert_eq!(fixture.push(4), Pushed::Full);
    unwanted.unwanted.store(true, Ordering::Relaxed);
    assert_eq!(fixture.push(5), Pushed::Waits);
    let now = Instant::now();
    let until = now + Duration::from_secs(60);
    let patient = |number| {
        let patience = Patience { place: Some(until), ..Patience::default() };
        fixture.queue.push(fixture.work(number), patience)
    };
    assert_eq!(patient(6), (Pushed::Waits, Some(until)));
    assert_eq!(patient(7), (Pushed::Waits, None));
    assert_eq!(patient(8).0, Pushed::Full);
    // One place is free now, for the first of those that wait for one.
    let seat = fixture.queue.sit(epoch);
    fixture.run_next(seat);
    let looked = fixture.queue.look(until);
    for (work, why) in looked.never {
        work.never(why);
    }
    assert_eq!(looked.next, None);
    assert_eq!(fixture.told(), [(2, None), (7, Some(Never::NoPlace))]);
    assert_eq!(fixture.queue.waiting(), 3);
}

#[test]
fn what_is_late_is_told_whether_it_waits_or_runs() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.begin(1, LIMITS);
    let seat = fixture.queue.sit(epoch);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let push = |number, late, old: Option<u64>| {
        let late = Some(at(late));
        let patience = Patience { late, place: None, old: old.map(at) };
        fixture.queue.push(fixture.work_until(number, late), patience).1
    };
    assert_eq!(push(1, 10, None), Some(at(10)));
    assert_eq!(push(2, 5, None), Some(at(5)));
    assert_eq!(push(3, 20, Some(6)), None);
    assert!(fixture.queue.take(seat).0.work.is_some());
    let looked = fixture.queue.look(at(1));
    assert!(looked.never.is_empty() && looked.late.is_empty());
    assert_eq!(looked.next, Some(at(5)));
    let looked = fixture.queue.look(at(7));
    let never: Vec<_> = looked.never.into_iter().map(|(_, why)| why).collect();
    assert_eq!(never, [Never::Late, Never::TooOld]);
    assert_eq!(looked.next, Some(at(10)));
    let looked = fixture.queue.look(at(10));
    assert_eq!((looked.late.len(), looked.next), (1, None));
}

#[test]
fn lost_workers_are_replaced_a_limited_number_of_times_and_welcome_when_they_come_back() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.begin(1, LIMITS);
    let seats = [fixture.queue.sit(epoch), fixture.queue.sit(epoch)];
    assert_eq!(fixture.push(1), Pushed::Hire(epoch));
    let first = fixture.queue.take(seats[0]).0.work.expect("work");
    assert_eq!(fixture.push(2), Pushed::Waits);
    let given_up = fixture.queue.give_up(&first, None);
    assert_eq!(given_up, GivenUp { hire: Some(epoch), is_stuck: true });
    let second = fixture.queue.take(seats[1]).0.work.expect("work");
    assert_eq!(fixture.push(3), Pushed::Waits);
    // As many are replaced as may be: nobody does what waits.
    let given_up = fixture.queue.give_up(&second, None);
    assert_eq!(given_up, GivenUp { hire: None, is_stuck: true });
    assert_eq!(fixture.queue.running(), (2, 2));
    // Its place is taken, so it goes home.
    let (taken, _) = fixture.queue.take(seats[0]);
    assert!(taken.was_lost && taken.work.is_none());
    assert!(!fixture.queue.is_stuck());
    // This one was never replaced, so it goes on.
    let (taken, _) = fixture.queue.take(seats[1]);
    assert!(taken.was_lost && taken.work.is_some());
    let (taken, _) = fixture.queue.take(fixture.queue.sit(Epoch(0)));
    assert!(taken.work.is_none());
}

#[test]
fn the_rest_of_lost_work_is_done_by_somebody_else() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.begin(1, LIMITS);
    let seat = fixture.queue.sit(epoch);
    assert_eq!(fixture.push(1), Pushed::Hire(epoch));
    let work = fixture.queue.take(seat).0.work.expect("work");
    let given_up = fixture.queue.give_up(&work, Some(fixture.work(2)));
    assert_eq!(given_up.hire, Some(epoch));
    fixture.run_next(fixture.queue.sit(epoch));
    fixture.queue.close();
    let _ = fixture.queue.give_up(&work, Some(fixture.work(3)));
    assert_eq!(fixture.told(), [(2, None), (3, Some(Never::Closed))]);
}

#[test]
fn no_work_is_lost_or_done_twice_by_many_workers_of_changing_epochs() {
    let fixture = Fixture::new();
    let mut workers = Vec::new();
    let queue = &fixture.queue;
    let mut hire = |epoch| {
        let queue = Arc::clone(queue);
        workers.push(thread::spawn(move || {
            let seat = queue.sit(epoch);
            while let (Taken { work: Some(work), .. }, _) = queue.take(seat) {
                assert_eq!(work.run(0), Ran::Done);
            }
        }));
    };
    let limits = QueueLimits { places: usize::MAX, ..LIMITS };
    for number in 0..1000 {
        if number % 100 == 0 {
            let (epoch, hires) = queue.begin(2, limits);
            (0..hires).for_each(|_| hire(epoch));
        }
        if let Pushed::Hire(epoch) = fixture.push(number) {
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
    let (epoch, _) = fixture.queue.begin(1, LIMITS);
    let seat = fixture.queue.sit(epoch);
    for round in [1, 3] {
        assert_eq!(fixture.push(round), Pushed::Hire(epoch));
        assert_eq!(fixture.push(round + 1), Pushed::Waits);
        for _ in 0..2 {
            let work = fixture.queue.take_now(seat).expect("work");
            assert_eq!(work.run(0), Ran::Done);
        }
        assert_eq!(fixture.queue.running(), (1, 0));
        assert!(fixture.queue.take_now(seat).is_none());
        assert_eq!(fixture.queue.running(), (0, 0));
    }
    assert_eq!(fixture.told(), [(1, None), (2, None), (3, None), (4, None)]);
}

#[test]
fn work_without_a_thread_is_neither_looked_at_nor_given_up_and_what_it_left_is_for_others() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.begin(1, LIMITS);
    let seat = fixture.queue.sit(epoch);
    let now = Instant::now();
    let work: Arc<dyn Work> = fixture.work_until(1, Some(now));
    let _ = fixture.queue.push(Arc::clone(&work), Patience::default());
    assert!(fixture.queue.take_now(seat).is_some());
    let looked = fixture.queue.look(now);
    assert!(looked.late.is_empty() && looked.next.is_none());
    assert_eq!(fixture.queue.give_up(&work, None), GivenUp::default());
    assert_eq!(fixture.queue.running(), (1, 0));
    assert_eq!(fixture.push(2), Pushed::Waits);
    assert_eq!(fixture.queue.hand_back(seat, work), Pushed::Waits);
    fixture.queue.leave(seat);
    assert_eq!(fixture.push(3), Pushed::Hire(epoch));
}

#[test]
fn what_a_worker_without_a_thread_leaves_while_nobody_begins_anything_hires_when_that_is_over() {
    let fixture = Fixture::new();
    let (epoch, _) = fixture.queue.begin(2, LIMITS);
    let seat = fixture.queue.sit(epoch);
    assert_eq!(fixture.push(1), Pushed::Hire(epoch));
    fixture.queue.suspend();
    assert!(fixture.queue.take_now(seat).is_none());
    assert_eq!(fixture.queue.resume(), (epoch, 1));
    fixture.queue.finish();
    let work = fixture.queue.take_now(fixture.queue.sit(epoch)).expect("work");
    assert!(!fixture.queue.wait_empty(Instant::now()));
    fixture.queue.leave(Seat { number: 2, ..seat });
    assert!(fixture.queue.wait_empty(Instant::now()));
    drop(work);
}
