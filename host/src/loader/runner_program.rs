//! The program `hotbay-runner`, which runs isolated libraries: where it is, and whether it can be used.

use std::env;
use std::path::{Path, PathBuf};

use super::candidate::Candidate;
use crate::artifact::trust::{self, Trust};
use crate::error::{Error, ErrorKind, LoadStep};

/// The program that runs isolated libraries.
const RUNNER: &str = "hotbay-runner";

/// The first argument of the runner, which refuses another version.
pub(super) const HOST_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Finds the runner for the library of a plugin.
pub(super) fn runner_of(
    candidate: &Candidate,
    set: Option<&Path>,
    trust: Trust,
) -> Result<PathBuf, Error> {
    find_runner(set, trust).map_err(|error| {
        candidate.failed(LoadStep::Launch, ErrorKind::StartFailed).caused_by(error)
    })
}

/// Finds the runner: where the application said, or else beside this program, or in `PATH`.
pub(crate) fn find_runner(set: Option<&Path>, trust: Trust) -> Result<PathBuf, Error> {
    let runner = search_runner(set)?;
    check_runner(&runner, trust)?;
    Ok(runner)
}

fn search_runner(set: Option<&Path>) -> Result<PathBuf, Error> {
    let beside = folders_of_program();
    let in_path = env::var_os("PATH").unwrap_or_default();
    let folders = beside.iter().cloned().chain(env::split_paths(&in_path));
    let mut paths = folders.filter(|it| it.is_absolute()).map(|it| it.join(RUNNER));
    let found = match set {
        Some(path) => Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned())),
        None => paths.find(|path| path.is_file() && is_executable(path)),
    };
    let found = found.filter(|path| path.is_file());
    found.ok_or_else(|| {
        let searched = match set {
            Some(path) => format!("`{}` is not a file", path.display()),
            None => {
                let beside: Vec<_> =
                    beside.iter().map(|it| format!("`{}`", it.display())).collect();
                format!("not found in {} or a folder of `PATH`", beside.join(", "))
            }
        };
        let message = format!("no program `{RUNNER}`, which runs isolated libraries: {searched}");
        let hint = format!(
            "install it with `cargo install --locked --path host/runner` in the sources of hotbay \
             {HOST_VERSION}, or set its path with `runner` in hotbay.toml or `HostBuilder::runner`"
        );
        Error::new(ErrorKind::StartFailed, message).with_hint(hint)
    })
}

/// Returns the folder of this program, and that of the binaries if cargo built a test or an example.
fn folders_of_program() -> Vec<PathBuf> {
    let program = env::current_exe().unwrap_or_default();
    let Some(folder) = program.parent() else { return Vec::new() };
    let is_below = folder.ends_with("deps") || folder.ends_with("examples");
    let above = folder.parent().filter(|_| is_below);
    [Some(folder), above].into_iter().flatten().map(Path::to_owned).collect()
}

/// Checks that the runner can be executed, and that no other user can replace it.
pub(super) fn check_runner(runner: &Path, trust: Trust) -> Result<(), Error> {
    let cannot_use =
        |kind| Error::new(kind, format!("cannot use the runner `{}`", runner.display()));
    let checked = trust::check(runner, trust).and_then(|()| trust::check_above(runner, trust));
    checked.map_err(|error| cannot_use(ErrorKind::Integrity).caused_by(error))?;
    if !is_executable(runner) {
        return Err(cannot_use(ErrorKind::StartFailed)
            .caused_by("this user may not execute it")
            .with_hint("make it executable for the user of the host"));
    }
    Ok(())
}

fn is_executable(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}
