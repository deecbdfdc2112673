//! The queue of a pool: whatever those who push, its workers, and those who end it do at once,
//! each piece of work runs once or is told once that it never does, and nobody sleeps beside it.
//! An order in which somebody is not woken ends as a deadlock, which loom tells.

mod sleepless;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use super::job::{Job, JobOutcome, RejectReason, WaitLimits};
use super::preempted;
use super::queue::{PushOutcome, Queue};
use super::queue_inner::{Epoch, QueueLimits, WorkerId};
use crate::sync::lock;

const LIMITS: QueueLimits =
    QueueLimits { max_queued: 8, max_waiting_for_space: 0, max_replaced: 1 };

/// A queue and those who serve it. What only counts is std's, so that it adds no orders.
struct Yard {
    queue: Queue,
    max_workers: u32,
    /// Pieces that were told of.
    told: Mutex<u32>,
    more: Condvar,
    /// The epoch whose workers can do something.
    current: AtomicU64,
    /// Pieces that run in each epoch, without those that wait for others.
    busy: [AtomicU32; 4],
    hired: AtomicU32,
    home: AtomicU32,
    workers: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// Workers go home instead of sleeping.
    never_sleeps: AtomicBool,
}

/// Work that knows what became of it.
struct Piece {
    yard: Arc<Yard>,
    /// Ends once so many pieces were told of; none: at once.
    until: Option<u32>,
    ran: AtomicU32,
    never: AtomicU32,
    unwanted: AtomicBool,
}

impl Yard {
    /// Its first epoch has begun.
    fn new(max_workers: u32) -> Arc<Self> {
        let yard = Arc::new(Self {
            queue: Queue::new(),
            max_workers,
            told: Mutex::new(0),
            more: Condvar::new(),
            current: AtomicU64::new(0),
            busy: Default::default(),
            hired: AtomicU32::new(0),
            home: AtomicU32::new(0),
            workers: std::sync::Mutex::default(),
            never_sleeps: AtomicBool::new(false),
        });
        let _ = yard.begin(max_workers);
        yard
    }

    fn begin(self: &Arc<Self>, max_workers: u32) -> Epoch {
        self.current.fetch_add(1, Ordering::Relaxed);
        let (epoch, spawns) = self.queue.start_epoch(max_workers, LIMITS);
        (0..spawns).for_each(|_| self.hire(epoch));
        epoch
    }

    fn piece(self: &Arc<Self>) -> Arc<Piece> {
        self.piece_until(None)
    }

    fn piece_until(self: &Arc<Self>, until: Option<u32>) -> Arc<Piece> {
        Arc::new(Piece {
            yard: Arc::clone(self),
            until,
            ran: AtomicU32::new(0),
            never: AtomicU32::new(0),
            unwanted: AtomicBool::new(false),
        })
    }

    /// Whether it was accepted.
    fn push(self: &Arc<Self>, piece: &Arc<Piece>) -> bool {
        let piece: Arc<dyn Job> = Arc::<Piece>::clone(piece);
        let (pushed, due_at) = self.queue.push(piece, WaitLimits::default());
        assert_eq!(due_at, None);
        self.hire_if(&pushed);
        matches!(pushed, PushOutcome::Queued | PushOutcome::SpawnWorker(_))
    }

