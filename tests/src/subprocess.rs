//! Runs a test again in a separate process, for tests that inspect or crash the whole process.

use std::env;
use std::process::{Command, Output};

/// Returns a command that runs one test of the calling test binary. The test is named with its
/// crate, as in `concat!(module_path!(), "::test_name")`.
///
/// # Panics
///
/// Panics if the name contains no crate.
#[allow(clippy::disallowed_methods, reason = "the test binary starts itself")]
pub fn rerun_test(test: &str) -> Command {
    // The test harness omits the crate from test names.
    let (_, name) = test.split_once("::").expect("a test name with its crate");
    let mut command = Command::new(env::current_exe().expect("the path of the test binary"));
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command
}

/// Runs a test as [`rerun_test`] does, with these environment variables, and captures its output.
///
/// # Panics
///
/// Panics if the test fails or crashes.
#[track_caller]
pub fn run_in_subprocess(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = rerun_test(test);
    let output = command.envs(variables.iter().copied()).output().expect("the test binary starts");
    let output_text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let is_done = output.status.success() && output_text.contains("1 passed");
    assert!(is_done, "`{test}` with {variables:?}: {}\n{output_text}{errors}", output.status);
    output
}
