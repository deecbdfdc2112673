//! Calls that exceed their deadlines and return late: each caller gets its error in time, workers
//! are replaced and return, and nothing grows.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{ErrorKind, Host, HostLimits, Output, Request};

use super::swapper::runtime;
use crate::process::rss_bytes;
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const DEADLINE: Duration = Duration::from_millis(5);
const LATE_BY: Duration = Duration::from_millis(20);
const CALLERS: usize = 4;
const MAX_ABANDONED: u32 = 32;
const MAX_LATE_MS: f64 = 10.0;
const MAX_GROWTH: f64 = (2 << 20) as f64;

pub(crate) fn soak(count: u64, report: &Report) -> anyhow::Result<bool> {
    let mut limits = HostLimits::default();
    // A worker per caller, so that each call starts at once.
    limits.max_workers = CALLERS as u32;
    limits.max_abandoned_calls = MAX_ABANDONED;
    let max_threads = limits.max_workers as usize + MAX_ABANDONED as usize;
    let (starts, ended) = (leak(AtomicU64::new(0)), leak(AtomicU64::new(0)));
    let host =
        Host::builder().quarantine(None).limits(limits).register_fn("late", move |ctx, _| {
            starts.fetch_add(1, Ordering::Relaxed);
            thread::sleep(ctx.remaining().unwrap_or_default() + LATE_BY);
            ended.fetch_add(1, Ordering::Relaxed);
            Ok(Output::copy_of(b"late"))
        });
    let host = host.build()?;
    let late = host.plugin("late")?;
    let waits = Mutex::new(Vec::new());
    let (others, threads, warm) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    let left = AtomicU64::new(count);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let runtime = runtime().expect("a runtime");
                let mut own = Vec::new();
                let take = |left: u64| left.checked_sub(1);
                while let Ok(left) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                    let deadline = Instant::now() + DEADLINE;
                    let request = Request::text("x").with_deadline(deadline);
                    let outcome = runtime.block_on(late.execute(request));
                    own.push(deadline.elapsed().as_secs_f64() * 1e3);
                    if outcome.map_err(|error| error.kind()).err()
                        != Some(ErrorKind::DeadlineExceeded)
                    {
                        others.fetch_add(1, Ordering::Relaxed);
                    }
                    if left % 64 == 0 {
                        threads.fetch_max(workers(), Ordering::Relaxed);
                    }
                    if left == count - count / 10 {
                        warm.store(rss_bytes().unwrap_or(0), Ordering::Relaxed);
                    }
                }
                waits.lock().expect("no panic").extend(own);
            });
        }
    });
    let grown = rss_bytes()? as f64 - warm.load(Ordering::Relaxed) as f64;
    let info = host.list().remove(0);
    runtime()?.block_on(host.shutdown(Duration::from_secs(10)));
    let left = workers();
    let waits = waits.into_inner().expect("no panic");
    let at = |part| quantile(waits.clone(), part);
    let title = format!("Late: {count} calls that return 20 ms after their 5 ms deadline");
    let mut table = Table::new(title, ["what", "found", "goal", ""]);
    let mut is_met = true;
    let mut row = |what: &str, found: String, goal: Option<(String, bool)>| {
        let (goal, met) = match goal {
            None => (none(), none()),
            Some((goal, met)) => {
                is_met &= met;
                (goal, verdict(met))
            }
        };
        table.row([what.to_owned(), found, goal, met]);
    };
    row("calls started", starts.load(Ordering::Relaxed).to_string(), None);
    row("calls abandoned", info.stats.abandoned.to_string(), None);
    let never_back = starts.load(Ordering::Relaxed) - ended.load(Ordering::Relaxed);
    row("started and never returned", never_back.to_string(), Some(("0".into(), never_back == 0)));
    let others = others.into_inner();
    row("other results", others.to_string(), Some(("0".to_owned(), others == 0)));
    row("result after deadline, p50, ms", format!("{:.2}", at(0.5)), None);
    row("result after deadline, p99, ms", format!("{:.2}", at(0.99)), None);
    let goal = (format!("≤ {MAX_LATE_MS}"), at(1.0) <= MAX_LATE_MS);
    row("result after deadline, max, ms", format!("{:.2}", at(1.0)), Some(goal));
    let threads = threads.into_inner();
    let goal = (format!("≤ {max_threads}"), threads <= max_threads);
    row("concurrent workers, max", threads.to_string(), Some(goal));
    row("workers after shutdown", left.to_string(), Some(("0".to_owned(), left == 0)));
    let mib = |bytes: f64| format!("{:.2}", bytes / f64::from(1 << 20));
    let goal = (format!("≤ {}", mib(MAX_GROWTH)), grown <= MAX_GROWTH);
    row("MiB growth after the first tenth", mib(grown), Some(goal));
    table.note("Quarantine is off. A call that does not start in time fails and never runs.");
    report.print(&table);
    Ok(is_met)
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Returns the number of threads of the plugin.
fn workers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("late-")).count()
}
