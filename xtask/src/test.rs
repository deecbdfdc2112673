//! `cargo xtask test`: runs all tests of the workspace, including documentation tests.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

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
    let in_group = cfg!(unix) && env::var_os("CI").is_some();
    #[cfg(unix)]
    if in_group {
        // Not on a terminal, whose Ctrl-C reaches one group.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
    }
    let mut tests = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let lines = lines_of(tests.stdout.take().expect("it is piped"));
    let mut has_exited = || tests.try_wait().is_ok_and(|status| status.is_some());
    let watched = watch(&lines, HANGS_AFTER, &mut has_exited, &mut io::stdout());
    if let Err(error) = watched {
        kill(&mut tests, in_group);
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

/// Kills a process, with its group if it leads one.
#[cfg_attr(not(unix), allow(unused_variables, reason = "other systems have no groups"))]
fn kill(process: &mut Child, in_group: bool) {
    #[cfg(unix)]
    if let Ok(id) = i32::try_from(process.id())
        && let Some(group) = rustix::process::Pid::from_raw(id).filter(|_| in_group)
    {
        // Without an effect if all have exited.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = process.kill();
    let _ = process.wait();
}

fn lines_of(stdout: ChildStdout) -> Receiver<io::Result<String>> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        lines.try_for_each(|line| sender.send(line).map_err(drop))
    });
    lines
}

/// Prints lines until they end, or the tests have exited: a process that they left may hold the
/// pipe. Fails if no line arrives for so long.
fn watch(
    lines: &Receiver<io::Result<String>>,
    hangs_after: Duration,
    has_exited: &mut dyn FnMut() -> bool,
    output: &mut dyn io::Write,
) -> anyhow::Result<()> {
    let mut slow = BTreeSet::new();
    let mut last_line = Instant::now();
    loop {
        let line = match lines.recv_timeout(hangs_after.min(Duration::from_secs(1))) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if has_exited() => return Ok(()),
            Err(RecvTimeoutError::Timeout) if last_line.elapsed() >= hangs_after => break,
            Err(RecvTimeoutError::Timeout) => continue,
        };
        last_line = Instant::now();
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
        let hangs_after = Duration::from_millis(20);
        let error = watch(&lines, hangs_after, &mut || false, &mut output).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.ends_with("running: a::hangs"), "{error}");
        assert_eq!(String::from_utf8(output).unwrap().lines().count(), 4);
    }

    #[test]
    fn end_of_output_or_of_the_tests_ends_the_watch() {
        let minute = Duration::from_secs(60);
        let (sender, lines) = channel();
        sender.send(Ok("test a ... ok".to_owned())).unwrap();
        watch(&lines, minute, &mut || true, &mut Vec::new()).unwrap();
        drop(sender);
        watch(&lines, minute, &mut || false, &mut Vec::new()).unwrap();
    }
}
