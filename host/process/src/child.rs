//! A child process: spawned in its own process group, stopped with all its descendants, always
//! reaped. One that only prints and exits is run to its end, with limits of time and output.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbay_protocol::variable;
use hotbay_sandbox::Enforcement;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::time::{sleep_until, timeout};

use crate::child_guard::ChildGuard;
#[cfg(target_os = "linux")]
use crate::descendants::Descendants;
use crate::descendants::kill_all_in_background;
use crate::guardian::Guardian;
use crate::launch::Launch;
use crate::output::PIPE_DRAIN_TIMEOUT;
use crate::prepare;
use crate::sync::after;

#[cfg(test)]
pub(crate) mod tests;

/// Time to wait for a killed process. One blocked on a broken disk never exits; it is then reaped
/// in the background.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which a program may be held open for writing, by a process that was forked while the
/// program was written and has not called `exec` yet.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
const BUSY_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The result of stopping a process.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// How it exited.
    pub status: ExitStatus,
    /// Whether the host killed it after the grace period.
    pub was_killed: bool,
}

/// A process and all its descendants. Everything is killed and reaped on drop.
pub(crate) struct Child {
    process: ChildGuard,
    guardian: Option<Guardian>,
    /// `None` once its id may have been reused.
    group: Option<Pid>,
    tag: String,
    /// Kills and removes its control group when it is dropped, which blocks for a moment.
    sandbox: Option<Arc<Enforcement>>,
    /// Whether all processes are stopped.
    stopped: bool,
}

impl Child {
    /// Starts a program, on a thread of a runtime that lives as long as the host. On Linux the
    /// child is killed when the thread that started it exits, as idle blocking threads and workers
    /// that blocked in place do. Takes the guardian, if there is one, unless the start fails.
    pub(crate) fn spawn(launch: &Launch, guardian: &mut Option<Guardian>) -> io::Result<Self> {
        let group = guardian.as_ref().map(Guardian::group);
        let process = ChildGuard::spawn(&mut command(launch, group))?;
        let group = Some(group.unwrap_or(process.pid()));
        let (guardian, tag) = (guardian.take(), launch.tag.clone());
        let sandbox = launch.sandbox.clone();
        Ok(Self { process, guardian, group, tag, sandbox, stopped: false })
    }

    /// Starts a program like `spawn`; retries for a while if it is held open for writing.
    pub(crate) async fn spawn_with_retries(
        launch: &Launch,
        mut guardian: Option<Guardian>,
    ) -> io::Result<Self> {
        let until = Instant::now() + BUSY_TIMEOUT;
        loop {
            match Self::spawn(launch, &mut guardian) {
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
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.process.try_wait()
    }

    /// Returns the launch tag that all descendants carry.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// Returns the group of all its processes, and the guardian in it.
    pub(crate) fn group(&self) -> (Option<Pid>, Option<Pid>) {
        (self.group, self.guardian.as_ref().map(Guardian::group))
    }

    /// Returns the folder of its control group, if it has one.
    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        self.sandbox.as_ref()?.group().map(Path::to_owned)
    }

    #[cfg(test)]
    pub(crate) fn guardian_pid(&self) -> Option<u32> {
        self.guardian.as_ref().map(|guardian| guardian.pid().as_raw_nonzero().get().unsigned_abs())
    }

    #[cfg(test)]
    pub(crate) fn guardian_ignores_signals(&self) -> bool {
        self.guardian.as_ref().is_some_and(Guardian::ignores_signals)
    }

    /// Returns whether the kernel killed a process since all together used too much memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.ran_out_of_memory())
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
        let _ = kill_all_in_background(self.tag.clone(), self.process.runtime()).await;
        if let Some(guardian) = &mut self.guardian {
            let _ = timeout(REAP_TIMEOUT, guardian.wait()).await;
        }
        if let Some(sandbox) = self.sandbox.take() {
            let _ = tokio::task::spawn_blocking(move || drop(sandbox)).await;
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
            kill_all_in_background(std::mem::take(&mut self.tag), self.process.runtime());
            if let Some(sandbox) = self.sandbox.take() {
                self.process.runtime().spawn_blocking(move || drop(sandbox));
            }
        }
        // Dropping the process and its guardian reaps them.
    }
}

