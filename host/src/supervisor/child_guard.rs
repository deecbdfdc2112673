//! A process that is always reaped, whatever becomes of the value that stands for it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::sync::lock;

/// A process that was just killed is gone in less; one that waits for a broken disk never is.
const LAST_WAIT_MAX: Duration = Duration::from_secs(1);
const LAST_WAIT_STEP: Duration = Duration::from_millis(2);

/// How often a process is looked at whose end was not told.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The ids of processes that were started here and are not reaped yet: nobody else may reap them.
static STARTED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Does something while no process is started here, and with the ids of those that were.
#[cfg(target_os = "linux")]
pub(super) fn while_none_is_started(act: impl FnOnce(&BTreeSet<i32>)) {
    act(&lock(&STARTED));
}

/// An id among those, until this is dropped.
struct Started(i32);

impl Drop for Started {
    fn drop(&mut self) {
        lock(&STARTED).remove(&self.0);
    }
}

/// A child process: killed and reaped when dropped, unless it ended before.
pub(super) struct ChildGuard {
    /// Taken on drop only.
    process: Option<Child>,
    started: Option<Started>,
    pid: Pid,
    status: Option<ExitStatus>,
    runtime: Handle,
}

impl ChildGuard {
    /// Spawns `command`, which must be done inside a runtime.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        let runtime = Handle::current();
        let mut all = lock(&STARTED);
        let process = command.spawn()?;
        let pid = process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.expect("a process that nobody waited for has an id");
        let id = pid.as_raw_nonzero().get();
        all.insert(id);
        drop(all);
        let started = Some(Started(id));
        Ok(Self { process: Some(process), started, pid, status: None, runtime })
    }

    /// Its id, which is its own until it was waited for.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The process, for its pipes.
    pub(super) fn process(&self) -> &Child {
        self.process.as_ref().expect("it is taken on drop only")
    }

    pub(super) fn process_mut(&mut self) -> &mut Child {
        self.process.as_mut().expect("it is taken on drop only")
    }

    /// Sends `signal` to it, unless it was waited for.
    pub(super) fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // It may have ended, and then keeps its id until it is waited for.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits for its end. Nothing is lost if the future is dropped.
    pub(super) async fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        loop {
            match timeout(LOOK_EVERY, self.process_mut().wait()).await {
                Ok(status) => return *self.status.insert(status.unwrap_or_else(unknown)),
                // The system does not tell of every end: one was seen that stayed untold.
                Err(_) => {
                    if let Some(status) = self.try_wait() {
                        return status;
                    }
                }
            }
        }
    }

    /// How it ended, if it did.
    pub(super) fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status =
                self.process_mut().try_wait().unwrap_or_else(|error| Some(unknown(error)));
        }
        self.status
    }
}

/// How a process ended that someone else waited for, as a host does that ignores SIGCHLD.
fn unknown(_: io::Error) -> ExitStatus {
    ExitStatus::from_raw(0xff << 8)
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        if self.status.is_some() {
            return;
        }
        // It may have ended just now.
        let _ = process.start_kill();
        let mut last = Last(process, self.started.take());
        self.runtime.spawn(async move {
            let _ = last.0.wait().await;
        });
    }
}

/// Waits on the spot where no runtime does any more.
struct Last(Child, #[expect(dead_code, reason = "dropped after it")] Option<Started>);

impl Drop for Last {
    fn drop(&mut self) {
        let steps = LAST_WAIT_MAX.as_millis() / LAST_WAIT_STEP.as_millis();
        for _ in 0..steps {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LAST_WAIT_STEP);
        }
    }
}
