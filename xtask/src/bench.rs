//! `cargo xtask bench`: runs the benchmarks in release mode.

use clap::Args;

use hotbay_build::{Workspace, cargo};

/// The crate of the benchmarks.
const PACKAGE: &str = "hotbay-bench";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments for the benchmarks.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["run", "--release", "--package", PACKAGE, "--"]).args(&options.arguments);
    cargo::run(&mut command)
}
