//! A million panicking calls: all of them run, and memory does not grow.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use hotbay::{ErrorKind, Host, Request};

use crate::fixtures::{Fixtures, Library, block_on, folder, install};
use crate::process::{self, numbers, rss_bytes};
use crate::table::{Report, Table, none, verdict};

const FIRST: u64 = 1000;
const MAX_GROWTH_MIB: f64 = 1.0;

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let count: u64 = if quick { 20_000 } else { 1_000_000 };
    let dir = folder()?;
    let plugins = dir.path().join("plugins");
    for (package, built) in
        [("bench-echo", &fixtures.counted), ("bench-echo-uncounted", &fixtures.uncounted)]
    {
        let library = Library::copy(package, built, dir.path())?;
        install(&library, &plugins, package, "panic")?;
    }
    let head =
        ["what", "calls run", "µs per call", "MiB after 1,000", "MiB at the end", "goal", ""];
    let mut table = Table::new(format!("Panics: {count} calls without quarantine"), head);
    for package in ["bench-echo", "bench-echo-uncounted"] {
        for backtrace in [None, Some("1")] {
            let folder = plugins.join(package).display().to_string();
            let arguments = ["--child", "panics", &folder, &count.to_string()];
            let mut child = process::this_program(&arguments.map(str::to_owned))?;
            child.env_remove("RUST_BACKTRACE");
            child.env_remove("RUST_LIB_BACKTRACE");
            child.envs(backtrace.map(|value| ("RUST_BACKTRACE", value)));
            let [ran, ns, first, last] = numbers(&mut child)?;
            let mib = |bytes: f64| bytes / f64::from(1 << 20);
            let counted = if package == "bench-echo" { "counted" } else { "uncounted" };
            table.row([
                match backtrace {
                    None => counted.to_owned(),
                    Some(value) => format!("{counted}, RUST_BACKTRACE={value}"),
                },
                format!("{ran}"),
                format!("{:.2}", ns / 1e3),
                format!("{:.2}", mib(first)),
                format!("{:.2}", mib(last)),
                format!("all run, ≤ +{MAX_GROWTH_MIB} MiB"),
                if quick {
                    none()
                } else {
                    verdict(ran == count as f64 && mib(last - first) <= MAX_GROWTH_MIB)
                },
            ]);
        }
    }
    report.print(&table);
    Ok(())
}

/// Runs as the child that makes the calls; prints the number of runs, nanoseconds per call, and
/// bytes at the start and at the end.
pub(crate) fn child(folder: &Path, count: &OsStr) -> anyhow::Result<()> {
    let count: u64 = count.to_string_lossy().parse()?;
    let host = Host::builder().quarantine(None).build()?;
    let plugin = block_on(host.load(folder))??;
    let panic = || match plugin.call(Request::bytes(b"x")) {
        Err(error) if error.kind() == ErrorKind::Panicked => Ok(()),
        other => anyhow::bail!("expected a panic, found {other:?}"),
    };
    for _ in 0..FIRST {
        panic()?;
    }
    let first = rss_bytes()?;
    let start = Instant::now();
    for _ in FIRST..count {
        panic()?;
    }
    let ns = start.elapsed().as_nanos() as f64 / (count - FIRST) as f64;
    let last = rss_bytes()?;
    let ran = plugin.call(Request::bytes(b""))?;
    let ran: u64 = ran.as_text()?.parse()?;
    ensure!(ran == count, "the plugin ran {ran} times");
    println!("{ran} {ns} {first} {last}");
    Ok(())
}
