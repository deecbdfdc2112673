//! A hundred threads submit tasks while others stop, cancel and replace the pools and take
//! remaining outcomes: every accepted task has exactly one outcome, and no thread waits forever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use hotbay::CancellationToken;
use hotbay::pool::{Outcome, PoolLimits, TaskError, TaskId, WorkerPool};

use crate::table::{Report, Table, none, verdict};

const SUBMITTERS: usize = 100;
const WORKERS: u32 = 2;
/// A thread that waits longer than this hangs.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

type Pool = WorkerPool<u64>;

/// Records of all threads.
#[derive(Default)]
struct CallStats {
    accepted: AtomicU64,
    refused: AtomicU64,
    ran: AtomicU64,
    /// The outcome of each task, and how often it was reported.
    outcomes: Mutex<BTreeMap<TaskId, u32>>,
    never_ran: AtomicU64,
    panicked: AtomicU64,
    done: AtomicU64,
}

impl CallStats {
    fn note(&self, id: TaskId, outcome: &Outcome<u64>) {
        let counter = match outcome {
            Ok(_) => &self.done,
            Err(TaskError::NeverRan) => &self.never_ran,
            Err(_) => &self.panicked,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        *self.outcomes.lock().expect("no panic").entry(id).or_default() += 1;
    }
}

pub(crate) fn soak(seconds: u64, report: &Report) -> anyhow::Result<bool> {
    // Tasks panic on purpose.
    std::panic::set_hook(Box::new(|_| ()));
    let stats = Arc::new(CallStats::default());
    let current = Arc::new(RwLock::new(Arc::new(pool(&CancellationToken::new())?)));
    let retired = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for seed in 0..SUBMITTERS as u64 {
        let (stats, current, stop) = (Arc::clone(&stats), Arc::clone(&current), Arc::clone(&stop));
        threads.push(thread::spawn(move || submit(seed, &stats, &current, &stop)));
    }
    for seed in 0..2 {
        let (current, stop) = (Arc::clone(&current), Arc::clone(&stop));
        let retired = Arc::clone(&retired);
        threads.push(thread::spawn(move || swap(seed, &current, &retired, &stop)));
    }
    let takers = 2;
    for _ in 0..takers {
        let (stats, current, stop) = (Arc::clone(&stats), Arc::clone(&current), Arc::clone(&stop));
        threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let pool = Arc::clone(&current.read().expect("no panic"));
                take(&pool, &stats);
                thread::yield_now();
            }
        }));
    }
    thread::sleep(Duration::from_secs(seconds));
    stop.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let stuck = threads.iter().filter(|thread| !thread.is_finished()).count() as u64;
    let mut pools = std::mem::take(&mut *retired.lock().expect("no panic"));
    pools.push(Arc::clone(&current.read().expect("no panic")));
    for pool in &pools {
        pool.stop();
        take(pool, &stats);
    }
    let _ = std::panic::take_hook();
    Ok(print(seconds, &stats, pools.len() as u64, stuck, report))
}

fn print(seconds: u64, stats: &CallStats, pools: u64, stuck: u64, report: &Report) -> bool {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let outcomes = stats.outcomes.lock().expect("no panic");
    let accepted = count(&stats.accepted);
    let twice = outcomes.values().filter(|reports| **reports > 1).count() as u64;
    let never = accepted - outcomes.len() as u64;
    let unaccounted = count(&stats.ran).abs_diff(count(&stats.done) + count(&stats.panicked));
    let title = format!("Tasks: {SUBMITTERS} submitting threads, {seconds} s");
    let mut table = Table::new(title, ["what", "found", "goal", ""]);
    for (what, found) in [
        ("pools", pools),
        ("tasks accepted", accepted),
        ("tasks refused", count(&stats.refused)),
        ("tasks completed", count(&stats.done)),
        ("tasks panicked", count(&stats.panicked)),
        ("tasks rejected without running", count(&stats.never_ran)),
    ] {
        table.row([what.to_owned(), found.to_string(), none(), none()]);
    }
    let goals = [
        ("tasks without an outcome", never),
        ("tasks with two outcomes", twice),
        ("tasks that ran with a wrong outcome", unaccounted),
        ("threads that wait forever", stuck),
    ];
    for (what, found) in goals {
        table.row([what.to_owned(), found.to_string(), "0".to_owned(), verdict(found == 0)]);
    }
    report.print(&table);
    goals.iter().all(|(_, found)| *found == 0)
}

fn pool(token: &CancellationToken) -> anyhow::Result<Pool> {
    let mut limits = PoolLimits::default();
    limits.workers = WORKERS;
    limits.max_queued_calls = 256;
    limits.max_results = 4096;
    WorkerPool::new(limits, token).context("a pool did not start")
}

/// Submits in every way, and uses the ticket in every way.
fn submit(seed: u64, stats: &Arc<CallStats>, current: &RwLock<Arc<Pool>>, stop: &AtomicBool) {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let pool = Arc::clone(&current.read().expect("no panic"));
        let (ran, number) = (Arc::clone(stats), random);
        let task = move || {
            ran.ran.fetch_add(1, Ordering::Relaxed);
            assert!(!number.is_multiple_of(64), "on purpose");
            number
        };
        let submitted = match random % 3 {
            0 => pool.submit_within(Duration::from_millis(5), task),
            _ => pool.submit(task),
        };
        let Ok(ticket) = submitted else {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
            continue;
        };
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        let id = ticket.id();
        match random >> 8 & 3 {
            0 => drop(ticket),
            1 => match ticket.wait_timeout(Duration::from_micros(random >> 16 & 1023)) {
                Ok(outcome) => stats.note(id, &outcome),
                Err(ticket) => drop(ticket),
            },
            _ => stats.note(id, &ticket.wait()),
        }
    }
}

/// Replaces pools with new ones; the old ones end in different ways.
fn swap(
    seed: u64,
    current: &RwLock<Arc<Pool>>,
    retired: &Mutex<Vec<Arc<Pool>>>,
    stop: &AtomicBool,
) {
    let mut turn = seed;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        turn += 1;
        let token = CancellationToken::new();
        let Ok(next) = pool(&token) else { continue };
        let before = std::mem::replace(&mut *current.write().expect("no panic"), Arc::new(next));
        match turn % 3 {
            0 => drop(before.stop()),
            1 => drop(before.cancel()),
            // Ended by its token, from a thread without access to the pool.
            _ => before.token().cancel(),
        }
        retired.lock().expect("no panic").push(before);
    }
}

/// Takes remaining outcomes, one by one or all at once.
fn take(pool: &Pool, stats: &CallStats) {
    if let Some(id) = pool.results().keys().next()
        && let Some(outcome) = pool.take(*id)
    {
        stats.note(*id, &outcome);
    }
    for (id, outcome) in pool.drain() {
        stats.note(id, &outcome);
    }
}
