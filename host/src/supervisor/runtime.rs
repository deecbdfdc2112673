//! The runtime shared by all processes of one host, created with the first one.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of the runtime: one continues while another is blocked in a system call, such as fork.
const THREADS: usize = 2;

/// The runtime of a host's processes.
#[derive(Default)]
pub(crate) struct Processes {
    runtime: Mutex<Option<Runtime>>,
}

impl Processes {
    /// Returns the runtime, and creates it on first use.
    pub(crate) fn runtime(&self) -> io::Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        if std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_sigchld(&status))
        {
            let message = "this program ignores SIGCHLD, so it cannot observe the exit of its \
                           children; reset the signal to its default (SIG_DFL)";
            return Err(io::Error::other(message));
        }
        let created = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("hotbay-process")
            .enable_all()
            .build()?;
        let handle = runtime.insert(created).handle().clone();
        #[cfg(target_os = "linux")]
        if super::adopted::adopts() {
            handle.spawn(super::adopted::reap_forever());
        }
        handle.spawn_blocking(|| super::folder::sweep(&std::env::temp_dir()));
        Ok(handle)
    }
}

/// Returns whether a process ignores SIGCHLD, by its `/proc/PID/status`.
fn ignores_sigchld(status: &str) -> bool {
    const SIGCHLD: u64 = 1 << (libc::SIGCHLD - 1);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & SIGCHLD != 0)
}

impl Drop for Processes {
    /// Stops the runtime without waiting: by now every process was stopped, and waiting for a
    /// runtime inside another one would panic.
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn ignored_sigchld_is_detected() {
        assert!(ignores_sigchld("Name:\tx\nSigIgn:\t0000000000010000\nSigCgt:\t0\n"));
        assert!(!ignores_sigchld("SigIgn:\t0000000000001000\nSigCgt:\t0000000000010000\n"));
        assert!(!ignores_sigchld(""));
    }
}
