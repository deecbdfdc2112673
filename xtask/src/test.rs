//! `cargo xtask test`: runs all tests of the workspace, including documentation tests.

use clap::Args;

use hotbay_build::{Workspace, cargo};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments for `cargo test --workspace`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Options {
    /// Runs all tests.
    pub(crate) fn all() -> Self {
        Self { arguments: Vec::new() }
    }
}

/// Runs the tests, which build their own fixture plugins.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["test", "--workspace", "--features", "hotbay/tower"]);
    cargo::run(command.args(&options.arguments))
}
