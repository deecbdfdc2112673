//! Finds the live descendants of a process by parent ids, whatever group, session or environment
//! they have. Linux only; other systems list none.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, pidfd_send_signal};

/// Processes held by pidfd, so that their ids cannot be reused.
pub(super) struct Descendants(Vec<OwnedFd>);

impl Descendants {
    /// Returns the current descendants of `process`, without itself.
    pub(super) fn of(process: Pid) -> Self {
        Self(listed::below(process))
    }

    /// Kills those that still run.
    pub(super) fn kill(&self) {
        for held in &self.0 {
            // It may have exited meanwhile.
            let _ = pidfd_send_signal(held, Signal::KILL);
        }
    }
}

mod listed {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::fd::OwnedFd;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    pub(super) fn below(process: Pid) -> Vec<OwnedFd> {
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
