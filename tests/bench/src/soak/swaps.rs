//! Reloads a plugin many times under load: no call fails or is lost, each is answered by one build,
//! and nothing of the replaced builds stays in memory.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use hotbay::Host;

use super::load::{CallMethod, Calls, calls, configs};
use super::swapper::{CallStats, Swapper};
use crate::builds::{Builds, Kind};
use crate::fixtures;
use crate::process;
use crate::table::{Report, Table, none, verdict};

/// Number of warm-up swaps.
const WARM_SWAPS: u64 = 100;
const MAX_GROWTH: f64 = (1 << 20) as f64;

pub(crate) fn soak(count: u64, report: &Report) -> anyhow::Result<bool> {
    let built = fixtures::library("transform")?;
    let both = run(&built, count, &[CallMethod::Execute, CallMethod::Call])?;
    let execute = run(&built, count, &[CallMethod::Execute])?;
    let title = format!("Swaps: {count} each, under continuous load");
    let head = ["what", "execute and call", "execute only", "goal", ""];
    let mut table = Table::new(title, head);
    let runs = [&both, &execute];
    let plain = |what: &str, number: &dyn Fn(&Run) -> String| {
        [what.to_owned(), number(runs[0]), number(runs[1]), none(), none()]
    };
    table.row(plain("swaps per second", &|run| format!("{:.0}", count as f64 / run.seconds)));
    table.row(plain("calls", &|run| run.calls.made.to_string()));
    table.row(plain("calls to one build", &|run| run.calls.by_build[0].to_string()));
    table.row(plain("calls to the other build", &|run| run.calls.by_build[1].to_string()));
    table.row(plain("libraries closed", &|run| run.stats.closed.to_string()));
    table.row(plain("libraries retained temporarily", &|run| run.stats.kept_at_first.to_string()));
    let mut is_met = true;
    let mut goal = |what: &str, number: &dyn Fn(&Run) -> u64| {
        let [both, execute] = runs.map(number);
        is_met &= both + execute == 0;
        let met = verdict(both + execute == 0);
        table.row([what.to_owned(), both.to_string(), execute.to_string(), "0".to_owned(), met]);
    };
    goal("failed calls", &|run| run.calls.failed);
    goal("replies of neither build", &|run| run.calls.wrong);
    goal("calls without a reply", &|run| run.calls.lost());
    goal("libraries retained at the end", &|run| run.stats.kept.len() as u64);
    goal("old mappings at the end", &|run| run.mapped as u64);
    goal("mappings after shutdown", &|run| run.mapped_after as u64);
    let grown = |run: &Run| run.rss[1] as f64 - run.rss[0] as f64;
    let mib = |bytes: f64| format!("{:.2}", bytes / f64::from(1 << 20));
    table.row(plain("MiB after the first 100", &|run| mib(run.rss[0] as f64)));
    table.row(plain("MiB at the end", &|run| mib(run.rss[1] as f64)));
    table.row(plain("reported leaks, in bytes", &|run| run.leaked.to_string()));
    let unexplained = grown(&execute) - execute.leaked as f64;
    is_met &= unexplained <= MAX_GROWTH;
    table.row([
        "MiB growth, without reported leaks".to_owned(),
        mib(grown(&both) - both.leaked as f64),
        mib(unexplained),
        "≤ 1 (execute only)".to_owned(),
        verdict(unexplained <= MAX_GROWTH),
    ]);
    for run in runs {
        is_met &= run.calls.is_clean();
        if let Some(first) = &run.calls.first {
            table.note(format!("First wrong reply or failure: {first}"));
        }
        if let Some((generation, reason)) = run.stats.kept.first_key_value() {
            table.note(format!("Generation {generation} was retained: {reason}"));
        }
    }
    table.note(
        "`transform` has two builds with different configs and digests. They are installed by \
         rename and reloaded by `Host::reload`, while at most 3 replaced generations are still \
         closing. `execute` keeps 8 calls queued.",
    );
    report.print(&table);
    both.stats.check()?;
    execute.stats.check()?;
    Ok(is_met)
}

struct Run {
    calls: Calls,
    stats: CallStats,
    seconds: f64,
    /// After the warm-up, and at the end.
    rss: [u64; 2],
    /// Bytes that closed generations had not released, between the two.
    leaked: i64,
    mapped: usize,
    mapped_after: usize,
}

fn run(built: &Path, count: u64, methods: &[CallMethod]) -> anyhow::Result<Run> {
    let dir = fixtures::folder()?;
    let configs = configs();
    let kind = Kind { package: "transform", handover: "overlap", configs: &configs };
    let builds = Builds::new(dir.path(), "transform", built, kind)?;
    let staging = dir.path().join("staged");
    std::fs::create_dir(&staging)?;
    let host = Host::builder().staging_dir(&staging).build()?;
    let mut swapper = Swapper::new(host, &builds)?;
    let handle = swapper.host.plugin("transform")?;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (mut sum, mut rss, mut leaked_before) = (Calls::default(), [0; 2], 0);
    let swapped = thread::scope(|scope| {
        let (handle, stop) = (&handle, &stop);
        let callers: Vec<_> = methods
            .iter()
            .map(|&method| scope.spawn(move || calls(handle, method, stop)))
            .collect();
        let mut all = || {
            for number in 1..=count {
                swapper.swap().with_context(|| format!("swap {number} of {count}"))?;
                if number == WARM_SWAPS.min(count / 2) {
                    swapper.settle(0)?;
                    rss[0] = process::rss_bytes()?;
                    leaked_before = swapper.stats.leaked_bytes;
                }
            }
            swapper.settle(0)?;
            rss[1] = process::rss_bytes()?;
            anyhow::Ok(())
        };
        let swapped = all();
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            let calls = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
            sum.add(calls?);
        }
        swapped
    });
    let seconds = start.elapsed().as_secs_f64();
    if let Some(first) = &sum.first {
        eprintln!("{} failed, {} wrong, first: {first}", sum.failed, sum.wrong);
    }
    swapped?;
    swapper.settle_kept()?;
    // The serving library is mapped.
    let mapped = process::mapped(&staging)?.len().saturating_sub(1);
    let stats = std::mem::take(&mut swapper.stats);
    swapper.end();
    let mapped_after = process::mapped(&staging)?.len();
    let leaked = stats.leaked_bytes - leaked_before;
    Ok(Run { calls: sum, stats, seconds, rss, leaked, mapped, mapped_after })
}
