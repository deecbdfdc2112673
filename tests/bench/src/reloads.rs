//! Time from an installed build to its first reply: watched, on request, and by loaders without
//! hotbay.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hot_lib_reloader::LibReloader;
use hotbay::{Host, PluginHandle, Request};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::builds::{Builds, Kind};
use crate::fixtures::{Fixtures, folder};
use crate::raw;
use crate::sample::quantile;
use crate::table::{Report, Table, none, us, verdict};

const MAX_P50_MS: f64 = 1.2;
/// Fails the benchmark.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest debounce time.
const DEBOUNCE: Duration = Duration::from_millis(1);

const WATCHED: &str = "watched: library and manifest";
const REQUESTED: &str = "`Host::reload` of the same files";
const LOAD: &str = "`Host::load` under a new name";

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let rounds = if quick { 5 } else { 200 };
    let dir = folder()?;
    let configs = [json!({ "output": "in-place" }), json!({ "output": "heap" })];
    let kind = Kind { package: "bench-echo", handover: "overlap", configs: &configs };
    let of = |name: &str, dir: &Path| Builds::new(dir, name, &fixtures.counted, kind);
    let watched_dir = dir.path().join("watched");
    let requested_dir = dir.path().join("requested");
    for dir in [&watched_dir, &requested_dir] {
        fs::create_dir_all(dir.join("plugins"))?;
    }
    let builds = of("echo", &watched_dir)?;
    let mut watched = Place::new(
        Host::builder().plugin_dir(watched_dir.join("plugins")).hot_reload(true).build()?,
        &builds,
    )?;
    let builds = of("echo", &requested_dir)?;
    let mut requested = Place::new(Host::builder().build()?, &builds)?;
    let other = of("other", &requested_dir)?;
    let config_only = [json!({ "output": "heap" }), json!({ "output": "in-place" })];
    let mut reloader = Reloader::new(dir.path(), &fixtures.raw)?;
    let mut unique = Unique::new(dir.path(), &fixtures.raw)?;

    let names = [
        WATCHED,
        "watched: manifest only",
        REQUESTED,
        LOAD,
        "copy to a unique path, `dlopen`, `dlclose`",
        "hot-lib-reloader, 1 ms",
    ];
    let mut times = [const { Vec::new() }; 6];
    for round in 0..rounds {
        let which = (round + 1) % 2;
        times[0].push(watched.watched(which)?);
        times[1].push(watched.configured(&config_only[which])?);
        times[2].push(requested.requested(which)?);
        times[3].push(requested.loaded(&other)?);
        times[4].push(unique.reload()?);
        times[5].push(reloader.reload(which)?);
    }
    report.print(&table(rounds, names, &times));
    Ok(())
}

fn table(rounds: usize, names: [&str; 6], times: &[Vec<f64>; 6]) -> Table {
    let title = format!("Reloads: from the last rename to the first reply, {rounds} each (µs)");
    let head = ["what", "min", "p50", "p99", "max", "goal", ""];
    let mut table = Table::new(title, head);
    let at = |row: usize, part| quantile(times[row].clone(), part);
    let [watched, alone, requested, load] = [0, 1, 2, 3].map(|row| at(row, 0.5));
    for (row, name) in names.into_iter().enumerate() {
        let cells = [0.0, 0.5, 0.99, 1.0].map(|part| us(at(row, part)));
        let [min, p50, p99, max] = cells;
        let (goal, met) = match name {
            WATCHED => (format!("p50 ≤ {MAX_P50_MS} ms"), verdict(watched / 1e6 <= MAX_P50_MS)),
            _ => (none(), none()),
        };
        table.row([name.to_owned(), min, p50, p99, max, goal, met]);
    }
    table.note(format!(
        "By the medians, a watched reload takes {} µs longer than a load. Of these, {} µs are the \
         swap (snapshot, config of the new generation, promote) and {} µs the watch (file event, \
         thread wake-ups, check of sizes and times). The watch includes {} µs for the library's \
         rename, which is checked before the manifest's rename arrives.",
        us(watched - load),
        us(requested - load),
        us(watched - requested),
        us(watched - alone),
    ));
    table.note(
        "`dlopen` alone checks, starts and drains nothing. hot-lib-reloader copies the library, \
         computes a CRC, opens the copy and closes the old one. Its time ends when `update` \
         returns true.",
    );
    table
}

/// A host with one plugin, and its builds.
struct Place<'a> {
    host: Host,
    handle: PluginHandle,
    builds: &'a Builds,
    runtime: Runtime,
}

impl<'a> Place<'a> {
    fn new(host: Host, builds: &'a Builds) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let handle = runtime.block_on(host.load(&builds.folder))?;
        Ok(Self { host, handle, builds, runtime })
    }

