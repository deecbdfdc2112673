//! Temporary workspaces with the profiles and dependencies of this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use tempfile::TempDir;

use crate::process;

/// Returns the folder of this workspace.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}

/// Creates a workspace with these members, which are not written yet.
pub(crate) fn create(members: &[&str]) -> anyhow::Result<TempDir> {
    let root = root()?;
    let dir = tempfile::Builder::new().prefix("hotbay-bench-").tempdir()?;
    let manifest: Vec<_> = fs::read_to_string(root.join("Cargo.toml"))?
        .lines()
        .filter(|line| !["exclude", "default-members"].iter().any(|key| line.starts_with(key)))
        .map(|line| match line.starts_with("members") {
            true => format!("members = {members:?}"),
            false => line.replace("path = \"", &format!("path = \"{}/", root.display())),
        })
        .collect();
    fs::write(dir.path().join("Cargo.toml"), manifest.join("\n"))?;
    fs::copy(root.join("Cargo.lock"), dir.path().join("Cargo.lock"))?;
    Ok(dir)
}

/// Builds a package in its own target folder, with cargo alone.
pub(crate) fn cargo_build(dir: &Path, package: &str) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = process::program(Path::new(&cargo));
    build.args(["build", "--package", package, "--lib"]);
    run(&mut build, dir)
}

/// Runs a build.
pub(crate) fn run(command: &mut Command, dir: &Path) -> anyhow::Result<()> {
    let output = configured(command, dir).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the build failed with {}: {stderr}", output.status);
    Ok(())
}

/// Makes a command build in its own target folder, and download nothing.
pub(crate) fn configured<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command.current_dir(dir).env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR")
}
