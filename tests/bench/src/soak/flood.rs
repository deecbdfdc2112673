//! A plugin that prints endlessly while it is called: the host keeps reading, does not grow, and
//! counts what it drops.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hotbay::{Host, PluginHandle, Request};
use serde_json::json;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::goals::Goals;
use super::swapper::runtime;
use crate::fixtures::{self, install_program};
use crate::process::rss_bytes;
use crate::sample::{quantile, time};
use crate::table::Report;

const MAX_GROWTH: u64 = 8 << 20;
const CALLERS: usize = 2;
const LINE_BYTES: u64 = 80;
const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) fn soak(mib: u64, report: &Report) -> anyhow::Result<bool> {
    tracing::subscriber::set_global_default(Counts)?;
    let program = fixtures::program("program")?;
    let dir = fixtures::folder()?;
    let folder = install_program(&program, &dir.path().join("plugins"), "flood")?;
    let host = Host::builder().quarantine(None).build()?;
    let runtime = runtime()?;
    let plugin = runtime.block_on(host.load(&folder))?;
    // Resources that are created once exist by now.
    print(&plugin, 1 << 20, "stderr")?;
    let (_, quiet) = called_while(&plugin, || {
        thread::sleep(Duration::from_secs(1));
        Ok(())
    })?;
    let before = rss_bytes()?;
    let mut goals = Goals::new(format!("Flood: {mib} MiB to stderr, then to stdout"));
    let mut lines = 0;
    goals.found("call without output, p50, µs", us(&quiet, 0.5));
    goals.found("call without output, p99, µs", us(&quiet, 0.99));
    for pipe in ["stderr", "stdout"] {
        let start = Instant::now();
        let (grown, calls) = called_while(&plugin, || print(&plugin, mib << 20, pipe))?;
        let took = start.elapsed().as_secs_f64();
        lines += (mib << 20) / LINE_BYTES;
        goals.found(&format!("{pipe}: MiB per second"), format!("{:.0}", mib as f64 / took));
        let is_met = calls.count > 0;
        goals.goal(&format!("{pipe}: calls meanwhile"), calls.count, "> 0", is_met);
        goals.found(&format!("{pipe}: call, p50, µs"), us(&calls, 0.5));
        goals.found(&format!("{pipe}: call, p99, µs"), us(&calls, 0.99));
        let growth = grown.saturating_sub(before);
        let found = format!("{:.1}", growth as f64 / f64::from(1 << 20));
        goals.goal(&format!("{pipe}: MiB growth"), found, "≤ 8", growth <= MAX_GROWTH);
    }
    let dropped = host.list().remove(0).stats.log_lines_dropped;
    goals.found("lines printed", lines);
    goals.found("lines that reached the log", LINES.load(Ordering::Relaxed));
    goals.goal("lines dropped and counted", dropped, "> 0", dropped > 0 || mib < 16);
    goals.note(
        "Lines have 80 bytes; at most 1000 per second reach the log, which only counts them. \
         Meanwhile, two threads call without pause, and memory is measured every 10 ms.",
    );
    runtime.block_on(host.shutdown(Duration::from_secs(10)));
    Ok(goals.print(report))
}

fn us(times: &Times, part: f64) -> String {
    format!("{:.0}", quantile(times.last.clone(), part) / 1e3)
}

fn print(plugin: &PluginHandle, bytes: u64, to: &str) -> anyhow::Result<()> {
    let action = json!({ "do": "print", "bytes": bytes, "line": LINE_BYTES, "to": to });
    let written = plugin.call(Request::json(&action)?)?;
    ensure!(written.as_text()? == bytes.to_string(), "it wrote {:?}", written.as_text());
    Ok(())
}

/// Calls the plugin while `work` runs. Returns the maximum memory of this process, and the times of
/// the calls.
fn called_while(
    plugin: &PluginHandle,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(u64, Times)> {
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(|| calls(plugin, &stop))).collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(rss_bytes().unwrap_or(0), Ordering::Relaxed);
                thread::sleep(POLL_INTERVAL);
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let mut times = Times::default();
        for caller in callers {
            times.add(caller.join().expect("no panic")?);
        }
        done.map(|()| (most.load(Ordering::Relaxed), times))
    })
}

fn calls(plugin: &PluginHandle, stop: &AtomicBool) -> anyhow::Result<Times> {
    let mut times = Times::default();
    while !stop.load(Ordering::Relaxed) {
        let mut answer = None;
        let took = time(|| answer = Some(plugin.call(Request::text("x"))));
        times.note(took);
        let answer = answer.expect("the plugin was called")?;
        ensure!(answer.as_text()? == "x", "unexpected reply");
    }
    Ok(times)
}

/// Number of calls, and the nanoseconds of the latest ones only, since memory is measured
/// meanwhile.
#[derive(Default)]
struct Times {
    count: usize,
    last: Vec<f64>,
}

impl Times {
    fn note(&mut self, took: f64) {
        const LAST: usize = 20_000;
        match self.last.len() {
            LAST => self.last[self.count % LAST] = took,
            _ => self.last.push(took),
        }
        self.count += 1;
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.last.extend(other.last);
    }
}

static LINES: AtomicU64 = AtomicU64::new(0);

/// A subscriber that only counts.
struct Counts;

impl Subscriber for Counts {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= tracing::Level::INFO
    }

    fn event(&self, _: &Event<'_>) {
        LINES.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
