//! The mark that every process of a launch inherits: finding its carriers and ending them, also
//! those that left the group. Linux only; elsewhere nothing lists the environments of others.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The variable that carries the mark.
pub(super) const VARIABLE: &str = "HOTBAY_LAUNCH";

/// Ends all that carry `mark`, on a thread where that may take a while; here and now if the
/// runtime is ending.
pub(super) fn end_all_later(mark: String, runtime: &Handle) -> JoinHandle<()> {
    let left = LeftBehind(mark);
    runtime.spawn(async move {
        // If it cannot be run, it is dropped, which does the same.
        let _ = tokio::task::spawn_blocking(move || drop(left)).await;
    })
}

/// What carries this mark is ended when this is dropped.
pub(super) struct LeftBehind(pub(super) String);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        carriers::end_all(&self.0);
    }
}

#[cfg(target_os = "linux")]
pub(super) mod carriers {
    use std::fs::{self, File};
    use std::io::Read;
    use std::time::Duration;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::VARIABLE;

    /// More than the system gives to any program.
    const ENVIRONMENT_BYTES_MAX: u64 = 8 << 20;
    /// Whoever starts processes faster than this ends them stays.
    const ROUNDS_MAX: u32 = 200;
    /// Processes that were killed need a moment to be gone.
    const BETWEEN_ROUNDS: Duration = Duration::from_millis(1);

    pub(super) fn end_all(mark: &str) {
        let entry = entry(mark);
        for _ in 0..ROUNDS_MAX {
            let carriers = carrying(&entry);
            if carriers.is_empty() {
                return;
            }
            for pid in carriers {
                end(pid, &entry);
            }
            std::thread::sleep(BETWEEN_ROUNDS);
        }
    }

    /// Who carries `mark` now.
    pub(in crate::supervisor) fn all(mark: &str) -> Vec<Pid> {
        carrying(&entry(mark))
    }

    fn entry(mark: &str) -> Vec<u8> {
        format!("{VARIABLE}={mark}").into_bytes()
    }

    fn carrying(entry: &[u8]) -> Vec<Pid> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = processes.flatten().filter_map(|process| {
            Pid::from_raw(process.file_name().to_str()?.parse().ok().filter(|pid| *pid > 0)?)
        });
        pids.filter(|pid| carries(*pid, entry)).collect()
    }

    /// False for processes of others, which cannot be read, and for those that have ended.
    fn carries(pid: Pid, entry: &[u8]) -> bool {
        let Ok(file) = File::open(format!("/proc/{}/environ", pid.as_raw_nonzero())) else {
            return false;
        };
        let mut environment = Vec::new();
        let read = file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment);
        read.is_ok() && environment.split(|byte| *byte == 0).any(|own| own == entry)
    }

    /// The id may have become a stranger's since it was found, so it is looked at again once it
    /// is held.
    fn end(pid: Pid, entry: &[u8]) {
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if carries(pid, entry) {
            // It may have ended by itself.
            let _ = pidfd_send_signal(&held, Signal::KILL);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod carriers {
    pub(super) fn end_all(_: &str) {}
}