    /// Renames library and manifest into place, one after the other.
    fn watched(&mut self, which: usize) -> anyhow::Result<f64> {
        let [library, manifest] = self.builds.ready(which)?;
        let before = self.generation()?;
        library.put()?;
        let start = Instant::now();
        manifest.put()?;
        self.answered_after(before, start)
    }

    /// Renames only the manifest into place, with another config.
    fn configured(&mut self, config: &Value) -> anyhow::Result<f64> {
        let manifest = self.builds.ready_manifest(config)?;
        let before = self.generation()?;
        let start = Instant::now();
        manifest.put()?;
        self.answered_after(before, start)
    }

    fn requested(&mut self, which: usize) -> anyhow::Result<f64> {
        self.builds.put(which)?;
        let before = self.generation()?;
        let start = Instant::now();
        self.runtime.block_on(self.host.reload("echo"))?;
        self.answered_after(before, start)
    }

    fn loaded(&mut self, builds: &Builds) -> anyhow::Result<f64> {
        let start = Instant::now();
        let handle = self.runtime.block_on(self.host.load(&builds.folder))?;
        handle.call(Request::text("first"))?;
        let took = start.elapsed();
        let name = handle.name().to_string();
        self.runtime.block_on(self.host.unload(&name))?;
        Ok(took.as_nanos() as f64)
    }

    /// Calls until another generation answers, then waits until the old one is closed.
    fn answered_after(&self, before: u64, start: Instant) -> anyhow::Result<f64> {
        while self.generation()? == before {
            ensure!(start.elapsed() < WAIT_TIMEOUT, "the new build did not answer");
            thread::yield_now();
        }
        let took = start.elapsed();
        // The next round starts when nothing of this one is left to do.
        thread::sleep(Duration::from_millis(5));
        Ok(took.as_nanos() as f64)
    }

    /// Returns the generation that answers.
    fn generation(&self) -> anyhow::Result<u64> {
        Ok(self.handle.call(Request::text("who"))?.generation().get())
    }
}

/// The minimum that a loader does.
struct Unique {
    built: PathBuf,
    dir: PathBuf,
    number: u64,
    library: Option<libloading::Library>,
}

impl Unique {
    fn new(dir: &Path, built: &Path) -> anyhow::Result<Self> {
        let (built, dir) = (built.to_owned(), dir.join("unique"));
        fs::create_dir(&dir)?;
        let mut unique = Self { built, dir, number: 0, library: None };
        unique.reload()?;
        Ok(unique)
    }

    fn reload(&mut self) -> anyhow::Result<f64> {
        self.number += 1;
        let copy = self.dir.join(format!("{}.so", self.number));
        let start = Instant::now();
        fs::copy(&self.built, &copy)?;
        let library = raw::open(&copy)?;
        raw::header_of(&library)?;
        if let Some(before) = self.library.replace(library) {
            before.close()?;
        }
        let took = start.elapsed();
        fs::remove_file(copy)?;
        Ok(took.as_nanos() as f64)
    }
}

/// hot-lib-reloader, and the two builds that it swaps.
struct Reloader {
    reloader: LibReloader,
    dir: PathBuf,
    builds: [Vec<u8>; 2],
}

impl Reloader {
    fn new(dir: &Path, built: &Path) -> anyhow::Result<Self> {
        let dir = dir.join("reloader");
        fs::create_dir(&dir)?;
        let library = fs::read(built)?;
        let builds = [library.clone(), [library, vec![0]].concat()];
        fs::write(dir.join("libbench_raw.so"), &builds[0])?;
        let reloader = LibReloader::new(&dir, "bench_raw", Some(DEBOUNCE), None);
        let reloader = reloader.map_err(|error| anyhow::anyhow!("{error}"))?;
        // It starts watching on its own thread, without a notification.
        thread::sleep(Duration::from_millis(200));
        Ok(Self { reloader, dir, builds })
    }

    fn reload(&mut self, which: usize) -> anyhow::Result<f64> {
        let next = self.dir.join("next");
        fs::write(&next, &self.builds[which])?;
        let start = Instant::now();
        fs::rename(&next, self.dir.join("libbench_raw.so"))?;
        loop {
            match self.reloader.update() {
                Ok(true) => break,
                Ok(false) if start.elapsed() < WAIT_TIMEOUT => thread::yield_now(),
                Ok(false) => bail!("hot-lib-reloader missed the change"),
                Err(error) => return Err(anyhow::anyhow!("{error}")).context("hot-lib-reloader"),
            }
        }
        let took = start.elapsed();
        thread::sleep(Duration::from_millis(20));
        Ok(took.as_nanos() as f64)
    }
}
