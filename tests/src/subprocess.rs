//! Runs a test again in a separate process, for tests that inspect or crash the whole process.

use std::env;
use std::process::{Command, Output};

/// Runs the test `name` of the calling test binary in a separate process, with the environment
/// variable `variable` set to `value`, and captures its output.
///
/// # Panics
///
/// Panics if the test fails or crashes.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "the test binary starts itself")]
pub fn run_in_subprocess(name: &str, variable: &str, value: &str) -> Output {
    let this = env::current_exe().expect("the path of the test binary");
    let output = Command::new(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(variable, value)
        .output()
        .expect("the test binary starts");
    let output_text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let is_done = output.status.success() && output_text.contains("1 passed");
    assert!(is_done, "`{name}` with `{value}`: {}\n{output_text}{errors}", output.status);
    output
}
