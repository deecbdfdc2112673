//! Loading one plugin: the host compared with a raw loader of the same file, step by step.

use std::time::Instant;

use anyhow::ensure;
use hotbay::Host;
use sha2::{Digest, Sha256};

use crate::fixtures::{Fixtures, Library, block_on, folder, install};
use crate::raw::{STEPS, load_hotbay_library};
use crate::sample::quantile;
use crate::table::{Report, Table, none, us, verdict};

const MAX_RATIO: f64 = 1.3;

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let dir = folder()?;
    let library = Library::copy("bench-echo", &fixtures.counted, dir.path())?;
    let plugin = install(&library, &dir.path().join("plugins"), "echo", "heap")?;
    let expected = Sha256::digest(std::fs::read(&library.file)?);
    let host = Host::builder().build()?;
    let rounds = if quick { 5 } else { 400 };
    let mut steps = [const { Vec::new() }; STEPS.len()];
    let mut raw = [const { Vec::new() }; 2];
    let mut own = [const { Vec::new() }; 2];
    for round in 0..rounds {
        let copy = dir.path().join(format!("raw-{round}.so"));
        let (times, back) = load_hotbay_library(&library.file, &copy, &expected)?;
        for (step, time) in steps.iter_mut().zip(times) {
            step.push(time);
        }
        let load = times.iter().sum::<f64>();
        raw[0].push(load);
        raw[1].push(load + back);

        let start = Instant::now();
        block_on(host.load(&plugin))??;
        own[0].push(start.elapsed().as_nanos() as f64);
        block_on(host.unload("echo"))??;
        own[1].push(start.elapsed().as_nanos() as f64);
    }
    ensure!(host.retained().is_empty(), "libraries were retained: {:?}", host.retained());
    report.print(&table(library.length, rounds, raw, own));
    report.print(&table_of_steps(steps));
    Ok(())
}

fn table(length: u64, rounds: usize, raw: [Vec<f64>; 2], own: [Vec<f64>; 2]) -> Table {
    let kib = length >> 10;
    let title = format!("Loads: a library of {kib} KiB, {rounds} loads each (µs)");
    let head =
        ["what", "raw, min", "raw, p50", "hotbay, min", "hotbay, p50", "p50 ratio", "goal", ""];
    let mut table = Table::new(title, head);
    let whats = ["load", "load and unload"];
    for ((what, raw), own) in whats.into_iter().zip(raw).zip(own) {
        let at = |times: &[f64], part| quantile(times.to_vec(), part);
        let ratio = at(&own, 0.5) / at(&raw, 0.5);
        let is_goal = what == "load";
        table.row([
            what.to_owned(),
            us(at(&raw, 0.0)),
            us(at(&raw, 0.5)),
            us(at(&own, 0.0)),
            us(at(&own, 0.5)),
            format!("{ratio:.2}"),
            if is_goal { format!("≤ {MAX_RATIO}") } else { none() },
            if is_goal { verdict(ratio <= MAX_RATIO) } else { none() },
        ]);
    }
    table.note(
        "The raw load: read, SHA-256, write under a new name, `dlopen`, abi_stable's check with \
         its own checker, `start`. The raw unload: discard, `dlclose`, remove the copy. The host's \
         load adds: manifest, schema, file permissions, segments, stamp, versions, a thread for \
         the plugin's code, health. Its unload adds: drain, shutdown, census, and a check that the \
         mapping is gone.",
    );
    table
}

fn table_of_steps(steps: [Vec<f64>; STEPS.len()]) -> Table {
    let mut table = Table::new("Loads: steps of the raw loader (µs)", ["step", "min", "p50"]);
    for (step, times) in STEPS.into_iter().zip(steps) {
        let at = |part| us(quantile(times.clone(), part));
        table.row([step.to_owned(), at(0.0), at(0.5)]);
    }
    table
}
