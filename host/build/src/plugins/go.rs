//! Builds a process plugin in Go: the package `main` in the plugin's folder.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};

use super::install::File;
use crate::cargo;
use crate::print::Hinted;

/// Returns whether a plugin's folder is a module of Go.
pub(super) fn is_module(folder: &Path) -> bool {
    folder.join("go.mod").is_file()
}

/// Builds the program. Its build cache is that of Go.
pub(super) fn build(folder: &Path, program: &str, release: bool) -> anyhow::Result<File> {
    let out = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut command = cargo::go(folder);
    // A commit that changes no source file must not change the program.
    command.args(["build", "-buildvcs=false"]);
    if release {
        command.args(["-trimpath", "-ldflags=-s -w"]);
    }
    // Into a folder, go builds only packages `main`.
    command.arg("-o").arg(out.path()).arg(".");
    let status = match command.status() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let hint = "install Go 1.19 or later: https://go.dev/doc/install";
            bail!(Hinted::new("`go`, which builds this plugin, was not found in PATH", hint));
        }
        status => status.context("cannot start go")?,
    };
    // Go has printed the reason.
    ensure!(status.success(), "`go build` failed ({status})");
    let mut built = fs::read_dir(out.path()).context("cannot read the built files")?;
    let built = built.next().ok_or_else(|| anyhow!("`go build` built no program"))??;
    let bytes = fs::read(built.path())
        .with_context(|| format!("cannot read the built file `{}`", built.path().display()))?;
    Ok(File { name: program.to_owned(), bytes, mode: 0o755 })
}
