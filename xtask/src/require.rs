//! Checks that a tool is installed before a command uses it, and names the command that installs it.

use std::process::{Command, Stdio};

use hotbay_build::{Hinted, Workspace, cargo};

/// Fails unless `command` succeeds, which only prints a version. `name` is the missing tool, and
/// `install` the command that installs it.
pub(crate) fn require(mut command: Command, name: &str, install: &str) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(Hinted::new(format!("{name} not found"), format!("install it with `{install}`")).into())
}

/// Fails unless the nightly toolchain is installed.
pub(crate) fn nightly(workspace: &Workspace) -> anyhow::Result<()> {
    let mut command = cargo::nightly(&workspace.root);
    command.arg("--version");
    require(command, "the toolchain `nightly`", "rustup toolchain install nightly")
}

/// Fails unless `cargo NAME` is installed. `install` is the command that installs it.
pub(crate) fn subcommand(workspace: &Workspace, name: &str, install: &str) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args([name, "--version"]);
    require(command, &format!("`cargo {name}`"), install)
}
