//! Starts other programs: the cargo that runs this command, and git.
//! The only file of xtask that starts processes; it decides nothing about their results.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// The cargo that runs this command, so that `cargo +nightly xtask` stays on nightly.
pub(crate) fn cargo(folder: &Path) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    start_in(folder, &program)
}

/// The git of the caller's `PATH`.
pub(crate) fn git(folder: &Path) -> Command {
    start_in(folder, OsStr::new("git"))
}

/// Runs `command` with this command's own stdin, stdout and stderr.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", told(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", told(command));
    }
    Ok(())
}

/// Runs `command` and returns its stdout; its stderr passes through.
pub(crate) fn read(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{} ended with {}", told(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs `command`, whether it succeeds or not; its stderr passes through.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", told(command)))
}

/// The command as a person would have typed it.
pub(crate) fn told(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_stem().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    format!("`{}`", words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" "))
}

#[allow(clippy::disallowed_methods, reason = "the one place of xtask that starts processes")]
fn start_in(folder: &Path, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    command
}
