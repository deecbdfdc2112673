//! Time from the spawn of a program to its first reply: by the host, and by hand.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use hotbay::{HostEvent, PluginHandle, PluginName};
use hotbay_tests::{end_process, processes_of};
use hyper::Method;
use serde_json::{Value, json};

use super::setup::{BODY, Launched, Place, request};
use crate::fixtures::{block_on, install_program};
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MAX_ABOVE_MS: f64 = 5.0;
/// Maximum time that confinement adds to a start, or to a load.
const MAX_CONFINEMENT_MS: f64 = 1.0;
/// Maximum ratio of a call of a confined program.
const MAX_CALL_RATIO: f64 = 1.02;
const CALLS: u32 = 500;
/// The orders of three plugins.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]];

pub(super) fn measure(place: &Place, quick: bool, report: &Report) -> anyhow::Result<()> {
    let rounds = if quick { 3 } else { 100 };
    let mut times = [const { Vec::new() }; 5];
    let names = ["free", "confined", "separated"];
    let mut samples = [const { Samples::EMPTY }; 3];
    let install = |name| install_program(&place.program, &place.dir.path().join("plugins"), name);
    let folders = [install(names[0])?, install(names[1])?, install(names[2])?];
    confine(&folders[1], false)?;
    confine(&folders[2], true)?;
    let mut events = place.host.events();
    for round in 0..rounds {
        let start = Instant::now();
        let launched = Launched::start(&place.program, place.dir.path())?;
        let (runtime, mut client) = launched.connect()?;
        runtime.block_on(client.send(Method::GET, "/healthz", Bytes::new()))?;
        times[0].push(ms_since(start));
        ensure!(runtime.block_on(client.call(&BODY))?[..] == BODY, "unexpected reply");
        times[1].push(ms_since(start));
        drop(launched);

        // In all orders, since one that follows another may be slower.
        for at in ORDERS[round % ORDERS.len()] {
            samples[at].add(place, &folders[at])?;
        }

        times[3].push(restart_ms(&place.echo)?);
        times[4].push(block_on(restarted(&mut events, place.echo.name()))?? as f64);
    }
    times[2].clone_from(&samples[0].loads_ms);
    report.print(&table(rounds, &times));
    report.print(&confinement(rounds, &samples));
    ensure!(place.folder.exists(), "the plugin's folder is missing");
    Ok(())
}

fn table(rounds: usize, times: &[Vec<f64>; 5]) -> Table {
    let title = format!("Processes: from spawn to first reply, {rounds} each (ms)");
    let mut table = Table::new(title, ["what", "min", "p50", "p99", "over bare", "goal", ""]);
    let names = [
        "bare: spawn to first `/healthz`",
        "bare: spawn to first reply",
        "`Host::load` to first reply",
        "SIGKILL to next reply",
        "the part that `Restarted` reports",
    ];
    for (index, name) in names.into_iter().enumerate() {
        let at = |part| format!("{:.2}", quantile(times[index].clone(), part));
        let pairs = times[index].iter().zip(&times[1]);
        let above = quantile(pairs.map(|(own, bare)| own - bare).collect(), 0.5);
        let is_goal = [2, 3].contains(&index);
        table.row([
            name.to_owned(),
            at(0.0),
            at(0.5),
            at(0.99),
            if is_goal { format!("+{above:.2}") } else { none() },
            if is_goal { format!("≤ +{MAX_ABOVE_MS}") } else { none() },
            if is_goal { verdict(above <= MAX_ABOVE_MS) } else { none() },
        ]);
    }
    table.note(
        "Bare: `Command::spawn`, read a line of stdout, connect, send a request. A load also reads \
         the manifest, checks the digest, copies the program, and runs it with `capabilities`. It \
         creates a private folder, the socket of the host's services and a guardian (a shell), and \
         checks the health. A restart detects the exit, kills the rest of the process's group, and \
         starts the program again.",
    );
    table
}

/// Loads, starts and calls of one plugin.
struct Samples {
    /// From the load to the first reply.
    loads_ms: Vec<f64>,
    /// From SIGKILL to the next reply.
    starts_ms: Vec<f64>,
    /// The median of each round.
    calls_us: Vec<f64>,
}

