//! A child process: spawned in a group of its own, ended with all that it started, always reaped.

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

/// How long a killed process may take to be gone. One that waits for a broken disk never is; it
/// is then reaped later.
const REAP_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a program may be held open for writing by a process that forked while it was written
/// and has not executed its own program yet.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);
const BUSY_LOOK_EVERY: Duration = Duration::from_millis(2);

/// What to start, and how.
#[derive(Clone)]
pub(crate) struct Launch {
    /// An absolute path.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Where it runs.
    pub(crate) folder: PathBuf,
    /// All of its environment but the mark.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) limits: ChildLimits,
    /// The value of `HOTBAY_LAUNCH`, by which all that it starts is found.
    pub(crate) mark: String,
    /// Whether a guardian ends it when the host is gone.
    pub(crate) guarded: bool,
    /// What the guardian then removes.
    pub(crate) remove_at_end: Option<PathBuf>,
}

/// What a child may use. No limit is higher than the host's own; core files are never written.
///
/// macOS accepts a limit of memory and does not enforce it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChildLimits {
    /// Of data: heap and private mappings that can be written.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) cpu_s: Option<u64>,
}

/// How a process ended that was stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped {
    pub(crate) status: ExitStatus,
    /// Whether it still ran when its grace was over, so that the host killed it.
    pub(crate) was_killed: bool,
}

/// A process and all that it started. Dropped, everything is killed and reaped.
pub(crate) struct Child {
    process: ChildGuard,
    guardian: Option<Guardian>,
    /// None once its id could be a stranger's.
    group: Option<Pid>,
    mark: String,
    /// Nothing is left to be ended.
    ended: bool,
}

impl Child {
    /// Starts a program, on a thread of a runtime that lives as long as the host: on Linux the
    /// child is killed when the thread ends that started it, as threads for blocking work do when
    /// they are idle, and workers that blocked in place.
    pub(crate) fn spawn(launch: &Launch) -> io::Result<Self> {
        Self::spawn_with(launch, Path::new(guardian::SHELL))
    }

    /// As `spawn`, without a guardian whatever `launch` says.
    pub(super) fn spawn_unguarded(launch: &Launch) -> io::Result<Self> {
        Self::spawn_into(launch, None)
    }

    /// As `spawn`, with a `shell` for the guardian.
    pub(super) fn spawn_with(launch: &Launch, shell: &Path) -> io::Result<Self> {
        let remove_at_end = launch.remove_at_end.as_deref();
        let guardian = match launch.guarded {
            true => Guardian::spawn(shell, &launch.mark, remove_at_end)?,
            false => None,
        };
        Self::spawn_into(launch, guardian)
    }

    fn spawn_into(launch: &Launch, guardian: Option<Guardian>) -> io::Result<Self> {
        let group = guardian.as_ref().map(Guardian::group);
        let process = ChildGuard::spawn(&mut command(launch, group))?;
        let group = Some(group.unwrap_or(process.pid()));
        Ok(Self { process, guardian, group, mark: launch.mark.clone(), ended: false })
    }

    /// Does `spawn` again while the program is held open for writing, for a while.
    pub(crate) async fn patiently(
        launch: &Launch,
        spawn: impl Fn(&Launch) -> io::Result<Self>,
    ) -> io::Result<Self> {
        let until = Instant::now() + BUSY_WAIT_MAX;
        loop {
            match spawn(launch) {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < until =>
                {
                    tokio::time::sleep(BUSY_LOOK_EVERY).await;
                }
                done => return done,
            }
        }
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it did.
    pub(super) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.process.try_wait()
    }

    /// The mark that all carry that it started.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    #[cfg(test)]
    pub(super) fn guardian_pid(&self) -> Option<u32> {
        self.guardian.as_ref().map(|guardian| guardian.pid().as_raw_nonzero().get().unsigned_abs())
    }

    #[cfg(test)]
    pub(super) fn guardian_is_deaf(&self) -> bool {
        self.guardian.as_ref().is_some_and(Guardian::is_deaf)
    }

    /// What it writes, the first time that this is called.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.process.process_mut().stdout.take()
    }

    /// What it writes about itself, the first time that this is called.
    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.process.process_mut().stderr.take()
    }

    /// Waits for the process's end; what it started may live on until `stop`. Nothing is lost if
    /// the future is dropped.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let child = self.process.pid();
        let status = match &mut self.guardian {
            None => self.process.wait().await,
            Some(guardian) => tokio::select! {
                biased;
                status = self.process.wait() => status,
                never = guardian.keep(child) => match never {},
            },
        };
        if self.guardian.is_none() {
            // The group's id was the process's own: soon it may be given away.
            self.kill_group();
        }
        status
    }

    /// Asks the process and all of its group to end.
    pub(crate) fn terminate(&self) {
        let Some(group) = self.group else { return };
        if self.guardian.as_ref().is_none_or(Guardian::is_deaf) {
            // They may all have ended.
            let _ = kill_process_group(group, Signal::TERM);
        } else {
            // In its first moment the guardian would end too.
            self.process.signal(Signal::TERM);
        }
    }

    /// Ends the process and all that it started: asks first if it still runs, and waits for the
    /// process, at most `grace`; then kills. Answers how the process ended.
    pub(crate) async fn stop(mut self, grace: Duration) -> Stopped {
        #[cfg(target_os = "linux")]
        let mut descendants = None;
        if self.process.try_wait().is_none() {
            // Once it has ended, nothing shows what it started, but for the group and the mark.
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
        let status = timeout(REAP_WAIT_MAX, self.process.wait()).await;
        let _ = launch_tag::end_all_later(self.mark.clone(), self.process.runtime()).await;
        if let Some(guardian) = &mut self.guardian {
            let _ = timeout(REAP_WAIT_MAX, guardian.wait()).await;
        }
        self.ended = true;
        let status = status.unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL));
        Stopped { status, was_killed }
    }

    /// Once: afterwards the guardian, which held the group's id, may be reaped.
    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
            launch_tag::end_all_later(std::mem::take(&mut self.mark), self.process.runtime());
        }
        // The process and its guardian are reaped as they are dropped.
    }
}

fn command(launch: &Launch, group: Option<Pid>) -> Command {
    let mut command = Command::new(&launch.program);
    command.args(&launch.args).current_dir(&launch.folder);
    let environment = launch.environment.iter().map(|(name, value)| (name, value));
    command.env_clear().envs(environment).env(launch_tag::VARIABLE, &launch.mark);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Zero: a new group that it leads itself.
    command.process_group(group.map_or(0, |group| group.as_raw_nonzero().get()));
    prepare::child(&mut command, launch.limits);
    command
}
