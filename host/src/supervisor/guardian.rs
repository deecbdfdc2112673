//! A small process in the child's group that ends the group when the host is gone.
//!
//! It leads the group, so the group's id stays the group's for as long as the host has not
//! reaped it, and it reads a pipe that only the host holds: however the host ends, the read ends
//! too. A shell does it, since the host's own program cannot be asked to do such a thing.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Once;

use rustix::process::Pid;
use tokio::process::Command;

use super::prepare;
use super::reaped::Reaped;

/// The shell of every Unix.
pub(super) const SHELL: &str = "/bin/sh";

/// `$1` is the mark of the launch, `$2` its folder or nothing.
///
/// Processes that left the group are found by their mark, where there is `/proc` and a `grep`
/// that reads lines ended by zeros. Signals that the child sends to its group were ignored before
/// the shell began.
const SCRIPT: &str = r#"
while read -r line; do :; done
rounds=0
while [ "$rounds" -lt 100 ]; do
    rounds=$((rounds + 1))
    found=$(grep -lzsxF -e "HOTBAY_LAUNCH=$1" /proc/[0-9]*/environ)
    [ -n "$found" ] || break
    for file in $found; do
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}"
    done
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
        // The write end of its input stays in the process's value and ends with it.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        prepare::guardian(&mut command);
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
