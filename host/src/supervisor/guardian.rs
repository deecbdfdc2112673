//! A small process in the child's group that ends the group when the host is gone.
//!
//! It leads the group, so the group's id stays the group's for as long as the host has not
//! reaped it, and it reads a pipe that only the host holds: however the host ends, the read ends
//! too. A shell does it, since the host's own program cannot be asked to do such a thing.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Once;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use tokio::process::Command;

use super::reaped::Reaped;

/// The shell of every Unix.
pub(super) const SHELL: &str = "/bin/sh";

/// `$1` is the mark of the launch, `$2` its folder or nothing.
///
/// First it turns deaf to what a child may send to its whole group, and says so by a line. At the
/// end, processes that left the group are found by their mark, where there is `/proc` and a
/// `grep` that reads lines ended by zeros; more than once, since a process shows no environment
/// while it executes a program.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT PIPE ALRM TERM USR1 USR2 TSTP TTIN TTOU
echo
while read -r line; do :; done
rounds=0
empty=0
while [ "$rounds" -lt 200 ] && [ "$empty" -lt 10 ]; do
    rounds=$((rounds + 1))
    empty=$((empty + 1))
    for file in $(grep -lzsxF -e "HOTBAY_LAUNCH=$1" /proc/[0-9]*/environ); do
        empty=0
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}"
    done
    sleep 0.02 || sleep 1
done
[ -z "$2" ] || rm -rf -- "$2"
kill -KILL 0
"#;

/// The leader of a child's group. Dropped, it is killed and reaped.
pub(super) struct Guardian {
    process: Reaped,
}

impl Guardian {
    /// Starts one, or nothing where there is no `shell`.
    pub(super) fn spawn(
        shell: &Path,
        mark: &str,
        remove_at_end: Option<&Path>,
    ) -> io::Result<Option<Self>> {
        let mut command = Command::new(shell);
        command.args(["-c", SCRIPT, "hotbay-guardian", mark]);
        command.args(remove_at_end);
        command.env_clear().env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.current_dir("/").process_group(0);
        // The write end of its input stays in the process's value and ends with it. Nothing is
        // done between fork and exec, so that std need not copy the host's page tables.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        match Reaped::spawn(&mut command) {
            Ok(process) => Ok(Some(Self { process })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn_once(shell);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The group that it leads.
    pub(super) fn group(&self) -> Pid {
        self.process.pid()
    }

    /// Whether it is past the moment in which a signal to its group would end it.
    pub(super) fn is_deaf(&self) -> bool {
        let Some(said) = &self.process.process().stdout else { return false };
        let mut said = [PollFd::new(said, PollFlags::IN)];
        poll(&mut said, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Waits for its end, once it was killed with its group.
    pub(super) async fn wait(&mut self) {
        self.process.wait().await;
    }
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
