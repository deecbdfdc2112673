//! The inner loop of plugin development: the time from saving a source of the plugin `transform` to
//! the first reply of the new code, with a running host. Compared with cargo alone.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hotbay::{Host, PluginHandle, Request};
use tempfile::TempDir;

use crate::fixtures::{self, block_on};
use crate::process;
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};
use crate::workspace;

const MAX_MS: f64 = 400.0;
/// Fails the benchmark. A first build may take minutes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(600);
/// The time between an answer and the next edit, in which the old build is closed.
const PAUSE: Duration = Duration::from_millis(500);
/// The function that is edited.
const EDITED: &str = "src/case.rs";
const BEFORE: &str = "let mut out = String::with_capacity(text.len());\n";

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let edits = if quick { 3 } else { 20 };
    let command = fixtures::command()?;
    let watched = Project::new()?;
    let mut watch = Watch::start(&command, &watched)?;
    let other = Project::new()?;
    other.build(&command)?;
    let with_watch = Serving::start(&watched)?;
    let with_cargo = Serving::start(&other)?;
    let mut times = [const { Vec::new() }; 3];
    let mut steps: Vec<(String, Vec<f64>)> = Vec::new();
    // The first edits fill the caches of the compiler.
    for edit in 0..edits + 2 {
        let is_counted = edit >= 2;
        let start = watched.save(edit)?;
        let took = with_watch.answers(edit, start)?;
        let line = watch.durations()?;
        if is_counted {
            times[0].push(took);
            for (step, took) in durations(&line) {
                match steps.iter_mut().find(|(name, _)| *name == step) {
                    Some((_, all)) => all.push(took),
                    None => steps.push((step, vec![took])),
                }
            }
        }
        thread::sleep(PAUSE);

        let start = other.save(2 * edit)?;
        other.build(&command)?;
        let took = with_cargo.answers(2 * edit, start)?;
        if is_counted {
            times[1].push(took);
        }
        thread::sleep(PAUSE);

        let start = other.save(2 * edit + 1)?;
        other.cargo_build()?;
        if is_counted {
            times[2].push(start.elapsed().as_secs_f64() * 1e3);
        }
        thread::sleep(PAUSE);
    }
    report.print(&table(edits, &times, &steps));
    Ok(())
}

fn table(edits: u32, times: &[Vec<f64>; 3], steps: &[(String, Vec<f64>)]) -> Table {
    let title =
        format!("Inner loop: from a saved source of `transform` on, {edits} edits each (ms)");
    let mut table = Table::new(title, ["what", "best", "median", "max", "goal", ""]);
    let names = [
        "`hotbay build --watch`, to the new reply",
        "`hotbay build` after each edit, to the new reply",
        "`cargo build`, to its exit",
    ];
    for (row, (name, times)) in names.into_iter().zip(times).enumerate() {
        let [best, median, max] = [0.0, 0.5, 1.0].map(|part| quantile(times.clone(), part));
        let (goal, met) = match row {
            0 => (format!("median ≤ {MAX_MS:.0}"), verdict(median <= MAX_MS)),
            _ => (none(), none()),
        };
        let [best, median, max] = [best, median, max].map(|ms| format!("{ms:.0}"));
        table.row([name.to_owned(), best, median, max, goal, met]);
    }
    let steps: Vec<_> = steps
        .iter()
        .map(|(step, all)| format!("{step} {:.0} ms", quantile(all.clone(), 0.5)))
        .collect();
    table.note(format!("Medians of the steps of the first row: {}.", steps.join(", ")));
    table
}

/// Returns the steps of a line such as `  230 ms after the change: rustc 150 ms, link 40 ms`.
fn durations(line: &str) -> Vec<(String, f64)> {
    let steps = line.split_once(": ").map_or("", |(_, steps)| steps).split(", ");
    let parsed = steps.filter_map(|step| {
        let (name, ms) = step.strip_suffix(" ms")?.rsplit_once(' ')?;
        Some((name.to_owned(), ms.parse().ok()?))
    });
    parsed.collect()
}

