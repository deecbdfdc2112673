//! A pool used from many threads at once. Each accepted task has one outcome, seen once, whatever
//! combination of submit, wait, drop, take, drain, stop and cancel runs.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use hotbay::CancellationToken;
use hotbay::pool::{Outcome, PoolLimits, Stopped, TaskError, TaskId, TaskTicket, WorkerPool};
use hotbay_tests::block_on;

use super::GENEROUS;

const SUBMITTERS: u32 = 3;
const TASKS: u32 = 50;
/// One of this many tasks panics.
const PANICS: u32 = 7;
/// The task that ends its own pool.
const LAST: u32 = SUBMITTERS * TASKS;
/// Maximum number of tickets that one submitter keeps; fewer than would fill the store.
const MAX_KEPT: usize = 3;

type Pool = WorkerPool<Counted>;

/// A way in which two threads end a pool at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Cancel,
    Token,
    StopAndCancel,
    StopInside,
}

/// The state of one pool and its tasks.
struct Round {
    pool: Pool,
    end: End,
    alive: Arc<AtomicI64>,
    /// By task number.
    runs: Arc<Vec<AtomicU32>>,
    accepted: Mutex<BTreeMap<TaskId, u32>>,
    seen: Mutex<Vec<(TaskId, Outcome<Counted>)>>,
    is_over: AtomicBool,
}

/// A result that is counted while it exists.
#[derive(Debug)]
struct Counted {
    number: u32,
    alive: Arc<AtomicI64>,
}

impl Counted {
    fn new(number: u32, alive: &Arc<AtomicI64>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self { number, alive: Arc::clone(alive) }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(self.number, &self.alive)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pseudorandom generator (xorshift) with a given seed.
struct Random(u32);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % bound
    }
}

