//! `cargo xtask test`: runs all tests of the workspace, including documentation tests.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

use hotbay_build::{Hinted, Workspace, cargo};

/// Time without a result after which a test hangs. Compiling all tests takes less, too.
const HANGS_AFTER: Duration = Duration::from_secs(20 * 60);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments for `cargo test --workspace`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the tests, which build their own fixture plugins.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    cargo::run(command(workspace).args(&options.arguments))
}

/// Runs all tests, and ends them with an error that names those that hang.
pub(crate) fn run_watched(workspace: &Workspace) -> anyhow::Result<()> {
    let mut command = command(workspace);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut tests = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = tests.stdout.take().expect("it is piped");
    let watched = watch(lines_of(stdout), HANGS_AFTER, &mut io::stdout());
    if let Err(error) = watched {
        end(&mut tests);
        return Err(error);
    }
    let status = tests.wait()?;
    ensure!(status.success(), "the tests failed ({status})");
    Ok(())
}

fn command(workspace: &Workspace) -> Command {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["test", "--workspace", "--features", "hotbay/tower"]);
    command
}

/// Ends the processes of a group.
fn end(leader: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(leader.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Without an effect if all have exited.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = leader.kill();
    let _ = leader.wait();
}

fn lines_of(stdout: ChildStdout) -> Receiver<io::Result<String>> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        lines.try_for_each(|line| sender.send(line).map_err(drop))
    });
    lines
}

/// Prints lines until they end. Fails if none arrives for so long.
fn watch(
    lines: Receiver<io::Result<String>>,
    hangs_after: Duration,
    output: &mut dyn io::Write,
) -> anyhow::Result<()> {
    let mut slow = BTreeSet::new();
    loop {
        let line = match lines.recv_timeout(hangs_after) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => break,
        };
        writeln!(output, "{line}")?;
        if let Some(line) = line.strip_prefix("test ") {
            match line.split_once(" has been running for ") {
                Some((name, _)) => _ = slow.insert(name.to_owned()),
                None => _ = line.split_once(" ... ").map(|(name, _)| slow.remove(name)),
            }
        }
    }
    let minutes = hangs_after.as_secs_f64() / 60.0;
    let slow: Vec<_> = slow.into_iter().collect();
    if slow.is_empty() {
        bail!("no test has ended for {minutes} min");
    }
    let message = format!("no test has ended for {minutes} min; running: {}", slow.join(", "));
    bail!(Hinted::new(message, "run this test alone, and inspect its threads with a debugger"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_hang_are_named() {
        let (sender, lines) = channel();
        for line in [
            "test a::quick ... ok",
            "test a::hangs has been running for over 60 seconds",
            "test b::slow has been running for over 60 seconds",
            "test b::slow ... ok",
        ] {
            sender.send(Ok(line.to_owned())).unwrap();
        }
        let mut output = Vec::new();
        let error = watch(lines, Duration::from_millis(20), &mut output).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.ends_with("running: a::hangs"), "{error}");
        assert_eq!(String::from_utf8(output).unwrap().lines().count(), 4);
    }

    #[test]
    fn end_of_output_is_no_hang() {
        let (sender, lines) = channel();
        sender.send(Ok("test a ... ok".to_owned())).unwrap();
        drop(sender);
        watch(lines, Duration::from_secs(60), &mut Vec::new()).unwrap();
    }
}