/// A copy of the plugin in its own workspace, with the profiles and dependencies of this one.
struct Project {
    dir: TempDir,
    source: String,
}

impl Project {
    fn new() -> anyhow::Result<Self> {
        let root = workspace::root()?;
        let dir = workspace::create(&["transform"])?;
        let (from, to) = (root.join("plugins/transform"), dir.path().join("transform"));
        fs::create_dir_all(to.join("src"))?;
        fs::copy(from.join("Cargo.toml"), to.join("Cargo.toml"))?;
        for file in fs::read_dir(from.join("src"))? {
            let file = file?;
            fs::copy(file.path(), to.join("src").join(file.file_name()))?;
        }
        let manifest = fs::read_to_string(from.join("plugin.json"))?;
        let manifest = manifest.replace(r#""mode": "upper","#, r#""mode": "title","#);
        fs::write(to.join("plugin.json"), manifest)?;
        let source = fs::read_to_string(to.join(EDITED))?;
        ensure!(source.contains(BEFORE), "`{EDITED}` has changed; adapt this benchmark");
        Ok(Self { dir, source })
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Saves the source of this edit as editors do, and returns the time before.
    fn save(&self, edit: u32) -> anyhow::Result<Instant> {
        let after = format!("{BEFORE}    out.push_str(\"{} \");\n", marker(edit));
        let path = self.dir.path().join("transform").join(EDITED);
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, self.source.replacen(BEFORE, &after, 1))?;
        let start = Instant::now();
        fs::rename(temporary, path)?;
        Ok(start)
    }

    /// Builds and installs once.
    fn build(&self, command: &Path) -> anyhow::Result<()> {
        let mut build = process::program(command);
        build.args(["build", "transform", "--out", "out"]);
        self.run(&mut build)
    }

    fn cargo_build(&self) -> anyhow::Result<()> {
        workspace::cargo_build(self.dir.path(), "transform")
    }

    fn run(&self, command: &mut std::process::Command) -> anyhow::Result<()> {
        workspace::run(command, self.dir.path())
    }
}

fn marker(edit: u32) -> String {
    format!("edit-{edit}.")
}

/// `hotbay build --watch`, with the lines that it prints.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    /// Returns when the first build is installed.
    fn start(command: &Path, project: &Project) -> anyhow::Result<Self> {
        let mut watch = process::program(command);
        watch.args(["build", "transform", "--out", "out", "--watch"]).stdout(Stdio::piped());
        let mut child =
            workspace::configured(&mut watch, project.dir.path()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        // Ends with the command.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut watch = Self { child, lines };
        watch.line("watching")?;
        Ok(watch)
    }

    /// Waits for the line with the durations of a round.
    fn durations(&mut self) -> anyhow::Result<String> {
        self.line("ms after the change")
    }

    fn line(&mut self, text: &str) -> anyhow::Result<String> {
        loop {
            match self.lines.recv_timeout(WAIT_TIMEOUT) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(_) => {}
                Err(error) => bail!("no line with {text:?}: {error}"),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host that watches the installed plugin.
struct Serving {
    _host: Host,
    handle: PluginHandle,
}

impl Serving {
    fn start(project: &Project) -> anyhow::Result<Self> {
        let host = Host::builder().plugin_dir(project.out()).hot_reload(true).build()?;
        let report = block_on(host.load_all())?;
        if let Some(refused) = report.refused.first() {
            bail!("the plugin was refused: {}", refused.error.full_message());
        }
        let handle = host.plugin("transform")?;
        Ok(Self { _host: host, handle })
    }

    /// Calls until the code of this edit replies; every call before must succeed too.
    fn answers(&self, edit: u32, start: Instant) -> anyhow::Result<f64> {
        let expected = marker(edit);
        loop {
            let reply = self.handle.call(Request::text("text"))?;
            let took = start.elapsed();
            if reply.as_text()?.contains(&expected) {
                return Ok(took.as_secs_f64() * 1e3);
            }
            ensure!(took < WAIT_TIMEOUT, "edit {edit} did not answer");
            // Leaves the processor to the compiler.
            thread::sleep(Duration::from_micros(200));
        }
    }
}
