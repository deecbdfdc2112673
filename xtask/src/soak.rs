//! `cargo xtask soak`: reloads plugins under load for a long time, and checks for losses and growth.

use clap::Args;

use hotbay_build::{Workspace, cargo};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments for the soak.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["run", "--release", "--package", "hotbay-bench", "--", "soak"]);
    cargo::run(command.args(&options.arguments))
}
