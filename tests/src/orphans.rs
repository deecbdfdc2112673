//! Hosts that are killed while their plugins run, and what is then left of those plugins.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{Host, PluginHandle, Request};

use crate::{block_on, carriers, launch_folders, loaded, marks_below};

/// What the host in the other process says once its plugins have forked.
const FORKED: &str = "the plugins have forked";
/// Nothing takes as long unless it is left for ever.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What became of the plugins of a host that was killed.
#[derive(Debug)]
pub struct Orphaned {
    /// Launches that the host had.
    pub launches: usize,
    /// Processes of them, guardians included.
    pub processes: usize,
    /// How long it took until all of them and their folders had gone; none: never.
    pub gone_after: Option<Duration>,
    /// What is left.
    pub left: Vec<String>,
}

/// Hosts the fixture `program` in these folders, has each fork a process in its group and one in
/// a session of its own, says so by a line, and waits to be killed.
///
/// # Panics
///
/// When one cannot be loaded, or does not fork.
pub fn host_until_killed(folders: &[PathBuf], staging: &Path) {
    let host = Host::builder().staging_dir(staging).build().expect("a host");
    let plugins: Vec<_> = folders.iter().map(|folder| loaded(&host, folder)).collect();
    for plugin in &plugins {
        fork(plugin, r#"{"do":"grandchild"}"#);
        fork(plugin, r#"{"do":"grandchild","own_session":true}"#);
        fork(plugin, r#"{"do":"grandchild","own_session":true,"let_go":true}"#);
    }
    let mut stdout = std::io::stdout();
    let told = writeln!(stdout, "\n{FORKED}").and_then(|()| stdout.flush());
    told.expect("whoever started this listens");
    loop {
        thread::park();
    }
}

fn fork(plugin: &PluginHandle, input: &str) {
    block_on(plugin.execute(Request::json_text(input))).expect("a grandchild");
}

/// Starts `command`, which calls [`host_until_killed`], kills it when its plugins have forked,
/// and looks what is left.
///
/// # Panics
///
/// When it does not start, or does not come to where it is to be killed.
pub fn orphan(command: &mut Command) -> Orphaned {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut host = Ends(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    let stdout = BufReader::new(host.0.stdout.take().expect("a pipe"));
    let has_forked = stdout.lines().map_while(Result::ok).any(|line| line == FORKED);
    assert!(has_forked, "the host ended before its plugins had forked");
    let id = host.0.id();
    let marks = marks_below(id);
    let processes = carriers(&marks).len();
    drop(host);
    let killed_at = Instant::now();
    loop {
        let left = left(id, &marks);
        let took = killed_at.elapsed();
        if left.is_empty() || took > EXIT_TIMEOUT {
            let gone_after = left.is_empty().then_some(took);
            return Orphaned { launches: marks.len(), processes, gone_after, left };
        }
        // The guardians need the cores that looking takes.
        thread::sleep(POLL_INTERVAL);
    }
}

fn left(host: u32, marks: &[String]) -> Vec<String> {
    let processes = carriers(marks).into_iter().map(|process| format!("process {process}"));
    let folders = launch_folders(host);
    processes.chain(folders.iter().map(|folder| folder.display().to_string())).collect()
}

/// Killed and reaped when dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
