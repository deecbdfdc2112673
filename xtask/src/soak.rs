//! `cargo xtask soak`: reloads under load for a long time, looking for what grows.

use clap::Args;

use hotbay_build::{Workspace, cargo};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Passed on to the soak.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["run", "--release", "--package", "hotbay-bench", "--", "soak"]);
    cargo::run(command.args(&options.arguments))
}
