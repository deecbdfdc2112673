//! `cargo xtask miri`: runs the tests that make no system calls in Miri, which finds undefined
//! behavior. Miri opens no libraries and starts no processes.

use clap::Args;

use crate::require;
use hotbay_build::{Workspace, cargo};

/// Packages, with filters of the tests that Miri can run.
const TESTS: &[(&str, &[&str])] = &[
    ("hotbay-protocol", &[]),
    ("hotbay-plugin", &["payload::", "stamp::", "text::"]),
    ("hotbay", &["call::state", "slot::", "worker::queue"]),
];

/// A test with many thousands of steps, which takes longer than ten minutes in Miri.
const TOO_SLOW: &str = "ended_call_never_seems_to_reach_plugin";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The only package to test.
    package: Option<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    require::nightly(workspace)?;
    let mut command = cargo::nightly(&workspace.root);
    command.args(["miri", "--version"]);
    require::require(command, "Miri", "rustup +nightly component add miri rust-src")?;
    let is_selected = |name: &str| options.package.as_deref().is_none_or(|only| only == name);
    for (package, filters) in TESTS.iter().filter(|(name, _)| is_selected(name)) {
        let mut command = cargo::nightly(&workspace.root);
        command.args(["miri", "test", "--package", package, "--lib", "--no-default-features"]);
        command.arg("--target-dir").arg(workspace.target.join("miri"));
        // Tests read the clock, and property tests the current folder.
        command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        command.env("PROPTEST_CASES", "4").arg("--").args(*filters);
        cargo::run(command.args(["--skip", TOO_SLOW]))?;
    }
    Ok(())
}
