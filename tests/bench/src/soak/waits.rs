//! Callers do not wait for a reload: two calling threads never yield their cores voluntarily, and
//! their slowest calls are about as slow as without reloads.

use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use hotbay::{Host, PluginHandle, Request};
use serde_json::json;

use super::swapper::Swapper;
use crate::builds::{Builds, Kind};
use crate::fixtures;
use crate::process;
use crate::table::{Report, Table, none, verdict};

/// Duration of the measurement without swaps.
const BEFORE: Duration = Duration::from_secs(3);
const MAX_RATIO: f64 = 5.0;
const THREADS: usize = 2;
/// Number of calls between two checks of the phase.
const BATCH: usize = 64;

const WITHOUT: u8 = 0;
const WITH: u8 = 1;
const END: u8 = 2;

pub(crate) fn soak(count: u64, report: &Report) -> anyhow::Result<bool> {
    let built = fixtures::library("bench-echo")?;
    let title = format!("Waits: two calling threads, {count} swaps");
    let head = ["what", "in place", "heap", "goal", ""];
    let mut table = Table::new(title, head);
    let runs = [run(&built, count, "in-place")?, run(&built, count, "heap")?];
    let mut row = |what: &str, number: &dyn Fn(&Run) -> String| {
        let [in_place, heap] = [number(&runs[0]), number(&runs[1])];
        table.row([what.to_owned(), in_place, heap, none(), none()]);
    };
    row("swaps per second", &|run| format!("{:.0}", count as f64 / run.seconds));
    for (phase, what) in ["without swaps", "with swaps"].into_iter().enumerate() {
        row(&format!("calls {what}"), &|run| run.observed.times[phase].count().to_string());
        for (part, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")] {
            let name = format!("{name} {what}, ns");
            row(&name, &|run| format!("{:.0}", run.observed.times[phase].quantile(part)));
        }
    }
    row("involuntary context switches with swaps", &|run| run.observed.forced.to_string());
    row("voluntary context switches without swaps", &|run| run.observed.voluntary[0].to_string());
    let failed: u64 = runs.iter().map(|run| run.observed.failed).sum();
    let waits = runs.each_ref().map(|run| run.observed.voluntary[1]);
    let is_waitless = waits == [0, 0];
    let ratios = runs
        .each_ref()
        .map(|run| run.observed.times[1].quantile(0.999) / run.observed.times[0].quantile(0.999));
    let is_quick = ratios.iter().all(|&ratio| ratio <= MAX_RATIO);
    let [in_place, heap] = waits.map(|waits| waits.to_string());
    let what = "voluntary context switches with swaps".to_owned();
    table.row([what, in_place, heap, "0".to_owned(), verdict(is_waitless)]);
    let [in_place, heap] = ratios.map(|ratio| format!("{ratio:.2}"));
    let what = "p99.9 with / without swaps".to_owned();
    table.row([what, in_place, heap, format!("≤ {MAX_RATIO}"), verdict(is_quick)]);
    let [in_place, heap] = runs.each_ref().map(|run| run.observed.failed.to_string());
    let what = "failed calls".to_owned();
    table.row([what, in_place, heap, "0".to_owned(), verdict(failed == 0)]);
    table.note(
        "`bench-echo` with 16 bytes; outputs are in place or on the heap (where plugin and host \
         share the system's allocator). A call's time includes reading the clock.",
    );
    report.print(&table);
    Ok(is_waitless && is_quick && failed == 0)
}

struct Run {
    observed: Observed,
    seconds: f64,
}

/// Results of the callers, without swaps and with them.
struct Observed {
    times: [Histogram; 2],
    voluntary: [i64; 2],
    forced: i64,
    failed: u64,
}

fn run(built: &std::path::Path, count: u64, output: &str) -> anyhow::Result<Run> {
    let dir = fixtures::folder()?;
    let configs = [json!({ "output": output }), json!({ "output": output })];
    let kind = Kind { package: "bench-echo", handover: "overlap", configs: &configs };
    let builds = Builds::new(dir.path(), "echo", built, kind)?;
    let mut swapper = Swapper::new(Host::builder().build()?, &builds)?;
    let handle = swapper.host.plugin("echo")?;
    let phase = AtomicU8::new(WITHOUT);
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| watch(&handle, &phase))).collect();
        thread::sleep(if count < 1000 { BEFORE / 10 } else { BEFORE });
        phase.store(WITH, Ordering::Relaxed);
        let start = Instant::now();
        let swapped = (0..count).try_for_each(|_| swapper.swap());
        let seconds = start.elapsed().as_secs_f64();
        phase.store(END, Ordering::Relaxed);
        let mut observed = Observed::new();
        for caller in callers {
            observed.add(&caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?);
        }
        swapped.context("a swap failed")?;
        Ok(Run { observed, seconds })
    })
}

/// Makes and times calls until the end.
fn watch(handle: &PluginHandle, phase: &AtomicU8) -> Observed {
    let mut observed = Observed::new();
    let input = *b"0123456789abcdef";
    loop {
        let now = phase.load(Ordering::Relaxed);
        if now == END {
            return observed;
        }
        let phase_at = usize::from(now);
        let before = process::switches();
        // Reads the switches once per phase, except for its last batch.
        while phase.load(Ordering::Relaxed) == now {
            for _ in 0..BATCH {
                let start = Instant::now();
                let reply = handle.call(Request::bytes(&input));
                let took = start.elapsed();
                observed.times[phase_at].note(took);
                observed.failed += u64::from(!reply.is_ok_and(|reply| reply.as_bytes() == input));
            }
        }
        let after = process::switches();
        observed.voluntary[phase_at] += after.0 - before.0;
        if now == WITH {
            observed.forced += after.1 - before.1;
        }
    }
}

impl Observed {
    fn new() -> Self {
        let times = [Histogram::new(), Histogram::new()];
        Self { times, voluntary: [0; 2], forced: 0, failed: 0 }
    }

    fn add(&mut self, other: &Self) {
        for phase in [0, 1] {
            self.times[phase].add(&other.times[phase]);
            self.voluntary[phase] += other.voluntary[phase];
        }
        self.forced += other.forced;
        self.failed += other.failed;
    }
}

/// Steps in each power of two.
const STEPS: u64 = 32;

/// A histogram of times, in steps of about three percent.
struct Histogram(Vec<u64>);

impl Histogram {
    fn new() -> Self {
        Self(vec![0; 64 * STEPS as usize])
    }

    fn note(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(STEPS);
        let power = u64::from(ns.ilog2());
        let step = (ns >> (power - u64::from(STEPS.ilog2()))) - STEPS;
        self.0[(power * STEPS + step) as usize] += 1;
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the time of a quantile.
    fn quantile(&self, part: f64) -> f64 {
        let expected = (self.count() as f64 * part).ceil() as u64;
        let mut below = 0;
        let at = self.0.iter().position(|count| {
            below += count;
            below >= expected
        });
        at.map_or(f64::NAN, |at| {
            let (power, step) = (at as u64 / STEPS, at as u64 % STEPS);
            (1 + step + STEPS) as f64 * 2_f64.powi(power as i32 - STEPS.ilog2() as i32)
        })
    }
}
