//! A small process in the child's group that kills the group after the host has exited.
//!
//! It leads the group, so the group's id is not reused until the host reaps it. It reads a pipe
//! whose other end only the host holds: however the host exits, the read ends. It is a shell, since
//! the host's own program has no such mode.
//!
//! A plugin can kill it, since both belong to one user. Its exit closes a pipe that the host reads,
//! and the host adds another guardian to the group. The first one stays unreaped and keeps the
//! group's id.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::child_guard::ChildGuard;

#[cfg(all(test, target_os = "linux"))]
mod tests;

/// The shell of every Unix.
pub(crate) const SHELL: &str = "/bin/sh";

/// Search path for `grep`, `rm` and `sleep`, before the host's own.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Variables that pass the launch tag and the folder to remove: every user can read arguments, but
/// only this one the environment.
pub(crate) const TAG_VARIABLE: &str = "HOTBAY_GUARDED";
pub(crate) const FOLDER_VARIABLE: &str = "HOTBAY_GUARDED_FOLDER";

/// Delay between the start of a guardian and the start of its replacement: doubled each time, and
/// reset after a guardian that ran for `STEADY_AFTER`.
const INITIAL_RESTART_DELAY: Duration = Duration::from_millis(50);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// Ignores the signals that a child may send to its whole group, and prints a line once it does.
///
/// Finally it kills the processes that left the group, which it finds by their tag in `/proc`. It
/// repeats the scan, since a process shows no environment during `exec`. Without a `grep` that
/// supports `-z` the shell reads the environments itself, which takes longer.
pub(crate) const SCRIPT: &str = r#"
trap '' HUP INT QUIT PIPE ALRM TERM USR1 USR2 TSTP TTIN TTOU
echo
while read -r line; do :; done
entry="HOTBAY_LAUNCH=$HOTBAY_GUARDED"
if printf 'x\0y\0' | grep -qzxF y; then
    carriers() { printf '%s\n' "$entry" | grep -lzsxF -f - /proc/[0-9]*/environ; }
else
    carriers() {
        for file in /proc/[0-9]*/environ; do
            while IFS= read -r line || [ -n "$line" ]; do
                case $line in *"$entry"*) echo "$file"; break ;; esac
            done <"$file"
        done
    }
fi
rounds=0
empty=0
while [ "$rounds" -lt 200 ] && [ "$empty" -lt 10 ]; do
    rounds=$((rounds + 1))
    empty=$((empty + 1))
    for file in $(carriers); do
        empty=0
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}"
    done
    sleep 0.02 || sleep 1
done
[ -z "$HOTBAY_GUARDED_FOLDER" ] || rm -rf -- "$HOTBAY_GUARDED_FOLDER"
kill -KILL 0
"#;

/// The guardian of a child's group. Killed and reaped on drop.
pub(crate) struct Guardian {
    shell: PathBuf,
    tag: String,
    remove_at_end: Option<PathBuf>,
    /// The process whose id is the group's. Not reaped before the group is killed, even if it
    /// exited.
    leader: ChildGuard,
    /// The replacement, if the leader was killed.
    next: Option<ChildGuard>,
    /// Whether the current guardian ignores signals to its group.
    ignores_signals: bool,
    since: Instant,
    restart_delay: Duration,
}

impl Guardian {
    /// Spawns a guardian; returns `None` if `shell` is missing.
    pub(crate) fn spawn(
        shell: &Path,
        tag: &str,
        remove_at_end: Option<&Path>,
    ) -> io::Result<Option<Self>> {
        match ChildGuard::spawn(&mut command(shell, tag, remove_at_end, 0)) {
            Ok(leader) => Ok(Some(Self {
                shell: shell.to_owned(),
                tag: tag.to_owned(),
                remove_at_end: remove_at_end.map(Path::to_owned),
                leader,
                next: None,
                ignores_signals: false,
                since: Instant::now(),
                restart_delay: INITIAL_RESTART_DELAY,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn_once(shell);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the group that it leads.
    pub(crate) fn group(&self) -> Pid {
        self.leader.pid()
    }

    /// Returns whether the guardian already ignores signals to its group.
    pub(crate) fn ignores_signals(&self) -> bool {
        if self.ignores_signals {
            return true;
        }
        let Some(stdout) = &self.current().process().stdout else { return false };
        let mut stdout = [PollFd::new(stdout, PollFlags::IN)];
        poll(&mut stdout, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Replaces the guardian of `child` whenever it exits. Cancel safe.
    pub(crate) async fn replace_on_exit(&mut self, child: Pid) -> Infallible {
        loop {
            self.wait_for_exit().await;
            if self.since.elapsed() >= STEADY_AFTER {
                self.restart_delay = INITIAL_RESTART_DELAY;
            }
            tokio::time::sleep_until((self.since + self.restart_delay).into()).await;
            self.restart_delay = (self.restart_delay * 2).min(MAX_RESTART_DELAY);
            self.since = Instant::now();
            let group = self.group().as_raw_nonzero().get();
            let folder = self.remove_at_end.as_deref();
            match ChildGuard::spawn(&mut command(&self.shell, &self.tag, folder, group)) {
                Ok(next) => {
                    self.next = Some(next);
                    self.ignores_signals = false;
                    tracing::warn!(
                        "the guardian of process {child} was killed by another process and has been \
                         replaced"
                    );
                }
                Err(error) => tracing::warn!(
                    "the guardian of process {child} was killed by another process and could not \
                     be replaced (the host will retry): {error}"
                ),
            }
        }
    }

    /// Waits until it exits, after it was killed with its group.
    pub(crate) async fn wait(&mut self) {
        self.leader.wait().await;
        if let Some(next) = &mut self.next {
            next.wait().await;
        }
    }

    /// Returns the id of the current guardian.
    #[cfg(test)]
    pub(crate) fn pid(&self) -> Pid {
        self.current().pid()
    }

    fn current(&self) -> &ChildGuard {
        self.next.as_ref().unwrap_or(&self.leader)
    }

    /// Waits until the current guardian has exited, which closes its pipe.
    async fn wait_for_exit(&mut self) {
        let current = self.next.as_mut().unwrap_or(&mut self.leader);
        let Some(stdout) = &mut current.process_mut().stdout else {
            return std::future::pending().await;
        };
        let mut bytes = [0; 16];
        while stdout.read(&mut bytes).await.is_ok_and(|count| count > 0) {
            self.ignores_signals = true;
        }
    }
}

/// Builds the command of a guardian that joins `group`, or leads a new one if that is 0.
fn command(shell: &Path, tag: &str, remove_at_end: Option<&Path>, group: i32) -> Command {
    let mut command = Command::new(shell);
    command.args(["-c", SCRIPT, "hotbay-guardian"]);
    let mut path = OsString::from(PATH);
    if let Some(own) = std::env::var_os("PATH").filter(|own| !own.is_empty()) {
        path.push(":");
        path.push(own);
    }
    command.env_clear().env("LC_ALL", "C").env("PATH", path).env(TAG_VARIABLE, tag);
    command.env(FOLDER_VARIABLE, remove_at_end.unwrap_or(Path::new("")));
    command.current_dir("/").process_group(group);
    // The write end of its stdin stays in the process value and is closed with it. Nothing
    // runs between fork and exec, so std need not copy the host's page tables.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn warn_once(shell: &Path) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            hint = "install a shell there",
            "shell `{}` not found: if this program is killed, processes started by plugins keep \
             running",
            shell.display(),
        );
    });
}
