//! Time from the spawn of a program to its first reply: by the host, and by hand.

use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use hotbay::HostEvent;
use hotbay_tests::{end_process, processes_of};
use hyper::Method;

use super::setup::{BODY, Launched, Place, request};
use crate::fixtures::{block_on, install_program};
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MAX_ABOVE_MS: f64 = 5.0;

pub(super) fn measure(place: &Place, quick: bool, report: &Report) -> anyhow::Result<()> {
    let rounds = if quick { 3 } else { 100 };
    let mut times = [const { Vec::new() }; 5];
    let other = install_program(&place.program, &place.dir.path().join("plugins"), "other")?;
    let mut events = place.host.events();
    for _ in 0..rounds {
        let start = Instant::now();
        let launched = Launched::start(&place.program, place.dir.path())?;
        let (runtime, mut client) = launched.connect()?;
        runtime.block_on(client.send(Method::GET, "/healthz", Bytes::new()))?;
        times[0].push(ms_since(start));
        ensure!(runtime.block_on(client.call(&BODY))?[..] == BODY, "unexpected reply");
        times[1].push(ms_since(start));
        drop(launched);

        let start = Instant::now();
        let echo = block_on(place.host.load(&other))??;
        ensure!(echo.call(request())?.as_bytes() == BODY, "unexpected reply");
        times[2].push(ms_since(start));
        block_on(place.host.unload("other"))??;

        let [process] = processes_of("echo")[..] else { anyhow::bail!("`echo` does not run") };
        ensure!(place.echo.call(request())?.as_bytes() == BODY, "unexpected reply");
        let start = Instant::now();
        ensure!(end_process(process), "`echo` has exited already");
        let answer = place.echo.call(request().with_idempotent(true))?;
        times[3].push(ms_since(start));
        ensure!(answer.as_bytes() == BODY, "unexpected reply");
        times[4].push(block_on(restarted(&mut events))?? as f64);
    }
    report.print(&table(rounds, &times));
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

async fn restarted(events: &mut hotbay::Events) -> anyhow::Result<u64> {
    loop {
        match events.next().await.context("the host was dropped")? {
            HostEvent::Restarted { after, .. } => return Ok(u64::try_from(after.as_millis())?),
            _ => continue,
        }
    }
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
