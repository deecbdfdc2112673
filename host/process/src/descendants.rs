//! Finds and kills the processes that a program has started: by the tag that they inherit in their
//! environment, and by parent ids, whatever group, session or environment they have. Linux only;
//! other systems list neither.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use hotbay_protocol::variable::LAUNCH;

/// Kills all processes with `tag` on a blocking thread; synchronously if the runtime is shutting
/// down.
pub(crate) fn kill_all_in_background(tag: String, runtime: &Handle) -> JoinHandle<()> {
    let left = KillOnDrop(tag);
    runtime.spawn(async move {
        // If the task cannot run, it is dropped, with the same effect.
        let _ = tokio::task::spawn_blocking(move || drop(left)).await;
    })
}

/// Kills all processes with this tag on drop.
pub(crate) struct KillOnDrop(pub(crate) String);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        tagged_processes::kill_all(&self.0);
    }
}

/// Returns the tag of a process, given its name below `/proc`.
#[cfg(target_os = "linux")]
pub(crate) fn tag_of(process: &str) -> Option<Vec<u8>> {
    let environment = std::fs::read(format!("/proc/{process}/environ")).ok()?;
    let tag = |entry: &[u8]| {
        entry.strip_prefix(LAUNCH.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec)
    };
    environment.split(|byte| *byte == 0).find_map(tag)
}

#[cfg(target_os = "linux")]
pub(crate) mod tagged_processes {
    use std::fs::{self, File};
    use std::io::Read;
    use std::time::Duration;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::LAUNCH;

    /// More than the system allows for any program.
    const MAX_ENVIRONMENT_BYTES: u64 = 8 << 20;
    /// Bounds the rounds against a program that starts processes faster than they are killed.
    const MAX_ROUNDS: u32 = 200;
    /// Killed processes need a moment to exit.
    const ROUND_INTERVAL: Duration = Duration::from_millis(1);
    /// An `exec` takes microseconds, and longer if the CPUs are busy.
    const MAX_CHECKS: u32 = 200;
    const CHECK_INTERVAL: Duration = Duration::from_millis(1);

    pub(crate) fn kill_all(tag: &str) {
        let entry = entry(tag);
        for _ in 0..MAX_ROUNDS {
            let tagged_processes = find(&entry);
            if tagged_processes.is_empty() {
                return;
            }
            for pid in tagged_processes {
                end(pid, &entry);
            }
            std::thread::sleep(ROUND_INTERVAL);
        }
    }

    /// Returns the processes that carry `tag` now.
    pub(crate) fn all(tag: &str) -> Vec<Pid> {
        find(&entry(tag))
    }

    fn entry(tag: &str) -> Vec<u8> {
        format!("{LAUNCH}={tag}").into_bytes()
    }

