//! Control groups (version 2): limits of all processes of a launch together. They need a folder that
//! the system's administrator delegated to the host.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hotbay_manifest::SandboxLimits;

use crate::Delegated;

/// Prefix of the groups of launches; the host's process id follows.
const PREFIX: &str = "hotbay-";
/// The period in which the share of processor time is counted, in microseconds.
const PERIOD_US: u64 = 100_000;
/// Killed processes need a moment to exit.
const REMOVE_ROUNDS: u32 = 500;
const REMOVE_INTERVAL: Duration = Duration::from_millis(2);

/// The control group of one launch. Its processes are killed, and it is removed, when it is dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) folder: PathBuf,
    /// A process that writes `0` to it joins the group.
    pub(crate) members: File,
}

impl Cgroup {
    /// Creates a group below a delegated folder, with the limits that its controllers enforce.
    pub(crate) fn create(
        Delegated { folder: parent, controllers }: &Delegated,
        limits: &SandboxLimits,
    ) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            remove_abandoned(parent);
        }
        let folder = parent.join(format!("{PREFIX}{}-{count}", std::process::id()));
        fs::create_dir(&folder)?;
        let members = OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
        let group = match members {
            Ok(members) => Self { folder, members },
            Err(error) => {
                let _ = fs::remove_dir(&folder);
                return Err(error);
            }
        };
        let put = |file: &str, value: String| fs::write(group.folder.join(file), value);
        if let Some(limit) = limits.memory_bytes.filter(|_| controllers.memory) {
            put("memory.max", limit.to_string())?;
            // Not every kernel limits swap, and one process of a group is of no use without others.
            let _ = put("memory.swap.max", "0".to_owned());
            let _ = put("memory.oom.group", "1".to_owned());
        }
        if let Some(limit) = limits.processes.filter(|_| controllers.pids) {
            put("pids.max", limit.to_string())?;
        }
        if let Some(millis) = limits.cpu_millis.filter(|_| controllers.cpu) {
            put("cpu.max", format!("{} {PERIOD_US}", millis.saturating_mul(PERIOD_US) / 1000))?;
        }
        Ok(group)
    }

    /// Returns whether the kernel killed a process since the group reached its limit of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.folder.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills.trim() != "0")
    }
}

impl Drop for Cgroup {
    /// Blocks until its processes have exited, for at most a second.
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        for _ in 0..REMOVE_ROUNDS {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(REMOVE_INTERVAL);
                }
                _ => return,
            }
        }
    }
}

/// Removes the empty groups of hosts that were killed.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let host = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if host.is_some_and(|host| !Path::new("/proc").join(host).exists()) {
            // Not one with processes, which belongs to a host in another PID namespace, or whose
            // guardian is about to kill them.
            let _ = fs::remove_dir(entry.path());
        }
    }
}
