//! Models of a pool's queue: in every interleaving of producers, workers and shutdown, each job runs
//! once or is rejected once. A lost wake-up ends as a deadlock, which loom reports.

mod async_workers;

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

/// A queue and its workers. Counters use std's types, so that they add no interleavings.
struct Fixture {
    queue: Queue,
    max_workers: u32,
    /// Number of jobs that reported.
    reports: Mutex<u32>,
    more: Condvar,
    /// The epoch whose workers can run jobs.
    current: AtomicU64,
    /// Running jobs of each epoch, without those that wait for others.
    busy: [AtomicU32; 4],
    spawned: AtomicU32,
    exited: AtomicU32,
    workers: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// Whether workers exit instead of sleeping.
    is_async: AtomicBool,
}

/// A job that counts its outcomes.
struct TestJob {
    fixture: Arc<Fixture>,
    /// Number of reports that it waits for, if any.
    until: Option<u32>,
    ran: AtomicU32,
    rejected: AtomicU32,
    is_cancelled: AtomicBool,
}

impl Fixture {
    /// Creates a queue in its first epoch.
    fn new(max_workers: u32) -> Arc<Self> {
        let fixture = Arc::new(Self {
            queue: Queue::new(),
            max_workers,
            reports: Mutex::new(0),
            more: Condvar::new(),
            current: AtomicU64::new(0),
            busy: Default::default(),
            spawned: AtomicU32::new(0),
            exited: AtomicU32::new(0),
            workers: std::sync::Mutex::default(),
            is_async: AtomicBool::new(false),
        });
        let _ = fixture.start_epoch(max_workers);
        fixture
    }

    fn start_epoch(self: &Arc<Self>, max_workers: u32) -> Epoch {
        self.current.fetch_add(1, Ordering::Relaxed);
        let (epoch, spawns) = self.queue.start_epoch(max_workers, LIMITS);
        (0..spawns).for_each(|_| self.spawn_worker(epoch));
        epoch
    }

    fn job(self: &Arc<Self>) -> Arc<TestJob> {
        self.job_until(None)
    }

    fn job_until(self: &Arc<Self>, until: Option<u32>) -> Arc<TestJob> {
        Arc::new(TestJob {
            fixture: Arc::clone(self),
            until,
            ran: AtomicU32::new(0),
            rejected: AtomicU32::new(0),
            is_cancelled: AtomicBool::new(false),
        })
    }

    /// Pushes a job; returns whether it was accepted.
    fn push(self: &Arc<Self>, job: &Arc<TestJob>) -> bool {
        let job: Arc<dyn Job> = Arc::<TestJob>::clone(job);
        let (pushed, due_at) = self.queue.push(job, WaitLimits::default());
        assert_eq!(due_at, None);
        self.spawn_if_needed(&pushed);
        matches!(pushed, PushOutcome::Queued | PushOutcome::SpawnWorker(_))
    }

    /// Pushes on another thread; counts the accepted jobs.
    fn push_on_thread(self: &Arc<Self>, jobs: [Arc<TestJob>; 2]) -> Arc<AtomicU32> {
        let accepted = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&accepted);
        self.spawn(move |fixture| {
            for job in &jobs {
                counted.fetch_add(u32::from(fixture.push(job)), Ordering::Relaxed);
            }
        });
        accepted
    }

    fn spawn_if_needed(self: &Arc<Self>, pushed: &PushOutcome) {
        if let PushOutcome::SpawnWorker(epoch) = pushed {
            self.spawn_worker(*epoch);
        }
    }

    fn spawn_worker(self: &Arc<Self>, epoch: Epoch) {
        self.spawned.fetch_add(1, Ordering::Relaxed);
        self.spawn(move |fixture| fixture.serve(fixture.queue.register(epoch)));
    }

    fn spawn(self: &Arc<Self>, act: impl FnOnce(&Arc<Self>) + 'static) {
        let fixture = Arc::clone(self);
        let worker = thread::spawn(move || act(&fixture));
        self.workers.lock().unwrap().push(worker);
    }

    /// Returns a job that a worker is about to finish.
    fn started(self: &Arc<Self>) -> Arc<TestJob> {
        let job = self.job();
        let PushOutcome::SpawnWorker(epoch) = self.queue.push(job.clone(), WaitLimits::default()).0
        else {
            unreachable!("no worker exists yet");
        };
        self.spawned.fetch_add(1, Ordering::Relaxed);
        let worker = self.queue.register(epoch);
        assert!(self.queue.next(worker).0.job.is_some());
        self.spawn(move |fixture| fixture.serve(worker));
        job
    }

    fn abandon(self: &Arc<Self>, job: &Arc<TestJob>, remaining: Option<&Arc<TestJob>>) {
        let job: Arc<dyn Job> = Arc::<TestJob>::clone(job);
        let remaining = remaining.map(|job| Arc::<TestJob>::clone(job) as Arc<dyn Job>);
        if let Some(epoch) = self.queue.abandon(&job, remaining).spawn_worker {
            self.spawn_worker(epoch);
        }
    }

    /// Reports a job and runs `end` under the same lock.
    fn report_and(&self, end: impl FnOnce() -> u32) {
        let mut reported = lock(&self.reports);
        *reported += 1;
        end();
        drop(reported);
        self.more.notify_all();
    }

    fn wait_reports(&self, count: u32) {
        let mut reported = lock(&self.reports);
        while *reported < count {
            reported = self.more.wait(reported).unwrap();
        }
    }

    fn close_after(&self, count: u32) {
        self.wait_reports(count);
        self.queue.close();
        self.join();
    }

    /// Waits until all workers have exited; nothing is left.
    fn join(&self) {
        loop {
            let worker = self.workers.lock().unwrap().pop();
            let Some(worker) = worker else { break };
            worker.join().unwrap();
        }
        assert_eq!(self.spawned.load(Ordering::Relaxed), self.exited.load(Ordering::Relaxed));
        assert_eq!((self.queue.queued(), self.queue.running()), (0, (0, 0)));
        assert!(!self.queue.is_exhausted());
    }
}

