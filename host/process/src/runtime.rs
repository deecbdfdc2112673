//! The runtime shared by all processes of one host, created with the first one; and the runtimes of
//! callers.

use std::cell::Cell;
use std::fmt;
use std::os::unix::net::UnixStream;

use hotbay_plugin::abi::PanicRecords;
use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle, Id, Runtime};

#[cfg(target_os = "linux")]
use crate::adopted;
use crate::capabilities::Capabilities;
use crate::error::{Diagnosis, Error, ErrorKind};
use crate::expected::ExpectedCapabilities;
use crate::launch::{SweepFolders, sweep_launch_folders};
use crate::program::Program;

/// Threads of the runtime: one continues while another is blocked in a system call, such as fork.
const THREADS: usize = 2;

/// The runtime of a host's processes.
#[derive(Default)]
pub struct Processes {
    /// Not of std: its `OnceLock` has no initialization that can fail and be retried.
    runtime: OnceCell<Runtime>,
    expected: ExpectedCapabilities,
}

impl Processes {
    /// Returns the runtime, and creates it on first use. Then, `sweep` removes the folders of earlier
    /// launches in the background.
    ///
    /// # Errors
    ///
    /// `StartFailed` if no runtime can be created, or if it could not observe exits.
    pub fn runtime(&self, sweep: SweepFolders) -> Result<Handle, Error> {
        let created = self.runtime.get_or_try_init(|| create(sweep));
        let runtime = created.map_err(|why| Error::of_diagnosis(ErrorKind::StartFailed, why))?;
        Ok(runtime.handle().clone())
    }

    /// Returns the capabilities that the program printed last, if they are known.
    pub fn expected_capabilities(&self, program: &Program) -> Option<Capabilities> {
        self.expected.get(program)
    }

    /// Records the capabilities that the program has printed.
    pub fn expect_capabilities(&self, program: &Program, capabilities: Capabilities) {
        self.expected.set(program, capabilities);
    }
}

thread_local! {
    /// The runtime that this thread was in last, and whether it waits for sockets.
    static LAST: Cell<Option<(Id, bool)>> = const { Cell::new(None) };
}

/// Returns the runtime that the calling thread is in, if its tasks can wait for sockets.
pub fn caller_runtime() -> Option<Handle> {
    let current = Handle::try_current().ok()?;
    waits_for_sockets(current.id()).then_some(current)
}

/// Returns whether the current runtime, which has this id, can wait for sockets.
pub(crate) fn waits_for_sockets(id: Id) -> bool {
    match LAST.get() {
        Some((last, waits)) if last == id => waits,
        _ => find_out(id),
    }
}

/// Registers a socket with the current runtime. A runtime without I/O panics then, and there is no
/// other way to find out; the panic is neither reported nor passed on.
#[cold]
fn find_out(id: Id) -> bool {
    // The panic would abort the program.
    if cfg!(panic = "abort") {
        return false;
    }
    let Ok((socket, _peer)) = UnixStream::pair() else { return false };
    let registered = PanicRecords::catch_silently(|| {
        socket.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(socket).map(drop)
    });
    let waits = matches!(registered, Some(Ok(())));
    LAST.set(Some((id, waits)));
    waits
}

fn create(sweep: SweepFolders) -> Result<Runtime, Diagnosis> {
    if std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_sigchld(&status)) {
        return Err(Diagnosis::new(
            "this program ignores SIGCHLD, so it cannot observe the exit of its children",
            "reset the signal to its default (SIG_DFL)",
        ));
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("hotbay-process")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime of the processes: {error}"))?;
    #[cfg(target_os = "linux")]
    if adopted::adopts() {
        runtime.spawn(adopted::reap_forever());
    }
    runtime.spawn_blocking(move || sweep_launch_folders(&std::env::temp_dir(), sweep));
    Ok(runtime)
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
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CFG #[cfg(all(test, target_os = "linux"))]

    #[test]
    fn ignored_sigchld_is_detected() {
        assert!(ignores_sigchld("Name:\tx\nSigIgn:\t0000000000010000\nSigCgt:\t0\n"));
        assert!(!ignores_sigchld("SigIgn:\t0000000000001000\nSigCgt:\t0000000000010000\n"));
        assert!(!ignores_sigchld(""));
    }
}
