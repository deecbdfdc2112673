//! A thousand plugin folders: listed by the command, loaded and unloaded by a host. Each
//! measurement runs in a subprocess.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use hotbay::Host;

use crate::fixtures::{Fixtures, Library, block_on, command, folder, install};
use crate::process::{self, Usage, numbers, own};
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MAX_LIST_MS: f64 = 300.0;
const MAX_LIST_MIB: f64 = 40.0;
/// Of two cores: 1.0 would be one.
const MIN_CORES: f64 = 1.5;
/// Maximum cost per plugin at the largest count, relative to the smallest.
const MAX_GROWTH: f64 = 1.25;

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let counts: &[usize] = if quick { &[5, 10] } else { &[100, 300, 1000] };
    let repeats = if quick { 1 } else { 7 };
    let dir = folder()?;
    let library = Library::copy("bench-echo", &fixtures.counted, dir.path())?;
    let mut dirs = Vec::new();
    for count in counts {
        let plugins = dir.path().join(format!("{count}"));
        fs::create_dir(&plugins)?;
        for number in 0..*count {
            install(&library, &plugins, &format!("echo-{number:04}"), "heap")?;
        }
        dirs.push((*count, plugins));
    }
    if let Some((count, plugins)) = dirs.last() {
        report.print(&listed(*count, plugins, repeats)?);
    }
    let mut loads = Vec::new();
    for _ in 0..repeats.min(5) {
        for (count, plugins) in &dirs {
            let mut child = child("load", plugins)?;
            loads.push((*count, numbers::<5>(&mut child)?));
        }
    }
    report.print(&loaded(counts, &loads));
    Ok(())
}

fn child(what: &str, plugins: &Path) -> anyhow::Result<std::process::Command> {
    let plugins = plugins.display().to_string();
    process::this_program(&["--child".to_owned(), what.to_owned(), plugins])
}

fn listed(count: usize, plugins: &Path, repeats: usize) -> anyhow::Result<Table> {
    let command = command()?;
    let out = plugins.with_extension("out");
    let (mut list, mut survey) = (Vec::new(), Vec::new());
    let mut lines = 0;
    for _ in 0..repeats {
        let mut hotbay = process::program(&command);
        hotbay.arg("list").arg("--dir").arg(plugins);
        list.push(process::measured(&mut hotbay, File::create(&out)?)?);
        let output = fs::read_to_string(&out)?;
        lines = output.lines().filter(|line| line.contains("echo-")).count();
        survey.push(process::measured(&mut child("survey", plugins)?, File::create(&out)?)?);
    }
    let mut table = Table::new(
        format!("Many: survey of {count} folders, without running plugin code"),
        ["what", "ms, min", "ms, p50", "cores", "peak MiB", "goal", ""],
    );
    let all = lines >= count;
    for (what, usages) in [("hotbay list", list), ("`inspect::survey`", survey)] {
        let ms = |part| {
            let times = usages.iter().map(|usage| usage.wall.as_secs_f64() * 1e3);
            quantile(times.collect(), part)
        };
        let bytes = usages.iter().map(|usage| usage.max_rss_bytes).max();
        let mib = bytes.unwrap_or_default() as f64 / f64::from(1 << 20);
        let is_goal = what == "hotbay list";
        table.row([
            what.to_owned(),
            format!("{:.0}", ms(0.0)),
            format!("{:.0}", ms(0.5)),
            format!("{:.2}", cores(&usages)),
            format!("{mib:.1}"),
            if is_goal { format!("≤ {MAX_LIST_MS} ms, ≤ {MAX_LIST_MIB} MiB") } else { none() },
            if is_goal {
                verdict(all && ms(0.5) <= MAX_LIST_MS && mib <= MAX_LIST_MIB)
            } else {
                none()
            },
        ]);
    }
    if !all {
        table.note(format!("`hotbay list` printed {lines} plugins instead of {count}."));
    }
    table.note("`cores` is the CPU time divided by the wall-clock time.");
    Ok(table)
}

fn cores(usages: &[Usage]) -> f64 {
    let cores = usages.iter().map(|usage| usage.cpu.as_secs_f64() / usage.wall.as_secs_f64());
    quantile(cores.collect(), 0.5)
}

fn loaded(counts: &[usize], loads: &[(usize, [f64; 5])]) -> Table {
    let mut table = Table::new(
        "Many: loading all folders, then shutting down (best runs)",
        ["what", "µs per plugin", "cores", "MiB in total", "goal", ""],
    );
    let best = |count: usize, number: usize, best: fn(f64, f64) -> f64| {
        let found = loads.iter().filter(|(found, _)| *found == count);
        found.map(|(_, numbers)| numbers[number]).reduce(best)
    };
    for (what, at) in [("load", 0), ("shutdown", 2)] {
        let first =
            counts.first().and_then(|count| Some(best(*count, at, f64::min)? / *count as f64));
        for count in counts {
            let time = best(*count, at, f64::min).unwrap_or(f64::NAN) / *count as f64;
            let cores = best(*count, at + 1, f64::max).unwrap_or(f64::NAN);
            let rss = best(*count, 4, f64::max).unwrap_or(f64::NAN) / f64::from(1 << 20);
            let growth = first.map_or(f64::NAN, |first| time / first);
            table.row([
                format!("{what}, {count}"),
                us_of_ns(time),
                format!("{cores:.2}"),
                if at == 0 { format!("{rss:.0}") } else { none() },
                format!("≥ {MIN_CORES} cores, ≤ {MAX_GROWTH} × first row"),
                format!(
                    "cores {}, growth {growth:.2} {}",
                    verdict(cores >= MIN_CORES),
                    verdict(growth <= MAX_GROWTH)
                ),
            ]);
        }
    }
    table.note(
        "The folders contain hard links to one library; each load copies and checks it \
        again.",
    );
    table
}

fn us_of_ns(ns: f64) -> String {
    format!("{:.0}", ns / 1e3)
}

/// Runs as the child that loads; prints wall time and cores of the load and of the shutdown, and
/// bytes.
pub(crate) fn load(plugins: &Path) -> anyhow::Result<()> {
    let host = Host::builder().plugin_dir(plugins).build()?;
    let (report, load) = timed(|| block_on(host.load_all()))?;
    ensure!(report.is_clean(), "refused: {:?}", report.refused.first());
    ensure!(!report.loaded.is_empty(), "nothing was loaded");
    let rss = process::rss_bytes()?;
    let ((), end) = timed(|| block_on(host.shutdown(Duration::from_secs(60))))?;
    ensure!(host.retained().is_empty(), "kept: {:?}", host.retained().first());
    println!("{} {} {} {} {rss}", load.0, load.1, end.0, end.1);
    Ok(())
}

/// Returns wall time in nanoseconds, and the number of busy cores.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, (f64, f64))> {
    let cpu = own().cpu;
    let start = std::time::Instant::now();
    let done = work()?;
    let wall = start.elapsed();
    let cpu = own().cpu - cpu;
    let times = (wall.as_nanos() as f64, cpu.as_secs_f64() / wall.as_secs_f64());
    Ok((done, times))
}

/// Runs as the child that surveys all folders without running plugins.
pub(crate) fn survey(plugins: &Path) -> anyhow::Result<()> {
    let survey = hotbay::inspect::survey(&Host::builder().plugin_dir(plugins));
    let (found, problems) = (survey.plugins, survey.errors);
    ensure!(problems.is_empty(), "{problems:?}");
    let problem = found.iter().find_map(|one| one.problem.as_ref());
    ensure!(problem.is_none(), "{problem:?}");
    println!("{}", found.len());
    Ok(())
}
