//! `cargo xtask tidy`: rules of this repository that no compiler keeps.
//! Each rule is a pure function over texts in a file of its own; only this file reads the disk.

mod architecture;
mod dependencies;
mod links;
mod rooms;
mod source;
mod sources;
mod tests_only;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use architecture::Architecture;
use hotbay_build::{Workspace, cargo};

/// Something that breaks a rule, told as `file:line: what; what to do`.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    file: String,
    /// From 1.
    line: usize,
    what: String,
    hint: String,
    weight: Weight,
}

#[derive(Debug, PartialEq, Eq)]
enum Weight {
    /// Told, but nothing fails.
    Warning,
    Error,
}

impl Problem {
    fn error(file: &str, line: usize, what: String, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what, hint: hint.into(), weight: Weight::Error }
    }

    fn warning(file: &str, line: usize, what: String, hint: impl Into<String>) -> Self {
        Self { weight: Weight::Warning, ..Self::error(file, line, what, hint) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.weight == Weight::Warning {
            f.write_str("warning: ")?;
        }
        write!(f, "{}:{}: {}; {}", self.file, self.line, self.what, self.hint)
    }
}

/// A file of the repository; `path` is relative to its root, with `/` between folders.
struct File {
    path: String,
    text: String,
}

/// Checks every file that is tracked, or new and not ignored.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let paths = list(&workspace.root)?;
    let read = |expected: fn(&str) -> bool| -> anyhow::Result<Vec<File>> {
        let expected = paths.iter().filter(|path| expected(path));
        expected.map(|path| read(&workspace.root, path)).collect()
    };
    let rust = read(|path| path.ends_with(".rs"))?;
    let crates = read(|path| path.rsplit('/').next() == Some("Cargo.toml"))?;
    let prose = read(|path| path.ends_with(".md"))?;

    let mut problems = Vec::new();
    let map = prose.iter().find(|file| file.path == architecture::FILE);
    let architecture = Architecture::read(map.map(|file| file.text.as_str()), &mut problems);
    rooms::check(&rust, &architecture.rooms, &mut problems);
    sources::check(&rust, &architecture.may_hold_unsafe, &mut problems);
    dependencies::check(&crates, &mut problems);
    links::check(&prose, &paths, &mut problems);

    tell(problems, paths.len())
}

fn tell(mut problems: Vec<Problem>, files: usize) -> anyhow::Result<()> {
    problems.sort_by(|a, b| (&a.file, a.line, &a.what).cmp(&(&b.file, b.line, &b.what)));
    for problem in &problems {
        println!("{problem}");
    }
    let errors = problems.iter().filter(|problem| problem.weight == Weight::Error).count();
    if errors > 0 {
        bail!("tidy found {errors} error{}", if errors == 1 { "" } else { "s" });
    }
    println!("tidy: {files} files, nothing to mend");
    Ok(())
}

fn list(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut command = cargo::git(root);
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = cargo::read(&mut command).context("tidy asks git which files belong here")?;
    let names = String::from_utf8(names).context("a file has a name that is not UTF-8")?;
    // A file that was deleted and not yet committed is still in git's list.
    let there = |path: &&str| !path.is_empty() && root.join(path).is_file();
    let mut paths: Vec<_> = names.split('\0').filter(there).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn read(root: &Path, path: &str) -> anyhow::Result<File> {
    let text =
        fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
    Ok(File { path: path.to_owned(), text })
}

/// The problems that `check` finds, as they would be printed.
#[cfg(test)]
fn told(check: impl FnOnce(&mut Vec<Problem>)) -> Vec<String> {
    let mut problems = Vec::new();
    check(&mut problems);
    problems.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}
