//! Runs the `hotbay` command as a subprocess. Contains no tests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hotbay_tests::{Plugins, binary};
use serde_json::{Value, json};

/// The result of a run.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in: {}{}", self.text(), self.stderr))
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.stderr);
        assert!(!self.stderr.contains("panicked at"), "{}", self.stderr);
        self
    }

    /// Asserts that stderr contains all parts and stdout is empty.
    #[track_caller]
    pub(crate) fn says_only(self, parts: &[&str]) {
        assert_eq!(self.text(), "");
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` in: {}", self.stderr);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the command is a process")]
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary("hotbay-cli", "hotbay"));
    command.args(args).current_dir(dir).env_remove("NO_COLOR");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn hotbay(dir: &Path, args: &[&str]) -> Run {
    run(command(dir, args).output())
}

pub(crate) fn run(output: std::io::Result<Output>) -> Run {
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Run { code: output.status.code(), stdout: output.stdout, stderr }
}

pub(crate) fn with_input(dir: &Path, args: &[&str], input: &[u8]) -> Run {
    let mut child = command(dir, args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // A command that ignores its input may have exited already.
        let _ = stdin.write_all(&input);
    });
    let run = run(child.wait_with_output());
    writer.join().unwrap();
    run
}

/// Installs the examples in a folder that the command finds on its own.
pub(crate) fn examples() -> Plugins {
    let plugins = Plugins::new();
    plugins.add_in("plugins/transform", "transform", "transform").write();
    let rules = json!({ "rules": [{ "rule": "positive" }] });
    plugins.add_in("plugins/filter", "filter", "filter").config(rules).write();
    plugins
}

/// Installs a plugin without a digest that misbehaves as configured.
pub(crate) fn unverified(plugins: &Plugins, name: &str, config: Value) {
    let folder = format!("plugins/{name}");
    plugins.add_in(&folder, name, "faulty").config(config).unverified().write();
}
