//! `cargo xtask demo`: builds the example plugins and runs the host's example program on them.

use std::path::PathBuf;

use clap::Args;

use hotbay_build::{Hinted, Workspace, cargo};

use crate::build_plugins;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The text file that the plugins process [default: README.md].
    file: Option<PathBuf>,
}

impl Options {
    /// Runs on the repository's README.
    pub(crate) fn readme() -> Self {
        Self { file: None }
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let file = options.file.clone().unwrap_or_else(|| workspace.root.join("README.md"));
    let file = file.canonicalize().map_err(|error| {
        let message = format!("cannot read `{}`: {error}", file.display());
        Hinted::new(message, "pass a text file: `cargo xtask demo FILE`")
    })?;
    let plugins = build_plugins::run(workspace, &build_plugins::Options::default())?;

    let mut command = cargo::cargo(&workspace.root);
    command.args(["run", "--package", "hotbay", "--example", "demo", "--"]);
    cargo::run(command.arg(plugins).arg(file))
}
