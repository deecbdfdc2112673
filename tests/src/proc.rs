//! Reads `/proc`: children of processes, and processes that carry the tag of a launch. Finds
//! nothing on systems without `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The environment variable that all processes of one launch carry.
const MARK: &[u8] = b"HOTBAY_LAUNCH=";
/// Prefix of the names of launch folders.
const FOLDER: &str = "hotbay-run-";

/// Returns the children of this process with their states; `Z` is a zombie.
pub fn children() -> Vec<(u32, char)> {
    children_of(std::process::id())
}

/// Returns the processes that run the plugin `name` for this process: one, or two during a
/// replacement.
pub fn processes_of(name: &str) -> Vec<u32> {
    let id = format!(r#""id":"{name}""#);
    let has_id = |text: &[u8]| text.windows(id.len()).any(|part| part == id.as_bytes());
    let runs_plugin = |pid: &u32| has_id(&read(*pid, "environ")) || has_id(&read(*pid, "cmdline"));
    let alive = children().into_iter().filter(|(_, state)| *state != 'Z');
    alive.map(|(pid, _)| pid).filter(runs_plugin).collect()
}

/// Kills a child of this process; returns `false` if it is not one.
#[cfg(target_os = "linux")]
pub fn end_process(process: u32) -> bool {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return false };
    // The descriptor keeps the ID from being reused.
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let is_own = children().iter().any(|(child, _)| *child == process);
    is_own && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

/// Does nothing: no child is visible on this system.
#[cfg(not(target_os = "linux"))]
pub fn end_process(_: u32) -> bool {
    false
}

/// Returns the launch tags of a process and all its descendants.
pub fn marks_below(process: u32) -> Vec<String> {
    let mut marks = Vec::new();
    let mut below = vec![process];
    while let Some(process) = below.pop() {
        let environment = read(process, "environ");
        let mark = environment.split(|byte| *byte == 0).find_map(|own| own.strip_prefix(MARK));
        marks.extend(mark.map(|mark| String::from_utf8_lossy(mark).into_owned()));
        below.extend(children_of(process).into_iter().map(|(child, _)| child));
    }
    marks.sort();
    marks.dedup();
    marks
}

/// Returns all processes on the system that carry one of the tags in their environment, including
/// guardians. Zombies have no environment.
pub fn marked_processes(marks: &[String]) -> Vec<u32> {
    let carries = |process: &u32| {
        let is_mark = |text: &[u8]| marks.iter().any(|mark| mark.as_bytes() == text);
        let environment = read(*process, "environ");
        let mut own = environment.split(|byte| *byte == 0);
        own.any(|own| own.splitn(2, |byte| *byte == b'=').nth(1).is_some_and(is_mark))
    };
    all().filter(carries).collect()
}

/// Resources of this process, for comparison with a later state.
#[derive(Debug)]
pub struct ResourceSnapshot {
    descriptors: usize,
    children: usize,
    folders: usize,
}

impl ResourceSnapshot {
    /// Takes a snapshot.
    pub fn take() -> Self {
        let folders = launch_folders(std::process::id()).len();
        Self { descriptors: descriptors(), children: children().len(), folders }
    }

    /// Describes resources that were added since the snapshot; empty if none remain within
    /// `timeout`.
    pub fn leftovers_within(&self, timeout: Duration) -> Vec<String> {
        let until = Instant::now() + timeout;
        loop {
            let more = self.leftovers();
            if more.is_empty() || Instant::now() >= until {
                return more;
            }
            thread::yield_now();
        }
    }

    fn leftovers(&self) -> Vec<String> {
        let mut more = Vec::new();
        let children = children();
        if children.len() > self.children {
            more.push(format!("children: {children:?}; {} before", self.children));
        }
        let folders = launch_folders(std::process::id());
        if folders.len() > self.folders {
            more.push(format!("folders: {folders:?}; {} before", self.folders));
        }
        let descriptors = descriptors();
        if descriptors > self.descriptors {
            more.push(format!("{descriptors} descriptors; {} before", self.descriptors));
        }
        more
    }
}

/// Returns the number of open descriptors of this process.
pub fn descriptors() -> usize {
    // Less the one that reads the folder.
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1))
}

/// Returns the launch folders of a host process.
pub fn launch_folders(host: u32) -> Vec<PathBuf> {
    let temporary = std::env::temp_dir();
    let short = (temporary != Path::new("/tmp")).then(|| PathBuf::from("/tmp"));
    let prefix = format!("{FOLDER}{host}-");
    let entries = [Some(temporary), short].into_iter().flatten().flat_map(fs::read_dir);
    let paths = entries.flatten().flatten().map(|entry| entry.path());
    let is_own = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    };
    paths.filter(is_own).collect()
}

fn children_of(parent: u32) -> Vec<(u32, char)> {
    let child = |process: u32| {
        let stat = String::from_utf8(read(process, "stat")).ok()?;
        // The name in parentheses may contain anything.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()?.parse() == Ok(parent)).then_some((process, state))
    };
    all().filter_map(child).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok())
}

/// Returns an empty vector if the process is gone or belongs to another user.
fn read(process: u32, what: &str) -> Vec<u8> {
    fs::read(format!("/proc/{process}/{what}")).unwrap_or_default()
}
