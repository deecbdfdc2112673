//! All that a process started and that its parents still show, whatever group, session or
//! environment it has by now. Linux only; elsewhere nothing is listed.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, pidfd_send_signal};

/// Processes, held so that their ids cannot become strangers'.
pub(super) struct Descendants(Vec<OwnedFd>);

impl Descendants {
    /// Those of `process` at this moment, without itself.
    pub(super) fn of(process: Pid) -> Self {
        Self(listed::below(process))
    }

    /// Ends those that are still there.
    pub(super) fn kill(&self) {
        for held in &self.0 {
            // It may have ended by itself.
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
        let mut to_do = vec![process.as_raw_nonzero().get()];
        while let Some(parent) = to_do.pop() {
            for pid in children.remove(&parent).unwrap_or_default() {
                let opened =
                    Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                // It was that process's child all the time if it still is.
                if let Some(opened) = opened.filter(|_| parent_of(pid) == Some(parent)) {
                    held.push(opened);
                    to_do.push(pid);
                }
            }
        }
        held
    }

    fn parent_of(pid: i32) -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    }
}
