//! Reloads a counting plugin many times under load: with the handover `pause` no count is lost and
//! none is repeated.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use hotbay::{Error, Host, PluginHandle, Reply, Request};
use serde_json::json;

use super::load::CallMethod;
use super::swapper::{Swapper, runtime};
use crate::builds::{Builds, Kind};
use crate::fixtures;
use crate::table::{Report, Table, none, us, verdict};

const METHODS: [CallMethod; 3] = [CallMethod::Call, CallMethod::Call, CallMethod::Execute];

/// Number of swaps of the control run, in which losses must be visible.
const CONTROL_SWAPS: u64 = 50;

pub(crate) fn soak(count: u64, report: &Report) -> anyhow::Result<bool> {
    let built = fixtures::library("counter")?;
    let Run { counts, total, seconds, kept } = run(&built, "pause", count)?;
    let control = run(&built, "overlap", CONTROL_SWAPS)?;

    let mut table =
        Table::new(format!("Pause: `counter`, {count} swaps"), ["what", "found", "goal", ""]);
    let mut plain = |what: &str, found: String| {
        table.row([what.to_owned(), found, none(), none()]);
    };
    plain("swaps per second", format!("{:.0}", count as f64 / seconds));
    plain("increments", counts.made.to_string());
    plain("final count", total.to_string());
    plain("longest call, µs", us(counts.longest.as_nanos() as f64));
    let goals = [
        ("lost increments", counts.made.saturating_sub(total)),
        ("duplicated increments", total.saturating_sub(counts.made)),
        ("missing or repeated totals", u64::from(!counts.is_each_once())),
        ("replies below an earlier one", counts.backwards),
        ("failed calls", counts.failed),
        ("builds retained at the end", kept as u64),
    ];
    for (what, found) in goals {
        table.row([what.to_owned(), found.to_string(), "0".to_owned(), verdict(found == 0)]);
    }
    if let Some(first) = &counts.first {
        table.note(format!("First failed call: {first}"));
    }
    table.note(
        "Two threads count with `call`, one with `execute`. The replies are checked by their \
         number, their sum and the sum of their squares.",
    );
    let (made, lost) = (control.counts.made, control.counts.made.saturating_sub(control.total));
    table.note(format!(
        "A control run shows that losses are detected: with the handover `overlap`, which does not \
         promise to keep increments, {lost} of {made} increments were lost in {CONTROL_SWAPS} \
         swaps."
    ));
    report.print(&table);
    Ok(goals.iter().all(|(_, found)| *found == 0))
}

struct Run {
    counts: Counts,
    /// The plugin's final count.
    total: u64,
    seconds: f64,
    kept: usize,
}

fn run(built: &Path, handover: &str, count: u64) -> anyhow::Result<Run> {
    let dir = fixtures::folder()?;
    // A build that did not restore the count would start at zero, or far off.
    let configs = [json!({ "start": 0, "step": 1 }), json!({ "start": 1_u64 << 40, "step": 1 })];
    let kind = Kind { package: "counter", handover, configs: &configs };
    let builds = Builds::new(dir.path(), "counter", built, kind)?;
    let mut swapper = Swapper::new(Host::builder().build()?, &builds)?;
    let handle = swapper.host.plugin("counter")?;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let mut counts = Counts::default();
    let swapped = thread::scope(|scope| {
        let (handle, stop) = (&handle, &stop);
        let callers: Vec<_> = METHODS
            .iter()
            .map(|&method| scope.spawn(move || count_up(handle, method, stop)))
            .collect();
        let swapped = (0..count).try_for_each(|_| swapper.swap());
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            let of_one = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
            counts.add(of_one?);
        }
        swapped
    });
    let seconds = start.elapsed().as_secs_f64();
    swapped.with_context(|| format!("after a failed call: {:?}", counts.first))?;
    let total = handle.call(Request::text("0"))?.as_text()?.parse::<u64>()?;
    swapper.settle_kept()?;
    swapper.stats.check()?;
    let kept = swapper.stats.kept.len();
    swapper.end();
    Ok(Run { counts, total, seconds, kept })
}

/// The counts of one or several threads.
#[derive(Debug, Default)]
struct Counts {
    made: u64,
    failed: u64,
    backwards: u64,
    last: u64,
    sum: u128,
    squares: u128,
    longest: Duration,
    first: Option<String>,
}

fn count_up(
    handle: &PluginHandle,
    method: CallMethod,
    stop: &AtomicBool,
) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let runtime = runtime()?;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = match method {
            CallMethod::Call => handle.call(Request::text("")),
            CallMethod::Execute => runtime.block_on(handle.execute(Request::text(""))),
        };
        counts.longest = counts.longest.max(start.elapsed());
        counts.note(answer)?;
    }
    Ok(counts)
}

impl Counts {
    fn note(&mut self, answer: Result<Reply, Error>) -> anyhow::Result<()> {
        match answer {
            Ok(reply) => {
                let number = reply.as_text()?.parse::<u64>()?;
                self.made += 1;
                self.backwards += u64::from(number <= self.last);
                self.last = number;
                self.sum += u128::from(number);
                self.squares += u128::from(number) * u128::from(number);
            }
            Err(error) => {
                self.failed += 1;
                self.first.get_or_insert_with(|| error.full_message());
            }
        }
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.made += other.made;
        self.failed += other.failed;
        self.backwards += other.backwards;
        self.sum += other.sum;
        self.squares += other.squares;
        self.longest = self.longest.max(other.longest);
        self.first = self.first.take().or(other.first);
    }

    fn is_each_once(&self) -> bool {
        let made = u128::from(self.made);
        self.sum == made * (made + 1) / 2 && self.squares == made * (made + 1) * (2 * made + 1) / 6
    }
}
