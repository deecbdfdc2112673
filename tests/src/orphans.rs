//! Kills hosts while their plugins run, and reports what is left of those plugins.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{Host, PluginHandle, Request};

use crate::{block_on, launch_folders, loaded, marked_processes, marks_below};

/// Line that the host process prints once its plugins have forked.
const FORKED: &str = "the plugins have forked";
/// Maximum wait for the plugins to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The remains of the plugins of a killed host.
#[derive(Debug)]
pub struct Orphaned {
    /// Number of launches.
    pub launches: usize,
    /// Number of their processes, including guardians.
    pub processes: usize,
    /// Time until all processes and folders were gone; `None` if some remained.
    pub exited_after: Option<Duration>,
    /// Remaining processes and folders.
    pub left: Vec<String>,
}

/// Hosts the fixture `program` in these folders until the process is killed. Each plugin forks a
/// process into its group and one into a separate session; then the host prints a line.
///
/// # Panics
///
/// Panics if a plugin does not load or does not fork.
pub fn host_until_killed(folders: &[PathBuf], staging: &Path) {
    let host = Host::builder().staging_dir(staging).build().expect("a host");
    let plugins: Vec<_> = folders.iter().map(|folder| loaded(&host, folder)).collect();
    for plugin in &plugins {
        fork(plugin, r#"{"do":"grandchild"}"#);
        fork(plugin, r#"{"do":"grandchild","own_session":true}"#);
        fork(plugin, r#"{"do":"grandchild","own_session":true,"detach_pipes":true}"#);
    }
    let mut stdout = std::io::stdout();
    let written = writeln!(stdout, "\n{FORKED}").and_then(|()| stdout.flush());
    written.expect("stdout is open");
    loop {
        thread::park();
    }
}

fn fork(plugin: &PluginHandle, input: &str) {
    block_on(plugin.execute(Request::json_text(input))).expect("a grandchild");
}

/// Starts `command`, which calls [`host_until_killed`], kills it once its plugins have forked, and
/// reports what is left.
///
/// # Panics
///
/// Panics if the command does not start or exits before its plugins have forked.
pub fn orphan(command: &mut Command) -> Orphaned {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut host = KillOnDrop(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    let stdout = BufReader::new(host.0.stdout.take().expect("a pipe"));
    let has_forked = stdout.lines().map_while(Result::ok).any(|line| line == FORKED);
    assert!(has_forked, "the host exited before its plugins had forked");
    let id = host.0.id();
    let marks = marks_below(id);
    let processes = marked_processes(&marks).len();
    drop(host);
    let killed_at = Instant::now();
    loop {
        let left = left(id, &marks);
        let took = killed_at.elapsed();
        if left.is_empty() || took > EXIT_TIMEOUT {
            let exited_after = left.is_empty().then_some(took);
            return Orphaned { launches: marks.len(), processes, exited_after, left };
        }
        // Polling must not take the cores that the guardians need.
        thread::sleep(POLL_INTERVAL);
    }
}

fn left(host: u32, marks: &[String]) -> Vec<String> {
    let processes = marked_processes(marks).into_iter().map(|process| format!("process {process}"));
    let folders = launch_folders(host);
    processes.chain(folders.iter().map(|folder| folder.display().to_string())).collect()
}

/// Kills and reaps the process when dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
