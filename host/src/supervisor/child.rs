//! A child process: spawned in its own process group, stopped with all its descendants, always
//! reaped.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::child_guard::ChildGuard;
#[cfg(target_os = "linux")]
use super::descendants::Descendants;
use super::guardian::{self, Guardian};
use super::{launch_tag, prepare};

/// Time to wait for a killed process. One blocked on a broken disk never exits; it is then reaped
/// in the background.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which a program may be held open for writing, by a process that was forked while the
/// program was written and has not called `exec` yet.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
const BUSY_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The program to start, and its settings.
#[derive(Clone)]
pub(crate) struct Launch {
    /// An absolute path.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The working directory.
    pub(crate) folder: PathBuf,
    /// The whole environment except the launch tag.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) limits: ChildLimits,
    /// The value of `HOTBAY_LAUNCH`, by which all descendants are found.
    pub(crate) tag: String,
    /// Whether a guardian kills the process once the host has exited.
    pub(crate) guarded: bool,
    /// The folder that the guardian removes afterward.
    pub(crate) remove_at_end: Option<PathBuf>,
}

/// Resource limits of a child. No limit exceeds the host's own; core files are never written.
///
/// macOS accepts the memory limit and does not enforce it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChildLimits {
    /// Limit of data: heap and private writable mappings.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) cpu_s: Option<u64>,
}

/// The result of stopping a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped {
    pub(crate) status: ExitStatus,
    /// Whether the host killed it after the grace period.
    pub(crate) was_killed: bool,
}

/// A process and all its descendants. Everything is killed and reaped on drop.
pub(crate) struct Child {
    process: ChildGuard,
    guardian: Option<Guardian>,
    /// `None` once its id may have been reused.
    group: Option<Pid>,
    tag: String,
    /// Whether all processes are stopped.
    stopped: bool,
}

impl Child {
    /// Starts a program, on a thread of a runtime that lives as long as the host. On Linux the
    /// child is killed when the thread that started it exits, as idle blocking threads and workers
    /// that blocked in place do.
    pub(crate) fn spawn(launch: &Launch) -> io::Result<Self> {
        Self::spawn_with(launch, Path::new(guardian::SHELL))
    }

    /// Starts a program like `spawn`, but never with a guardian.
    pub(super) fn spawn_unguarded(launch: &Launch) -> io::Result<Self> {
        Self::spawn_into(launch, None)
    }

    /// Starts a program like `spawn`, with the given `shell` for the guardian.
    pub(super) fn spawn_with(launch: &Launch, shell: &Path) -> io::Result<Self> {
        let remove_at_end = launch.remove_at_end.as_deref();
        let guardian = match launch.guarded {
            true => Guardian::spawn(shell, &launch.tag, remove_at_end)?,
            false => None,
        };
        Self::spawn_into(launch, guardian)
    }

    fn spawn_into(launch: &Launch, guardian: Option<Guardian>) -> io::Result<Self> {
        let group = guardian.as_ref().map(Guardian::group);
        let process = ChildGuard::spawn(&mut command(launch, group))?;
        let group = Some(group.unwrap_or(process.pid()));
        Ok(Self { process, guardian, group, tag: launch.tag.clone(), stopped: false })
    }

    /// Retries `spawn` for a while if the program is held open for writing.
    pub(crate) async fn spawn_with_retries(
        launch: &Launch,
        spawn: impl Fn(&Launch) -> io::Result<Self>,
    ) -> io::Result<Self> {
        let until = Instant::now() + BUSY_TIMEOUT;
        loop {
            match spawn(launch) {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < until =>
                {
                    tokio::time::sleep(BUSY_POLL_INTERVAL).await;
                }
                result => return result,
            }
        }
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns the exit status, if the process has exited.
    pub(super) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.process.try_wait()
    }

    /// Returns the launch tag that all descendants carry.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    #[cfg(test)]
    pub(super) fn guardian_pid(&self) -> Option<u32> {
        self.guardian.as_ref().map(|guardian| guardian.pid().as_raw_nonzero().get().unsigned_abs())
    }

    #[cfg(test)]
    pub(super) fn guardian_ignores_signals(&self) -> bool {
        self.guardian.as_ref().is_some_and(Guardian::ignores_signals)
    }

    /// Takes the child's stdout; returns `None` on the second call.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.process.process_mut().stdout.take()
    }

    /// Takes the child's stderr; returns `None` on the second call.
    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.process.process_mut().stderr.take()
    }

    /// Waits until the process exits; its descendants may live on until `stop`. Cancel safe.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let child = self.process.pid();
        let status = match &mut self.guardian {
            None => self.process.wait().await,
            Some(guardian) => tokio::select! {
                biased;
                status = self.process.wait() => status,
                never = guardian.replace_on_exit(child) => match never {},
            },
        };
        if self.guardian.is_none() {
            // The group's id was the process's own and may be reused soon.
            self.kill_group();
        }
        status
    }

    /// Sends SIGTERM to the process and its whole group.
    pub(crate) fn terminate(&self) {
        let Some(group) = self.group else { return };
        if self.guardian.as_ref().is_none_or(Guardian::ignores_signals) {
            // They may all have exited.
            let _ = kill_process_group(group, Signal::TERM);
        } else {
            // A guardian that has just started would still exit on the signal.
            self.process.signal(Signal::TERM);
        }
    }

    /// Stops the process and all its descendants: sends SIGTERM, waits up to `grace` for the
    /// process to exit, then kills. Returns how the process exited.
    pub(crate) async fn stop(mut self, grace: Duration) -> Stopped {
        #[cfg(target_os = "linux")]
        let mut descendants = None;
        if self.process.try_wait().is_none() {
            // After it has exited, only the group and the tag show its descendants.
            #[cfg(target_os = "linux")]
            {
                let process = self.process.pid();
                let listed = tokio::task::spawn_blocking(move || Descendants::of(process));
                descendants = listed.await.ok();
            }
            self.terminate();
            let _ = timeout(grace, self.wait()).await;
        }
        let was_killed = self.process.try_wait().is_none();
        self.kill_group();
        #[cfg(target_os = "linux")]
        if let Some(descendants) = descendants {
            descendants.kill();
        }
        let status = timeout(REAP_TIMEOUT, self.process.wait()).await;
        let _ = launch_tag::kill_all_in_background(self.tag.clone(), self.process.runtime()).await;
        if let Some(guardian) = &mut self.guardian {
            let _ = timeout(REAP_TIMEOUT, guardian.wait()).await;
        }
        self.stopped = true;
        let status = status.unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL));
        Stopped { status, was_killed }
    }

    /// Kills the group, once: afterward the guardian, which held the group's id, may be reaped.
    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.stopped {
            self.kill_group();
            launch_tag::kill_all_in_background(
                std::mem::take(&mut self.tag),
                self.process.runtime(),
            );
        }
        // Dropping the process and its guardian reaps them.
    }
}

fn command(launch: &Launch, group: Option<Pid>) -> Command {
    let mut command = Command::new(&launch.program);
    command.args(&launch.args).current_dir(&launch.folder);
    let environment = launch.environment.iter().map(|(name, value)| (name, value));
    command.env_clear().envs(environment).env(launch_tag::VARIABLE, &launch.tag);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Zero: a new group led by the child itself.
    command.process_group(group.map_or(0, |group| group.as_raw_nonzero().get()));
    prepare::child(&mut command, launch.limits);
    command
}
