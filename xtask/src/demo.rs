//! `cargo xtask demo`: builds the example plugins and runs the host's example program on them.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use hotbay_build::{Workspace, cargo};

use crate::build_plugins;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The text that the plugins work on; the repository's README.md if not given.
    file: Option<PathBuf>,
}

impl Options {
    /// On the repository's README.
    pub(crate) fn readme() -> Self {
        Self { file: None }
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let file = options.file.clone().unwrap_or_else(|| workspace.root.join("README.md"));
    let file = file.canonicalize().with_context(|| {
        format!("cannot read `{}`; name a text file: `cargo xtask demo FILE`", file.display())
    })?;
    let plugins = build_plugins::run(workspace, &build_plugins::Options::default())?;

    let mut command = cargo::cargo(&workspace.root);
    command.args(["run", "--quiet", "--package", "hotbay", "--example", "demo", "--"]);
    cargo::run(command.arg(plugins).arg(file))
}
