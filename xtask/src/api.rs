//! `cargo xtask api`: compares the public API of the SDK with the committed list, so that each change
//! is visible in a review. Does not decide whether a change is compatible.

use std::fs;

use anyhow::{Context, bail};
use clap::Args;

use crate::require;
use hotbay_build::{Hinted, Workspace, cargo};

/// The committed list.
const FILE: &str = "plugin-api/API.txt";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Writes the list instead of comparing it.
    #[arg(long)]
    bless: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    require::nightly(workspace)?;
    require::subcommand(workspace, "public-api", "cargo install --locked cargo-public-api")?;
    let mut command = cargo::nightly(&workspace.root);
    command.args(["public-api", "--package", "hotbay-plugin", "--all-features", "--color=never"]);
    command.args(["--omit", "blanket-impls,auto-derived-impls"]);
    let found = String::from_utf8(cargo::read(&mut command)?).context("the API is not UTF-8")?;
    let path = workspace.root.join(FILE);
    if options.bless {
        return fs::write(&path, found).with_context(|| format!("cannot write `{FILE}`"));
    }
    let expected = fs::read_to_string(&path).with_context(|| format!("cannot read `{FILE}`"))?;
    let changes = changes(&expected, &found);
    if changes.is_empty() {
        return Ok(());
    }
    println!("{}", changes.join("\n"));
    let message = format!("the public API of `hotbay-plugin` differs from `{FILE}`");
    bail!(Hinted::new(message, "run `cargo xtask api --bless` if the change is intended"));
}

/// Returns the removed lines with `-` and the added ones with `+`.
fn changes(expected: &str, found: &str) -> Vec<String> {
    let lines = |text: &'_ str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (expected, found) = (lines(expected), lines(found));
    let removed = expected.iter().filter(|line| !found.contains(line));
    let added = found.iter().filter(|line| !expected.contains(line));
    removed.map(|line| format!("- {line}")).chain(added.map(|line| format!("+ {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_listed() {
        assert_eq!(changes("a\nb\n", "b\na\n"), [""; 0]);
        assert_eq!(changes("a\nb\n", "b\nc\n"), ["- a", "+ c"]);
    }
}
