//! `cargo xtask deny`: checks licenses, advisories, duplicates and sources of all dependencies against
//! `deny.toml`, with cargo-deny.

use clap::Args;

use crate::require;
use hotbay_build::{Workspace, cargo};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Skips the advisories, whose database is fetched from GitHub.
    #[arg(long)]
    no_advisories: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    require::subcommand(workspace, "deny", "cargo install --locked cargo-deny")?;
    let mut command = cargo::cargo(&workspace.root);
    command.args(["deny", "check", "licenses", "bans", "sources"]);
    if !options.no_advisories {
        command.arg("advisories");
    }
    cargo::run(&mut command)
}
