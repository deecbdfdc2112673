//! A process that is always reaped, even if its value is dropped early.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::sync::lock;

/// A killed process exits sooner; one blocked on a broken disk never does.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);
const DROP_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Interval at which a process is polled, in case its exit signal was missed.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The ids of processes started here and not reaped yet, which no other code may reap.
static STARTED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Runs `act` with the ids of these processes, while no process is being started here.
#[cfg(target_os = "linux")]
pub(crate) fn with_started(act: impl FnOnce(&BTreeSet<i32>)) {
    act(&lock(&STARTED));
}

/// An id in that set, until this is dropped.
struct Started(i32);

impl Drop for Started {
    fn drop(&mut self) {
        lock(&STARTED).remove(&self.0);
    }
}

/// A child process, killed and reaped on drop unless it exited before.
pub(crate) struct ChildGuard {
    /// Taken on drop only.
    process: Option<Child>,
    started: Option<Started>,
    pid: Pid,
    status: Option<ExitStatus>,
    runtime: Handle,
}

impl ChildGuard {
    /// Spawns `command`; must be called inside a runtime.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let runtime = Handle::current();
        let mut all = lock(&STARTED);
        let process = command.spawn()?;
        let pid = process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.expect("a process that was not waited for has an id");
        let id = pid.as_raw_nonzero().get();
        all.insert(id);
        drop(all);
        let started = Some(Started(id));
        Ok(Self { process: Some(process), started, pid, status: None, runtime })
    }

    /// Returns the process id, which is not reused until the process was waited for.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Returns the process, for its pipes.
    pub(crate) fn process(&self) -> &Child {
        self.process.as_ref().expect("it is taken on drop only")
    }

    pub(crate) fn process_mut(&mut self) -> &mut Child {
        self.process.as_mut().expect("it is taken on drop only")
    }

    /// Sends `signal` to the process, unless it was waited for.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // It may have exited, and then keeps its id until it is waited for.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits until the process exits. Cancel safe.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        loop {
            match timeout(POLL_INTERVAL, self.process_mut().wait()).await {
                Ok(status) => return *self.status.insert(status.unwrap_or_else(unknown)),
                // The system does not report every exit: a missed one was observed.
                Err(_) => {
                    if let Some(status) = self.try_wait() {
                        return status;
                    }
                }
            }
        }
    }

    /// Returns the exit status, if the process has exited.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status =
                self.process_mut().try_wait().unwrap_or_else(|error| Some(unknown(error)));
        }
        self.status
    }
}

/// Status of a process that other code waited for, as in a host that ignores SIGCHLD.
fn unknown(_: io::Error) -> ExitStatus {
    ExitStatus::from_raw(0xff << 8)
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        if self.status.is_some() {
            return;
        }
        // It may have exited just now.
        let _ = process.start_kill();
        let mut last = WaitOnDrop(process, self.started.take());
        self.runtime.spawn(async move {
            let _ = last.0.wait().await;
        });
    }
}

/// Waits synchronously on drop, if no runtime is left to wait for the process.
struct WaitOnDrop(Child, #[expect(dead_code, reason = "dropped after it")] Option<Started>);

impl Drop for WaitOnDrop {
    fn drop(&mut self) {
        let steps = DROP_TIMEOUT.as_millis() / DROP_POLL_INTERVAL.as_millis();
        for _ in 0..steps {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(DROP_POLL_INTERVAL);
        }
    }
}