impl Job for TestJob {
    fn run(self: Arc<Self>, generation: u64) -> JobOutcome {
        let fixture = &self.fixture;
        if fixture.current.load(Ordering::Relaxed) != generation {
            return JobOutcome::StaleEpoch;
        }
        self.ran.fetch_add(1, Ordering::Relaxed);
        if let Some(count) = self.until {
            fixture.report_and(|| 0);
            fixture.wait_reports(count);
            return JobOutcome::Completed;
        }
        let busy = &fixture.busy[usize::try_from(generation).unwrap()];
        assert!(busy.fetch_add(1, Ordering::Relaxed) < fixture.max_workers);
        fixture.report_and(|| busy.fetch_sub(1, Ordering::Relaxed));
        JobOutcome::Completed
    }

    fn reject(self: Arc<Self>, reason: RejectReason) {
        assert_eq!(reason, RejectReason::Closed);
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    fn panicked(self: Arc<Self>) {}

    fn is_active(&self) -> bool {
        !self.is_cancelled.load(Ordering::Relaxed)
    }
}

impl TestJob {
    /// Returns how often it ran and how often it was rejected.
    fn counts(&self) -> (u32, u32) {
        (self.ran.load(Ordering::Relaxed), self.rejected.load(Ordering::Relaxed))
    }
}

fn far_deadline() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[test]
fn pushed_jobs_run_without_another_push() {
    preempted(2, || {
        let fixture = Fixture::new(2);
        let jobs = [fixture.job(), fixture.job(), fixture.job()];
        let pushed = Arc::clone(&jobs[0]);
        fixture.spawn(move |fixture| assert!(fixture.push(&pushed)));
        assert!(fixture.push(&jobs[1]));
        assert!(fixture.push(&jobs[2]));
        fixture.close_after(3);
        assert_eq!(jobs.map(|job| job.counts()), [(1, 0); 3]);
    });
}

#[test]
fn accepted_jobs_run_or_are_rejected_on_close() {
    preempted(2, || {
        let fixture = Fixture::new(2);
        let jobs = [fixture.job(), fixture.job()];
        let accepted = fixture.push_on_thread(jobs.clone());
        fixture.queue.close();
        fixture.join();
        let counts = jobs.map(|job| job.counts());
        assert!(counts.iter().all(|(ran, rejected)| ran + rejected <= 1));
        let reported: u32 = counts.iter().map(|(ran, rejected)| ran + rejected).sum();
        assert_eq!(reported, accepted.load(Ordering::Relaxed));
    });
}

#[test]
fn accepted_jobs_have_run_when_drained_queue_is_empty() {
    preempted(2, || {
        let fixture = Fixture::new(2);
        let jobs = [fixture.job(), fixture.job()];
        let accepted = fixture.push_on_thread(jobs.clone());
        fixture.queue.drain();
        assert!(fixture.queue.wait_empty(far_deadline()));
        let done = *lock(&fixture.reports);
        fixture.join();
        assert_eq!(done, accepted.load(Ordering::Relaxed));
        let ran: u32 = jobs.iter().map(|job| job.counts().0).sum();
        assert_eq!(ran, done);
    });
}

#[test]
fn cancelled_job_does_not_block_wait_for_empty_queue() {
    preempted(3, || {
        let fixture = Fixture::new(0);
        let job = fixture.job();
        assert!(fixture.push(&job));
        let cancelled = Arc::clone(&job);
        fixture.spawn(move |fixture| {
            cancelled.is_cancelled.store(true, Ordering::Relaxed);
            let due_jobs = fixture.queue.take_due(far_deadline());
            assert!(due_jobs.rejected.is_empty() && due_jobs.overdue.is_empty());
        });
        fixture.queue.drain();
        assert!(fixture.queue.wait_empty(far_deadline()));
        fixture.join();
        assert_eq!(job.counts(), (0, 0));
    });
}

#[test]
fn returning_abandoned_worker_keeps_number_of_workers() {
    preempted(2, || {
        let fixture = Fixture::new(1);
        let abandoned = fixture.started();
        fixture.spawn(move |fixture| fixture.abandon(&abandoned, None));
        let jobs = [fixture.job(), fixture.job()];
        for job in &jobs {
            assert!(fixture.push(job));
        }
        fixture.close_after(2);
        assert_eq!(jobs.map(|job| job.counts()), [(1, 0); 2]);
    });
}

#[test]
fn worker_is_replaced_again_after_abandoned_one_returned() {
    preempted(2, || {
        let fixture = Fixture::new(1);
        let abandoned = fixture.started();
        fixture.abandon(&abandoned, None);
        while fixture.queue.running().1 > 0 {
            thread::yield_now();
        }
        // Completes only after the remaining job, so another worker must run that.
        let (long, remaining) = (fixture.job_until(Some(2)), fixture.job());
        assert!(fixture.push(&long));
        fixture.wait_reports(1);
        fixture.abandon(&long, Some(&remaining));
        fixture.close_after(2);
        assert_eq!((long.counts(), remaining.counts()), ((1, 0), (1, 0)));
    });
}

#[test]
fn job_outlives_epoch_of_its_worker() {
    preempted(3, || {
        let fixture = Fixture::new(1);
        let job = fixture.job();
        assert!(fixture.push(&job));
        let _ = fixture.start_epoch(1);
        fixture.close_after(1);
        assert_eq!(job.counts(), (1, 0));
    });
}

#[test]
fn jobs_wait_while_suspended_and_run_after_resume() {
    preempted(2, || {
        let fixture = Fixture::new(1);
        let jobs = [fixture.job(), fixture.job()];
        assert!(fixture.push(&jobs[0]));
        let pushed = Arc::clone(&jobs[1]);
        fixture.spawn(move |fixture| assert!(fixture.push(&pushed)));
        fixture.queue.suspend();
        let (epoch, spawns) = fixture.queue.resume();
        (0..spawns).for_each(|_| fixture.spawn_worker(epoch));
        fixture.close_after(2);
        assert_eq!(jobs.map(|job| job.counts()), [(1, 0); 2]);
    });
}

#[test]
fn one_idle_worker_does_not_count_for_two_jobs() {
    preempted(3, || {
        let fixture = Fixture::new(2);
        assert!(fixture.push(&fixture.job()));
        fixture.wait_reports(1);
        // The first completes only after the second, which therefore needs another worker.
        assert!(fixture.push(&fixture.job_until(Some(3))));
        assert!(fixture.push(&fixture.job()));
        fixture.close_after(3);
    });
}

#[test]
fn idle_worker_is_woken_for_remainder_of_abandoned_job() {
    preempted(1, || {
        let fixture = Fixture::new(2);
        assert!(fixture.push(&fixture.job_until(Some(2))));
        assert!(fixture.push(&fixture.job()));
        fixture.wait_reports(2);
        let (long, remaining) = (fixture.job_until(Some(4)), fixture.job());
        assert!(fixture.push(&long));
        fixture.wait_reports(3);
        fixture.abandon(&long, Some(&remaining));
        fixture.close_after(4);
        assert_eq!((long.counts(), remaining.counts()), ((1, 0), (1, 0)));
    });
}

#[test]
fn idle_worker_exits_when_next_epoch_starts() {
    preempted(3, || {
        let fixture = Fixture::new(1);
        assert!(fixture.push(&fixture.job()));
        fixture.wait_reports(1);
        let _ = fixture.start_epoch(1);
        // Joined before the next push and the close, which would wake it.
        let first = fixture.workers.lock().unwrap().remove(0);
        first.join().unwrap();
        assert!(fixture.push(&fixture.job()));
        fixture.close_after(2);
    });
}