fn command(launch: &Launch, group: Option<Pid>) -> Command {
    let mut command = Command::new(&launch.program);
    command.args(&launch.args).current_dir(&launch.folder);
    let environment = launch.environment.iter().map(|(name, value)| (name, value));
    command.env_clear().envs(environment).env(variable::LAUNCH, &launch.tag);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Zero: a new group led by the child itself.
    command.process_group(group.map_or(0, |group| group.as_raw_nonzero().get()));
    prepare::child(&mut command, launch.limits, launch.sandbox.clone());
    command
}

/// The part of stderr that is kept: its beginning and its end.
const MAX_STDERR_BYTES: usize = 10 << 10;
const MAX_STDERR_FIRST_BYTES: usize = 2 << 10;
const CHUNK_BYTES: usize = 8 << 10;

/// The outcome of such a run.
pub(crate) enum RunToEnd {
    /// It exited by itself.
    Exited { status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8> },
    /// It did not exit in time.
    TimedOut { stderr: Vec<u8> },
    /// It exceeded the output limit.
    TooMuchOutput { stderr: Vec<u8> },
    /// It was not started.
    NotStarted(io::Error),
}

/// Runs a program for at most `timeout`, reads at most `max_bytes` of each pipe, and keeps the
/// first 2 and the last 8 KiB of its stderr. It gets no guardian.
pub(crate) async fn run_to_end(launch: &Launch, timeout: Duration, max_bytes: usize) -> RunToEnd {
    let until = after(Instant::now(), timeout);
    let mut child = match Child::spawn_with_retries(launch, None).await {
        Ok(child) => child,
        Err(error) => return RunToEnd::NotStarted(error),
    };
    let mut captured = CapturedOutput { stdout: Vec::new(), stderr: Vec::new() };
    let outcome = read(&mut child, &mut captured, until, max_bytes).await;
    match outcome {
        // Its descendants are killed in the background.
        Outcome::Exited(_) => drop(child),
        Outcome::TimedOut | Outcome::TooMuchOutput => {
            let _ = child.stop(Duration::ZERO).await;
        }
    }
    let CapturedOutput { stdout, stderr } = captured;
    match outcome {
        Outcome::Exited(status) => RunToEnd::Exited { status, stdout, stderr },
        Outcome::TimedOut => RunToEnd::TimedOut { stderr },
        Outcome::TooMuchOutput => RunToEnd::TooMuchOutput { stderr },
    }
}

struct CapturedOutput {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

enum Outcome {
    Exited(ExitStatus),
    TimedOut,
    TooMuchOutput,
}

async fn read(
    child: &mut Child,
    captured: &mut CapturedOutput,
    mut until: Instant,
    max_bytes: usize,
) -> Outcome {
    let mut stdout = child.take_stdout();
    let mut stderr = child.take_stderr();
    let mut stdout_chunk = vec![0; CHUNK_BYTES];
    let mut stderr_chunk = vec![0; CHUNK_BYTES];
    let mut stderr_bytes = 0;
    let mut exited = None;
    while stdout.is_some() || stderr.is_some() || exited.is_none() {
        tokio::select! {
            biased;
            status = child.wait(), if exited.is_none() => {
                exited = Some(status);
                until = Instant::now() + PIPE_DRAIN_TIMEOUT;
            }
            count = read_some(&mut stdout, &mut stdout_chunk) => {
                if captured.stdout.len() + count > max_bytes {
                    return Outcome::TooMuchOutput;
                }
                captured.stdout.extend(stdout_chunk.iter().take(count));
            }
            count = read_some(&mut stderr, &mut stderr_chunk) => {
                stderr_bytes += count;
                if stderr_bytes > max_bytes {
                    return Outcome::TooMuchOutput;
                }
                captured.stderr.extend(stderr_chunk.iter().take(count));
                let excess = captured.stderr.len().saturating_sub(MAX_STDERR_BYTES);
                let first = MAX_STDERR_FIRST_BYTES.min(captured.stderr.len() - excess);
                captured.stderr.drain(first..first + excess);
            }
            // Last, so that output captured in time is read on a busy machine, too.
            () = sleep_until(until.into()) => break,
        }
    }
    exited.map_or(Outcome::TimedOut, Outcome::Exited)
}

/// Reads available output. Sets the pipe to `None` at its end, and is pending from then on. Cancel
/// safe.
async fn read_some(pipe: &mut Option<impl AsyncRead + Unpin>, chunk: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    let count = open.read(chunk).await.unwrap_or(0);
    if count == 0 {
        *pipe = None;
    }
    count
}
