//! `cargo xtask tidy`: rules of this repository that the compiler does not check. Each rule is a pure
//! function over texts in its own file; only this file reads the disk.

mod architecture;
mod cycles;
mod dependencies;
mod language;
mod links;
mod methods;
mod module_order;
mod paths;
mod problem;
mod source;
mod sources;
mod tests_only;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use architecture::Architecture;
use hotbay_build::{Workspace, cargo};
pub(crate) use links::target as link_target;
use problem::{File, Problem, Severity};

/// Checks all tracked files, and new files that are not ignored.
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
    let document = prose.iter().find(|file| file.path == architecture::FILE);
    let architecture = Architecture::read(document.map(|file| file.text.as_str()), &mut problems);
    module_order::check(&rust, &architecture.modules, &mut problems);
    cycles::check(&rust, &mut problems);
    methods::check(&rust, &mut problems);
    sources::check(&rust, &architecture.may_contain_unsafe, &mut problems);
    dependencies::check(&crates, &mut problems);
    links::check(&prose, &paths, &mut problems);
    let texts = read(|path| {
        let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
        let is_text = matches!(extension, Some("rs" | "md" | "toml" | "json" | "py" | "sh"));
        is_text || path == ".ci/run"
    })?;
    language::check(&texts, &mut problems);

    let order: Vec<_> = architecture.modules.iter().map(|rank| rank.join(" | ")).collect();
    println!("order of the host's modules: {}", order.join(" › "));
    println!("{}", sources::summary(&rust));
    report(problems, paths.len())
}

fn report(mut problems: Vec<Problem>, files: usize) -> anyhow::Result<()> {
    problems.sort_by(|a, b| (&a.file, a.line, &a.message).cmp(&(&b.file, b.line, &b.message)));
    for problem in &problems {
        println!("{problem}");
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    if errors > 0 {
        bail!("tidy found {errors} error{}", if errors == 1 { "" } else { "s" });
    }
    println!(
        "tidy: {files} files checked: no import cycles, no `unsafe` outside the allowed files, no violations of the file rules"
    );
    Ok(())
}

fn list(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut command = cargo::git(root);
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = cargo::read(&mut command).context("cannot list the files of the repository")?;
    let names = String::from_utf8(names).context("a file name is not UTF-8")?;
    // The list of git includes deleted files that are not committed yet.
    let exists = |path: &&str| !path.is_empty() && root.join(path).is_file();
    let mut paths: Vec<_> = names.split('\0').filter(exists).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn read(root: &Path, path: &str) -> anyhow::Result<File> {
    let text =
        fs::read_to_string(root.join(path)).with_context(|| format!("cannot read `{path}`"))?;
    Ok(File { path: path.to_owned(), text })
}