impl Round {
    fn new(end: End) -> Self {
        let mut limits = PoolLimits::default();
        (limits.workers, limits.max_queued_calls, limits.max_results) = (2, 4, 16);
        Self {
            pool: WorkerPool::new(limits, &CancellationToken::new()).unwrap(),
            end,
            alive: Arc::default(),
            runs: Arc::new((0..=LAST).map(|_| AtomicU32::new(0)).collect()),
            accepted: Mutex::default(),
            seen: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    fn task(&self, number: u32) -> impl FnOnce() -> Counted + Send + use<> {
        let (counted, runs) = (Counted::new(number, &self.alive), Arc::clone(&self.runs));
        move || {
            runs[counted.number as usize].fetch_add(1, Ordering::Relaxed);
            if counted.number % PANICS == 0 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            counted
        }
    }

    fn accept(&self, ticket: &TaskTicket<Counted>, number: u32) {
        assert!(self.accepted.lock().unwrap().insert(ticket.id(), number).is_none());
    }

    fn see(&self, id: TaskId, outcome: Outcome<Counted>) {
        self.seen.lock().unwrap().push((id, outcome));
    }

    /// Submits tasks in each way, and uses the tickets in each way.
    fn submit(&self, submitter: u32, random: &mut Random) {
        let mut kept = Vec::new();
        for number in submitter * TASKS..(submitter + 1) * TASKS {
            let submitted = match random.below(4) {
                0 => self.pool.submit(self.task(number)).ok(),
                1 => self.pool.submit_within(GENEROUS, self.task(number)).ok(),
                2 => block_on(self.pool.submit_waiting(self.task(number))).ok(),
                _ => {
                    let waiting = pin!(self.pool.submit_waiting(self.task(number)));
                    polled_once(waiting).and_then(Result::ok)
                }
            };
            let Some(mut ticket) = submitted else { continue };
            self.accept(&ticket, number);
            let id = ticket.id();
            match random.below(6) {
                0 => self.see(id, block_on(ticket)),
                1 => self.see(id, ticket.wait()),
                2 => drop(ticket),
                3 => {
                    if let Ok(outcome) = ticket.wait_timeout(Duration::from_micros(20)) {
                        self.see(id, outcome);
                    }
                }
                4 => {
                    if let Some(outcome) = polled_once(Pin::new(&mut ticket)) {
                        self.see(id, outcome);
                    }
                }
                _ if kept.len() < MAX_KEPT => kept.push(ticket),
                _ => drop(ticket),
            }
        }
        for ticket in kept {
            self.see(ticket.id(), ticket.wait());
        }
    }

    /// Takes remaining outcomes in each way until the other threads are done.
    fn collect(&self, random: &mut Random) {
        while !self.is_over.load(Ordering::Acquire) {
            match random.below(3) {
                0 => self.drain(),
                1 => {
                    let id = self.accepted.lock().unwrap().keys().next_back().copied();
                    if let Some((id, outcome)) = id.and_then(|id| Some((id, self.pool.take(id)?))) {
                        self.see(id, outcome);
                    }
                }
                _ => drop(self.pool.results()),
            }
            thread::yield_now();
        }
    }

    fn drain(&self) {
        self.pool.drain().into_iter().for_each(|(id, outcome)| self.see(id, outcome));
    }

    /// Ends the pool after this many tasks were accepted.
    fn end(&self, after: usize, ender: u32) {
        while self.accepted.lock().unwrap().len() < after {
            thread::yield_now();
        }
        match (self.end, ender) {
            (End::Stop, _) | (End::StopAndCancel, 0) => joined(self.pool.stop()),
            (End::Cancel, _) | (End::StopAndCancel, _) => joined(self.pool.cancel()),
            (End::Token, _) => self.pool.token().cancel(),
            (End::StopInside, 0) => {
                let (inside, task) = (self.pool.clone(), self.task(LAST));
                let stop = move || {
                    assert_eq!(inside.stop(), Stopped::FromInside);
                    task()
                };
                let ticket = self.pool.submit_within(GENEROUS, stop).unwrap();
                self.accept(&ticket, LAST);
            }
            (End::StopInside, _) => {}
        }
    }

    fn check(&self) {
        joined(self.pool.stop());
        self.drain();
        let accepted = std::mem::take(&mut *self.accepted.lock().unwrap());
        let mut runs = vec![0; self.runs.len()];
        let mut seen = BTreeMap::new();
        for (id, outcome) in self.seen.lock().unwrap().drain(..) {
            let number = accepted[&id];
            runs[number as usize] = 1;
            match &outcome {
                Ok(answer) => assert_eq!(answer.number, number),
                Err(TaskError::Panicked(_)) => assert_eq!(number % PANICS, 0),
                Err(error) => {
                    assert_eq!(*error, TaskError::NeverRan);
                    assert!(!matches!(self.end, End::Stop | End::StopInside), "{number}");
                    runs[number as usize] = 0;
                }
            }
            assert!(seen.insert(id, outcome).is_none(), "outcome of {id} seen twice");
        }
        assert!(seen.keys().eq(accepted.keys()), "every accepted task has an outcome");
        drop(seen);
        let ran: Vec<_> = self.runs.iter().map(|runs| runs.load(Ordering::Relaxed)).collect();
        assert_eq!(ran, runs, "tasks ran exactly if their outcomes say so");
        assert_eq!(self.alive.load(Ordering::Relaxed), 0, "all tasks and results are dropped");
    }
}

fn joined(stopped: Stopped) {
    assert_eq!(stopped, Stopped::Joined);
}

/// Polls once, and drops the waker.
fn polled_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn check(end: End, seed: u32) {
    let round = Round::new(end);
    let mut random = Random(seed);
    // Few enough to be accepted although some are refused.
    let after = random.below(TASKS) as usize;
    thread::scope(|scope| {
        let round = &round;
        let mut random = || Random(random.below(u32::MAX) | 1);
        let mut mine = random();
        scope.spawn(move || round.collect(&mut mine));
        let mut others = Vec::new();
        for submitter in 0..SUBMITTERS {
            let mut mine = random();
            others.push(scope.spawn(move || round.submit(submitter, &mut mine)));
        }
        others.extend((0..2).map(|ender| scope.spawn(move || round.end(after, ender))));
        let failed = others.into_iter().filter_map(|other| other.join().err()).next();
        round.is_over.store(true, Ordering::Release);
        if let Some(failed) = failed {
            std::panic::resume_unwind(failed);
        }
    });
    round.check();
}

#[test]
fn accepted_task_has_one_outcome_seen_once() {
    let ends = [End::Stop, End::Cancel, End::Token, End::StopAndCancel, End::StopInside];
    for seed in 1..=40 {
        for end in ends {
            check(end, seed * 0x9e37);
        }
    }
}
