//! Looks at other processes as Linux tells of them: who started whom, and who carries the mark of
//! a launch. Where there is no `/proc`, nobody is seen.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The variable that all carry that belong to one launch.
const MARK: &[u8] = b"HOTBAY_LAUNCH=";
/// What the names of the folders of launches begin with.
const FOLDER: &str = "hotbay-run-";

/// The children of this process, with their states: `Z` is a zombie.
pub fn children() -> Vec<(u32, char)> {
    children_of(std::process::id())
}

/// The processes in which this process has the plugin `name` run: one, or two while one replaces
/// another.
pub fn processes_of(name: &str) -> Vec<u32> {
    let id = format!(r#""id":"{name}""#);
    let has_id = |text: &[u8]| text.windows(id.len()).any(|part| part == id.as_bytes());
    let told = |pid: &u32| has_id(&read(*pid, "environ")) || has_id(&read(*pid, "cmdline"));
    let alive = children().into_iter().filter(|(_, state)| *state != 'Z');
    alive.map(|(pid, _)| pid).filter(told).collect()
}

/// Kills a process that this process started; false if there is none, or it is another's.
#[cfg(target_os = "linux")]
pub fn end_process(process: u32) -> bool {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return false };
    // Held, its id cannot become a stranger's.
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let is_own = children().iter().any(|(child, _)| *child == process);
    is_own && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

/// Kills a process that this process started: none is seen here.
#[cfg(not(target_os = "linux"))]
pub fn end_process(_: u32) -> bool {
    false
}

/// The marks of the launches that a process and all below it carry.
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

/// All processes, anybody's, that carry a mark in their environment, as guardians do under another
/// name. Zombies carry nothing.
pub fn carriers(marks: &[String]) -> Vec<u32> {
    let carries = |process: &u32| {
        let is_mark = |text: &[u8]| marks.iter().any(|mark| mark.as_bytes() == text);
        let environment = read(*process, "environ");
        let mut own = environment.split(|byte| *byte == 0);
        own.any(|own| own.splitn(2, |byte| *byte == b'=').nth(1).is_some_and(is_mark))
    };
    all().filter(carries).collect()
}

/// What this process has before something runs in it, to be compared with what it has afterwards.
#[derive(Debug)]
pub struct Before {
    descriptors: usize,
    children: usize,
    folders: usize,
}

impl Before {
    /// Looks.
    pub fn look() -> Self {
        let folders = launch_folders(std::process::id()).len();
        Self { descriptors: descriptors(), children: children().len(), folders }
    }

    /// What there is more than before, for people; nothing if all has gone. What is just going
    /// is waited for, but no longer than this.
    pub fn more_within(&self, timeout: Duration) -> Vec<String> {
        let until = Instant::now() + timeout;
        loop {
            let more = self.more();
            if more.is_empty() || Instant::now() >= until {
                return more;
            }
            thread::yield_now();
        }
    }

    fn more(&self) -> Vec<String> {
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

/// How many descriptors this process has open.
pub fn descriptors() -> usize {
    // Less the one that looks.
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1))
}

/// The folders of launches of a host in that process.
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
        // The name before them may hold anything.
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

/// Nothing of one that has gone, or that is another user's.
fn read(process: u32, what: &str) -> Vec<u8> {
    fs::read(format!("/proc/{process}/{what}")).unwrap_or_default()
}