    /// Pushes on a thread of its own; counts what was accepted.
    fn push_apart(self: &Arc<Self>, pieces: [Arc<Piece>; 2]) -> Arc<AtomicU32> {
        let accepted = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&accepted);
        self.spawn(move |yard| {
            for piece in &pieces {
                counted.fetch_add(u32::from(yard.push(piece)), Ordering::Relaxed);
            }
        });
        accepted
    }

    fn hire_if(self: &Arc<Self>, pushed: &PushOutcome) {
        if let PushOutcome::SpawnWorker(epoch) = pushed {
            self.hire(*epoch);
        }
    }

    fn hire(self: &Arc<Self>, epoch: Epoch) {
        self.hired.fetch_add(1, Ordering::Relaxed);
        self.spawn(move |yard| yard.serve(yard.queue.register(epoch)));
    }

    fn spawn(self: &Arc<Self>, act: impl FnOnce(&Arc<Self>) + 'static) {
        let yard = Arc::clone(self);
        let worker = thread::spawn(move || act(&yard));
        self.workers.lock().unwrap().push(worker);
    }

    /// A piece that a worker is about to come back from.
    fn taken(self: &Arc<Self>) -> Arc<Piece> {
        let piece = self.piece();
        let PushOutcome::SpawnWorker(epoch) =
            self.queue.push(piece.clone(), WaitLimits::default()).0
        else {
            unreachable!("there is no worker yet");
        };
        self.hired.fetch_add(1, Ordering::Relaxed);
        let worker = self.queue.register(epoch);
        assert!(self.queue.next(worker).0.job.is_some());
        self.spawn(move |yard| yard.serve(worker));
        piece
    }

    fn give_up(self: &Arc<Self>, piece: &Arc<Piece>, rest: Option<&Arc<Piece>>) {
        let job: Arc<dyn Job> = Arc::<Piece>::clone(piece);
        let rest = rest.map(|rest| Arc::<Piece>::clone(rest) as Arc<dyn Job>);
        if let Some(epoch) = self.queue.abandon(&job, rest).spawn_worker {
            self.hire(epoch);
        }
    }

    /// Tells of a piece, and of `end` at the same time.
    fn tell_and(&self, end: impl FnOnce() -> u32) {
        let mut told = lock(&self.told);
        *told += 1;
        end();
        drop(told);
        self.more.notify_all();
    }

    fn wait_told(&self, count: u32) {
        let mut told = lock(&self.told);
        while *told < count {
            told = self.more.wait(told).unwrap();
        }
    }

    fn close_after(&self, count: u32) {
        self.wait_told(count);
        self.queue.close();
        self.join();
    }

    /// All workers go home, and nothing is left.
    fn join(&self) {
        loop {
            let worker = self.workers.lock().unwrap().pop();
            let Some(worker) = worker else { break };
            worker.join().unwrap();
        }
        assert_eq!(self.hired.load(Ordering::Relaxed), self.home.load(Ordering::Relaxed));
        assert_eq!((self.queue.queued(), self.queue.running()), (0, (0, 0)));
        assert!(!self.queue.is_exhausted());
    }
}

impl Job for Piece {
    fn run(self: Arc<Self>, generation: u64) -> JobOutcome {
        let yard = &self.yard;
        if yard.current.load(Ordering::Relaxed) != generation {
            return JobOutcome::StaleEpoch;
        }
        self.ran.fetch_add(1, Ordering::Relaxed);
        if let Some(count) = self.until {
            yard.tell_and(|| 0);
            yard.wait_told(count);
            return JobOutcome::Completed;
        }
        let busy = &yard.busy[usize::try_from(generation).unwrap()];
        assert!(busy.fetch_add(1, Ordering::Relaxed) < yard.max_workers);
        yard.tell_and(|| busy.fetch_sub(1, Ordering::Relaxed));
        JobOutcome::Completed
    }

    fn reject(self: Arc<Self>, why: RejectReason) {
        assert_eq!(why, RejectReason::Closed);
        self.never.fetch_add(1, Ordering::Relaxed);
    }

    fn panicked(self: Arc<Self>) {}

    fn is_active(&self) -> bool {
        !self.unwanted.load(Ordering::Relaxed)
    }
}

impl Piece {
    /// How often it ran, and how often it was told that it never does.
    fn became(&self) -> (u32, u32) {
        (self.ran.load(Ordering::Relaxed), self.never.load(Ordering::Relaxed))
    }
}

fn never_late() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[test]
fn what_is_pushed_is_done_though_nobody_pushes_again() {
    preempted(2, || {
        let yard = Yard::new(2);
        let pieces = [yard.piece(), yard.piece(), yard.piece()];
        let pushed = Arc::clone(&pieces[0]);
        yard.spawn(move |yard| assert!(yard.push(&pushed)));
        assert!(yard.push(&pieces[1]));
        assert!(yard.push(&pieces[2]));
        yard.close_after(3);
        assert_eq!(pieces.map(|piece| piece.became()), [(1, 0); 3]);
    });
}

#[test]
fn what_was_accepted_runs_or_is_told_when_the_queue_closes() {
    preempted(2, || {
        let yard = Yard::new(2);
        let pieces = [yard.piece(), yard.piece()];
        let accepted = yard.push_apart(pieces.clone());
        yard.queue.close();
        yard.join();
        let became = pieces.map(|piece| piece.became());
        assert!(became.iter().all(|(ran, never)| ran + never <= 1));
        let told: u32 = became.iter().map(|(ran, never)| ran + never).sum();
        assert_eq!(told, accepted.load(Ordering::Relaxed));
    });
}

#[test]
fn what_was_accepted_is_done_when_a_finished_queue_is_empty() {
    preempted(2, || {
        let yard = Yard::new(2);
        let pieces = [yard.piece(), yard.piece()];
        let accepted = yard.push_apart(pieces.clone());
        yard.queue.drain();
        assert!(yard.queue.wait_empty(never_late()));
        let done = *lock(&yard.told);
        yard.join();
        assert_eq!(done, accepted.load(Ordering::Relaxed));
        let ran: u32 = pieces.iter().map(|piece| piece.became().0).sum();
        assert_eq!(ran, done);
    });
}

