//! Starts cargo and git. The only file of this crate and of xtask that starts processes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// Returns a command for the cargo that runs this program, so that `cargo +nightly xtask` uses
/// nightly; otherwise for the one of `PATH`.
pub fn cargo(folder: &Path) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    start_in(folder, &program)
}

/// Returns a command for the git of `PATH`.
pub fn git(folder: &Path) -> Command {
    start_in(folder, OsStr::new("git"))
}

/// Returns a command for the spelling checker of `PATH`.
pub fn typos(folder: &Path) -> Command {
    start_in(folder, OsStr::new("typos"))
}

/// Runs `command` with the stdin, stdout and stderr of this program.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", display(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", display(command));
    }
    Ok(())
}

/// Runs `command` and returns its stdout; its stderr passes through.
pub fn read(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{} failed ({})", display(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs `command` and returns its output and status; its stderr passes through.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", display(command)))
}

/// Returns the command as a user would type it.
pub fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_stem().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    format!("`{}`", words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" "))
}

#[allow(clippy::disallowed_methods, reason = "the one place that starts processes")]
fn start_in(folder: &Path, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    command
}
