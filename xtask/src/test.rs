//! `cargo xtask test`: every test of the workspace, documentation included.

use clap::Args;

use hotbay_build::{Workspace, cargo};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Passed on to `cargo test --workspace`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Options {
    /// All tests, nothing passed on.
    pub(crate) fn all() -> Self {
        Self { arguments: Vec::new() }
    }
}

/// The tests build their own fixture plugins, so nothing has to be built before.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["test", "--workspace", "--features", "hotbay/tower,hotbay/cli"]);
    cargo::run(command.args(&options.arguments))
}