#[test]
fn what_nobody_wants_keeps_nobody_waiting_for_an_empty_queue() {
    preempted(3, || {
        let yard = Yard::new(0);
        let piece = yard.piece();
        assert!(yard.push(&piece));
        let taken_back = Arc::clone(&piece);
        yard.spawn(move |yard| {
            taken_back.unwanted.store(true, Ordering::Relaxed);
            let looked = yard.queue.take_due(never_late());
            assert!(looked.rejected.is_empty() && looked.overdue.is_empty());
        });
        yard.queue.drain();
        assert!(yard.queue.wait_empty(never_late()));
        yard.join();
        assert_eq!(piece.became(), (0, 0));
    });
}

#[test]
fn a_lost_worker_that_comes_back_leaves_as_many_as_there_were() {
    preempted(2, || {
        let yard = Yard::new(1);
        let lost = yard.taken();
        yard.spawn(move |yard| yard.give_up(&lost, None));
        let pieces = [yard.piece(), yard.piece()];
        for piece in &pieces {
            assert!(yard.push(piece));
        }
        yard.close_after(2);
        assert_eq!(pieces.map(|piece| piece.became()), [(1, 0); 2]);
    });
}

#[test]
fn a_worker_is_replaced_again_once_the_lost_one_is_back() {
    preempted(2, || {
        let yard = Yard::new(1);
        let lost = yard.taken();
        yard.give_up(&lost, None);
        while yard.queue.running().1 > 0 {
            thread::yield_now();
        }
        // Ends only after the rest, so that another worker has to do that.
        let (long, rest) = (yard.piece_until(Some(2)), yard.piece());
        assert!(yard.push(&long));
        yard.wait_told(1);
        yard.give_up(&long, Some(&rest));
        yard.close_after(2);
        assert_eq!((long.became(), rest.became()), ((1, 0), (1, 0)));
    });
}

#[test]
fn work_outlives_the_epoch_of_the_worker_that_took_it() {
    preempted(3, || {
        let yard = Yard::new(1);
        let piece = yard.piece();
        assert!(yard.push(&piece));
        let _ = yard.begin(1);
        yard.close_after(1);
        assert_eq!(piece.became(), (1, 0));
    });
}

#[test]
fn work_waits_while_the_queue_is_suspended_and_is_done_when_it_goes_on() {
    preempted(2, || {
        let yard = Yard::new(1);
        let pieces = [yard.piece(), yard.piece()];
        assert!(yard.push(&pieces[0]));
        let pushed = Arc::clone(&pieces[1]);
        yard.spawn(move |yard| assert!(yard.push(&pushed)));
        yard.queue.suspend();
        let (epoch, spawns) = yard.queue.resume();
        (0..spawns).for_each(|_| yard.hire(epoch));
        yard.close_after(2);
        assert_eq!(pieces.map(|piece| piece.became()), [(1, 0); 2]);
    });
}

#[test]
fn one_sleeper_is_not_counted_on_for_two_pieces() {
    preempted(3, || {
        let yard = Yard::new(2);
        assert!(yard.push(&yard.piece()));
        yard.wait_told(1);
        // The first ends only after the second, which therefore needs a worker of its own.
        assert!(yard.push(&yard.piece_until(Some(3))));
        assert!(yard.push(&yard.piece()));
        yard.close_after(3);
    });
}

#[test]
fn a_sleeper_is_woken_for_the_rest_of_lost_work() {
    preempted(1, || {
        let yard = Yard::new(2);
        assert!(yard.push(&yard.piece_until(Some(2))));
        assert!(yard.push(&yard.piece()));
        yard.wait_told(2);
        let (long, rest) = (yard.piece_until(Some(4)), yard.piece());
        assert!(yard.push(&long));
        yard.wait_told(3);
        yard.give_up(&long, Some(&rest));
        yard.close_after(4);
        assert_eq!((long.became(), rest.became()), ((1, 0), (1, 0)));
    });
}

#[test]
fn who_sleeps_when_the_next_epoch_begins_goes_home_and_is_not_counted_on() {
    preempted(3, || {
        let yard = Yard::new(1);
        assert!(yard.push(&yard.piece()));
        yard.wait_told(1);
        let _ = yard.begin(1);
        // Before the next push and the close, which would wake it.
        let first = yard.workers.lock().unwrap().remove(0);
        first.join().unwrap();
        assert!(yard.push(&yard.piece()));
        yard.close_after(2);
    });
}
