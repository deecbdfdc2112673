//! `cargo xtask docs`: builds the guide in `docs/` with mdBook, and checks its links. The book is in
//! `target/docs/book`; nothing is written beside the sources.

mod check;
mod stage;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::require;
use hotbay_build::{Workspace, cargo};

/// How to install mdBook. `.ci/run` installs the same version.
const INSTALL: &str =
    "cargo install --locked --debug mdbook@0.5.4 --no-default-features --features search";

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut version = cargo::mdbook(&workspace.root);
    version.arg("--version");
    require::require(version, "`mdbook`", INSTALL)?;
    let out = workspace.target.join("docs");
    let (staged, book) = (out.join("staged"), out.join("book"));
    remove(&staged)?;
    remove(&book)?;
    for (path, text) in stage::stage(&workspace.root)? {
        write(&staged.join(path), &text)?;
    }
    let mut build = cargo::mdbook(&staged);
    cargo::run(build.args(["build", "--dest-dir"]).arg(&book))?;
    let problems = check::check(&book)?;
    for problem in &problems {
        println!("error: {problem}");
    }
    if !problems.is_empty() {
        bail!("broken links in the guide: {}", problems.len());
    }
    println!("docs: {}", book.join("index.html").display());
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}
