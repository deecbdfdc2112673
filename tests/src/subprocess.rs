//! A test once more, in a process of its own: for what is of the whole process, or may end it.

use std::env;
use std::process::{Command, Output};

/// Runs the test `name` of the calling test binary in a process of its own, with `value` in the
/// environment variable `variable`. Both of its outputs are captured.
///
/// # Panics
///
/// When it fails or crashes.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "the test binary itself is started")]
pub fn run_in_subprocess(name: &str, variable: &str, value: &str) -> Output {
    let this = env::current_exe().expect("a path of the test binary");
    let output = Command::new(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(variable, value)
        .output()
        .expect("the test binary can be started");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let is_done = output.status.success() && told.contains("1 passed");
    assert!(is_done, "`{name}` with `{value}`: {}\n{told}{errors}", output.status);
    output
}
