//! Many swaps of a plugin that counts, under load: with the handover `pause` no count is lost
//! and none is doubled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use hotbay::{Error, Host, PluginHandle, Reply, Request};
use serde_json::json;

use super::load::Way;
use super::swapper::{Swapper, runtime};
use crate::builds::{Builds, Kind};
use crate::fixtures;
use crate::table::{Paper, Table, none, us, verdict};

const WAYS: [Way; 3] = [Way::Call, Way::Call, Way::Execute];

pub(crate) fn soak(count: u64, paper: &Paper) -> anyhow::Result<bool> {
    let built = fixtures::library("counter")?;
    let dir = fixtures::folder()?;
    // A build that did not take the count over would begin anew, or far away.
    let configs = [json!({ "start": 0, "step": 1 }), json!({ "start": 1 << 40, "step": 1 })];
    let kind = Kind { package: "counter", handover: "pause", configs: &configs };
    let builds = Builds::new(dir.path(), "counter", &built, kind)?;
    let mut swapper = Swapper::new(Host::builder().build()?, &builds)?;
    let handle = swapper.host.plugin("counter")?;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let mut sum = Counts::default();
    let swapped = thread::scope(|scope| {
        let (handle, stop) = (&handle, &stop);
        let callers: Vec<_> =
            WAYS.iter().map(|&way| scope.spawn(move || count_up(handle, way, stop))).collect();
        let swapped = (0..count).try_for_each(|_| swapper.swap());
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            let counts = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
            sum.add(counts?);
        }
        swapped
    });
    let seconds = start.elapsed().as_secs_f64();
    if let Some(first) = &sum.first {
        eprintln!("{} failed, first: {first}", sum.failed);
    }
    swapped.context("a swap failed")?;
    let total = handle.call(Request::text("0"))?.as_text()?.parse::<u64>()?;
    swapper.settle_kept()?;
    swapper.books.check()?;

    let mut table =
        Table::new(format!("Pause: `counter`, {count} swaps"), ["what", "found", "goal", ""]);
    let mut plain = |what: &str, found: String| {
        table.row([what.to_owned(), found, none(), none()]);
    };
    plain("swaps a second", format!("{:.0}", count as f64 / seconds));
    plain("increments", sum.made.to_string());
    plain("the count at the end", total.to_string());
    plain("longest call, µs", us(sum.longest.as_nanos() as f64));
    let goals = [
        ("increments lost", sum.made.saturating_sub(total)),
        ("increments doubled", total.saturating_sub(sum.made)),
        ("answers that are not 1 to the count, each once", u64::from(!sum.is_each_once())),
        ("answers below one that came before", sum.backwards),
        ("calls that failed", sum.failed),
        ("builds kept at the end", swapper.books.kept.len() as u64),
    ];
    for (what, found) in goals {
        table.row([what.to_owned(), found.to_string(), "0".to_owned(), verdict(found == 0)]);
    }
    table.note(
        "Two threads count by `call`, one by `execute`. What the answers are is told from their \
         number, their sum and the sum of their squares.",
    );
    paper.print(&table);
    swapper.end();
    Ok(goals.iter().all(|(_, found)| *found == 0))
}

/// What one thread counted, or several.
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

fn count_up(handle: &PluginHandle, way: Way, stop: &AtomicBool) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let runtime = runtime()?;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = match way {
            Way::Call => handle.call(Request::text("")),
            Way::Execute => runtime.block_on(handle.execute(Request::text(""))),
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
        self.sum == made * (made + 1) / 2
            && self.squares == made * (made + 1) * (2 * made + 1) / 6
    }
}