impl Samples {
    const EMPTY: Self = Self { loads_ms: Vec::new(), starts_ms: Vec::new(), calls_us: Vec::new() };

    /// Loads a plugin, calls it, ends its process, calls it again and unloads it.
    fn add(&mut self, place: &Place, folder: &Path) -> anyhow::Result<()> {
        let start = Instant::now();
        let plugin = block_on(place.host.load(folder))??;
        ensure!(plugin.call(request())?.as_bytes() == BODY, "unexpected reply");
        self.loads_ms.push(ms_since(start));
        self.calls_us.push(time_calls(&plugin)?);
        self.starts_ms.push(restart_ms(&plugin)?);
        block_on(place.host.unload(plugin.name().as_str()))??;
        Ok(())
    }
}

/// Ends the process of a plugin, and returns the time until the next reply.
fn restart_ms(plugin: &PluginHandle) -> anyhow::Result<f64> {
    let name = plugin.name().as_str();
    ensure!(plugin.call(request())?.as_bytes() == BODY, "unexpected reply");
    let [process] = processes_of(name)[..] else {
        anyhow::bail!("expected one process of `{name}`")
    };
    let start = Instant::now();
    ensure!(end_process(process), "`{name}` has exited already");
    let answer = plugin.call(request().with_idempotent(true))?;
    let took = ms_since(start);
    ensure!(answer.as_bytes() == BODY, "unexpected reply");
    Ok(took)
}

/// Adds a sandbox to the manifest in `folder`.
fn confine(folder: &Path, namespaces: bool) -> anyhow::Result<()> {
    let file = folder.join("plugin.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    manifest["sandbox"] =
        json!({ "write": ["{tmp}"], "namespaces": namespaces, "limits": { "processes": 1 } });
    std::fs::write(&file, manifest.to_string())?;
    Ok(())
}

/// Returns the median time of a call, in microseconds.
fn time_calls(echo: &PluginHandle) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        echo.call(request())?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(quantile(times, 0.5))
}

fn confinement(rounds: usize, [free, confined @ ..]: &[Samples; 3]) -> Table {
    let title = format!("Confinement of programs, {rounds} loads and starts each");
    let mut table = Table::new(title, ["what", "without", "with", "difference", "goal", ""]);
    let median = |times: &[f64]| quantile(times.to_vec(), 0.5);
    let pairs = |with: &[f64], free: &[f64], of: fn((&f64, &f64)) -> f64| {
        quantile(with.iter().zip(free).map(of).collect(), 0.5)
    };
    for (with, suffix) in confined.iter().zip(["", ", in namespaces"]) {
        for (what, with, free) in [
            ("start: SIGKILL to next reply", &with.starts_ms, &free.starts_ms),
            ("`Host::load` to first reply", &with.loads_ms, &free.loads_ms),
        ] {
            let added = pairs(with, free, |(with, free)| with - free);
            table.row([
                format!("{what}{suffix} (ms)"),
                format!("{:.2}", median(free)),
                format!("{:.2}", median(with)),
                format!("{added:+.2}"),
                format!("≤ +{MAX_CONFINEMENT_MS}"),
                verdict(added <= MAX_CONFINEMENT_MS),
            ]);
        }
        let ratio = pairs(&with.calls_us, &free.calls_us, |(with, free)| with / free);
        table.row([
            format!("`call` of 16 bytes{suffix} (µs)"),
            format!("{:.1}", median(&free.calls_us)),
            format!("{:.1}", median(&with.calls_us)),
            format!("× {ratio:.2}"),
            format!("≤ × {MAX_CALL_RATIO}"),
            verdict(ratio <= MAX_CALL_RATIO),
        ]);
    }
    table.note(
        "Plugins with and without a sandbox take turns, in all orders; differences and ratios are \
         medians of pairs. A load starts the program twice: for `capabilities`, and to serve. Each \
         start of a confined one opens the paths of its policy, creates a Landlock ruleset, and \
         compiles its filter.",
    );
    table
}

async fn restarted(events: &mut hotbay::Events, name: &PluginName) -> anyhow::Result<u64> {
    loop {
        match events.next().await.context("the host was dropped")? {
            HostEvent::Restarted { plugin, after, .. } if plugin == *name => {
                return Ok(u64::try_from(after.as_millis())?);
            }
            _ => continue,
        }
    }
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
