//! Reloads a large library many times under load: the process does not grow by what was read. Debug
//! builds have tens of megabytes, which are read whole at each reload.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use hotbay::Host;

use super::load::{CallMethod, calls, configs};
use super::swapper::Swapper;
use crate::builds::{Builds, Kind};
use crate::fixtures;
use crate::process;
use crate::table::{Report, Table, none, verdict};

/// Size of a debug build of a plugin with a few dependencies.
const LIBRARY_BYTES: usize = 30 << 20;
/// Number of warm-up swaps.
const WARM_SWAPS: u64 = 5;
const MAX_GROWTH: f64 = (20 << 20) as f64;

pub(crate) fn soak(count: u64, report: &Report) -> anyhow::Result<bool> {
    let dir = fixtures::folder()?;
    let mut library = fs::read(fixtures::library("transform")?)?;
    // Bytes after the end of an ELF file are read but not mapped.
    library.resize(LIBRARY_BYTES.max(library.len()), 0);
    let large = dir.path().join("large");
    fs::write(&large, &library)?;
    drop(library);
    let configs = configs();
    let kind = Kind { package: "transform", handover: "overlap", configs: &configs };
    let builds = Builds::new(dir.path(), "transform", &large, kind)?;
    let staging = dir.path().join("staged");
    fs::create_dir(&staging)?;
    let host = Host::builder().staging_dir(&staging).build()?;
    let mut swapper = Swapper::new(host, &builds)?;
    let handle = swapper.host.plugin("transform")?;
    let stop = AtomicBool::new(false);
    let (mut before, mut most) = (0, 0);
    let (made, swapped) = thread::scope(|scope| {
        let (handle, stop) = (&handle, &stop);
        let callers = [CallMethod::Execute, CallMethod::Call]
            .map(|method| scope.spawn(move || calls(handle, method, stop)));
        let mut all = || {
            for number in 1..=count {
                swapper.swap().with_context(|| format!("swap {number} of {count}"))?;
                let now = process::anonymous_bytes()?;
                if number <= WARM_SWAPS {
                    before = now;
                }
                most = most.max(now);
            }
            swapper.settle(0)
        };
        let swapped = all();
        stop.store(true, Ordering::Relaxed);
        let made = callers.map(|caller| caller.join().map(|calls| calls.map(|calls| calls.made)));
        (made, swapped)
    });
    swapped?;
    let mut sum = 0;
    for calls in made {
        sum += calls.map_err(|_| anyhow::anyhow!("a caller panicked"))??;
    }
    let after = process::anonymous_bytes()?;
    let mib = |bytes: u64| format!("{:.2}", bytes as f64 / f64::from(1 << 20));
    let mut table = Table::new(
        format!("Large: {count} swaps of a library of {} MiB, under load", LIBRARY_BYTES >> 20),
        ["what", "found", "goal", ""],
    );
    let mut plain = |what: &str, found: String| table.row([what.to_owned(), found, none(), none()]);
    plain("calls", sum.to_string());
    plain("MiB of anonymous memory after warm-up", mib(before));
    plain("peak MiB", mib(most));
    plain("MiB at the end", mib(after));
    let grown = after as f64 - before as f64;
    let is_met = grown <= MAX_GROWTH;
    table.row([
        "MiB growth".to_owned(),
        format!("{:.2}", grown / f64::from(1 << 20)),
        "≤ 20".to_owned(),
        verdict(is_met),
    ]);
    report.print(&table);
    swapper.stats.check()?;
    swapper.end();
    Ok(is_met)
}
