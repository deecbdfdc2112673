//! A small process in the child's group that ends the group when the host is gone.
//!
//! It leads the group, so the group's id stays the group's for as long as the host has not
//! reaped it, and it reads a pipe that only the host holds: however the host ends, the read ends
//! too. A shell does it, since the host's own program cannot be asked to do such a thing.
//!
//! A plugin can kill it, since both belong to one user. Its end closes a pipe that the host reads,
//! and another one then joins the group. The first one stays unreaped and holds the group's id.

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

use super::child_guard::ChildGuard;

/// The shell of every Unix.
pub(super) const SHELL: &str = "/bin/sh";

/// Where `grep`, `rm` and `sleep` are looked for, before the places that the host itself knows.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The variables by which it knows the tag of the launch, and the folder to remove: arguments
/// can be read by every user, the environment only by this one.
pub(super) const MARK_VARIABLE: &str = "HOTBAY_GUARDED";
pub(super) const FOLDER_VARIABLE: &str = "HOTBAY_GUARDED_FOLDER";

/// Between the start of a guardian and the start of the one that takes its place: doubled each
/// time, and the first one again after a guardian that lived for long.
const AGAIN_IN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_IN_MAX: Duration = Duration::from_secs(5);
const STEADY_MIN: Duration = Duration::from_secs(60);

/// First it turns deaf to what a child may send to its whole group, and says so by a line. At the
/// end, processes that left the group are found by their tag, where there is `/proc`; more than
/// once, since a process shows no environment while it executes a program. Without a `grep` that
/// reads lines ended by zeros the shell reads the environments itself, which takes longer.
pub(super) const SCRIPT: &str = r#"
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

/// What leads a child's group and ends it when the host is gone. Dropped, it is killed and reaped.
pub(super) struct Guardian {
    shell: PathBuf,
    tag: String,
    remove_at_end: Option<PathBuf>,
    /// The group has its id. Not reaped before the group's end, also where it ended.
    leader: ChildGuard,
    /// The one that took the place of one that ended.
    next: Option<ChildGuard>,
    /// Whether the one that guards is past the moment in which a signal to its group would end it.
    ignores_signals: bool,
    since: Instant,
    again_in: Duration,
}

impl Guardian {
    /// Starts one, or nothing where there is no `shell`.
    pub(super) fn spawn(
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
                again_in: AGAIN_IN_FIRST,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn_once(shell);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The group that it leads.
    pub(super) fn group(&self) -> Pid {
        self.leader.pid()
    }

    /// Whether it is past the moment in which a signal to its group would end it.
    pub(super) fn ignores_signals(&self) -> bool {
        if self.ignores_signals {
            return true;
        }
        let Some(said) = &self.current().process().stdout else { return false };
        let mut said = [PollFd::new(said, PollFlags::IN)];
        poll(&mut said, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Starts another one whenever it ends; `child` is the process that it is there for. Nothing
    /// is lost if the future is dropped.
    pub(super) async fn keep(&mut self, child: Pid) -> Infallible {
        loop {
            self.ended().await;
            if self.since.elapsed() >= STEADY_MIN {
                self.again_in = AGAIN_IN_FIRST;
            }
            tokio::time::sleep_until((self.since + self.again_in).into()).await;
            self.again_in = (self.again_in * 2).min(AGAIN_IN_MAX);
            self.since = Instant::now();
            let group = self.group().as_raw_nonzero().get();
            let folder = self.remove_at_end.as_deref();
            match ChildGuard::spawn(&mut command(&self.shell, &self.tag, folder, group)) {
                Ok(next) => {
                    self.next = Some(next);
                    self.ignores_signals = false;
                    tracing::warn!(
                        "the guardian of process {child} was killed by another process; a new one has \
                         taken its place"
                    );
                }
                Err(error) => tracing::warn!(
                    "the guardian of process {child} was killed by another process, and no new one \
                     could be started, which is tried again: {error}"
                ),
            }
        }
    }

    /// Waits for its end, once it was killed with its group.
    pub(super) async fn wait(&mut self) {
        self.leader.wait().await;
        if let Some(next) = &mut self.next {
            next.wait().await;
        }
    }

    /// The id of the one that guards now.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Pid {
        self.current().pid()
    }

    fn current(&self) -> &ChildGuard {
        self.next.as_ref().unwrap_or(&self.leader)
    }

    /// Waits until it has ended: then nobody writes to its pipe any more.
    async fn ended(&mut self) {
        let current = self.next.as_mut().unwrap_or(&mut self.leader);
        let Some(said) = &mut current.process_mut().stdout else {
            return std::future::pending().await;
        };
        let mut bytes = [0; 16];
        while said.read(&mut bytes).await.is_ok_and(|count| count > 0) {
            self.ignores_signals = true;
        }
    }
}

/// One that joins `group`, or leads a new one if that is 0.
fn command(shell: &Path, tag: &str, remove_at_end: Option<&Path>, group: i32) -> Command {
    let mut command = Command::new(shell);
    command.args(["-c", SCRIPT, "hotbay-guardian"]);
    let mut path = OsString::from(PATH);
    if let Some(own) = std::env::var_os("PATH").filter(|own| !own.is_empty()) {
        path.push(":");
        path.push(own);
    }
    command.env_clear().env("LC_ALL", "C").env("PATH", path).env(MARK_VARIABLE, tag);
    command.env(FOLDER_VARIABLE, remove_at_end.unwrap_or(Path::new("")));
    command.current_dir("/").process_group(group);
    // The write end of its input stays in the process's value and ends with it. Nothing is
    // done between fork and exec, so that std need not copy the host's page tables.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn warn_once(shell: &Path) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "there is no `{}`, so nothing ends what plugins' processes started when this program \
             is killed; install a shell there",
            shell.display(),
        );
    });
}