    fn find(entry: &[u8]) -> Vec<Pid> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = processes.flatten().filter_map(|process| {
            Pid::from_raw(process.file_name().to_str()?.parse().ok().filter(|pid| *pid > 0)?)
        });
        pids.filter(|pid| is_tagged(*pid, entry)).collect()
    }

    /// Returns whether a process carries the tag. During `exec` a process shows no environment, so
    /// the check is repeated if it is empty.
    fn is_tagged(pid: Pid, entry: &[u8]) -> bool {
        for _ in 0..MAX_CHECKS {
            match check(pid, entry) {
                TagCheck::Tagged => return true,
                TagCheck::Untagged => return false,
                TagCheck::Unclear => std::thread::sleep(CHECK_INTERVAL),
            }
        }
        false
    }

    enum TagCheck {
        Tagged,
        /// Also for processes of other users, which are not readable, and for exited ones.
        Untagged,
        Unclear,
    }

    fn check(pid: Pid, entry: &[u8]) -> TagCheck {
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let Ok(file) = File::open(format!("{folder}/environ")) else { return TagCheck::Untagged };
        let mut environment = Vec::new();
        match file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut environment) {
            Err(_) => TagCheck::Untagged,
            Ok(0) => check_empty(&fs::read_to_string(format!("{folder}/stat"))),
            Ok(_) if environment.split(|byte| *byte == 0).any(|own| own == entry) => {
                TagCheck::Tagged
            }
            Ok(_) => TagCheck::Untagged,
        }
    }

    /// Classifies a process with an empty environment, by its `stat`.
    fn check_empty(stat: &std::io::Result<String>) -> TagCheck {
        /// Kernel threads and exiting processes have no environment.
        const KERNEL_OR_ENDING: u64 = 0x0020_0000 | 0x4;
        let Some((_, stat)) = stat.as_ref().ok().and_then(|stat| stat.rsplit_once(") ")) else {
            return TagCheck::Untagged;
        };
        // The first of these fields is field 3 of proc(5).
        let fields: Vec<&str> = stat.split_whitespace().collect();
        let number = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<u64>().ok());
        let (flags, start, end) = (number(9), number(50), number(51));
        // Exited or asleep: a process in `exec` runs, or waits for a disk. Process 1 may show an
        // empty environment forever.
        let is_over = matches!(fields.first(), Some(&("Z" | "X" | "S" | "I" | "T" | "t")));
        match (flags, start, end) {
            _ if is_over => TagCheck::Untagged,
            (Some(flags), ..) if flags & KERNEL_OR_ENDING != 0 => TagCheck::Untagged,
            (_, Some(start), Some(end)) if start == end && end != 0 => TagCheck::Untagged,
            (Some(_), Some(_), Some(_)) => TagCheck::Unclear,
            _ => TagCheck::Untagged,
        }
    }

    /// Kills a process if it still carries the tag: its id may have been reused until it is held by
    /// the pidfd.
    fn end(pid: Pid, entry: &[u8]) {
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if is_tagged(pid, entry) {
            // It may have exited meanwhile.
            let _ = pidfd_send_signal(&held, Signal::KILL);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_running_process_without_environment_is_unclear() {
            let unclear = |state: &str, flags: &str, start: &str, end: &str| {
                let between = "0 ".repeat(5);
                let rest = "0 ".repeat(40);
                let stat = format!("7 (a ) Z) {state} {between}{flags} {rest}{start} {end} 0\n");
                matches!(check_empty(&Ok(stat)), TagCheck::Unclear)
            };
            assert!(unclear("R", "4194304", "0", "0"), "it is in exec");
            assert!(unclear("D", "4194304", "100", "200"), "it was in exec when it was read");
            assert!(!unclear("S", "4194304", "100", "100"), "its environment is empty");
            assert!(!unclear("Z", "4194304", "0", "0"), "it has exited");
            assert!(!unclear("S", "4194560", "0", "0"), "it sleeps, as process 1 does");
            assert!(!unclear("R", "4194308", "0", "0"), "it is exiting");
            assert!(!unclear("S", "2129984", "0", "0"), "it is a kernel thread");
            let gone = Err(std::io::Error::from(std::io::ErrorKind::NotFound));
            assert!(matches!(check_empty(&gone), TagCheck::Untagged));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod tagged_processes {
    pub(crate) fn kill_all(_: &str) {}
}

#[cfg(target_os = "linux")]
pub(crate) use by_parents::Descendants;

/// Descendants by parent ids.
#[cfg(target_os = "linux")]
mod by_parents {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::fd::OwnedFd;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    /// Processes held by pidfd, so that their ids cannot be reused.
    pub(crate) struct Descendants(Vec<OwnedFd>);

    impl Descendants {
        /// Returns the current descendants of `process`, without itself.
        pub(crate) fn of(process: Pid) -> Self {
            Self(below(process))
        }

        /// Kills those that still run.
        pub(crate) fn kill(&self) {
            for held in &self.0 {
                // It may have exited meanwhile.
                let _ = pidfd_send_signal(held, Signal::KILL);
            }
        }
    }

    fn below(process: Pid) -> Vec<OwnedFd> {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            if let Some(parent) = parent_of(pid) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut held = Vec::new();
        let mut pending = vec![process.as_raw_nonzero().get()];
        while let Some(parent) = pending.pop() {
            for pid in children.remove(&parent).unwrap_or_default() {
                let opened =
                    Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                // If it is still that process's child, it was so all the time.
                if let Some(opened) = opened.filter(|_| parent_of(pid) == Some(parent)) {
                    held.push(opened);
                    pending.push(pid);
                }
            }
        }
        held
    }

    fn parent_of(pid: i32) -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may contain anything, so parsing starts after it.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    }
}
