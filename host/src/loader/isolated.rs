//! Starts a library in its own process: the checks of a library, then the start of a process. The
//! program is the runner, and the library is its argument.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use hotbay_process::{Diagnosis, ProgramCopy};

use super::candidate::Candidate;
use super::context::LoaderContext;
use super::dependencies::stage;
use super::policy::PluginLimits;
use super::process_loader::{program, start_program};
use super::start::Until;
use super::survey::read_artifact;
use crate::artifact::digest::Artifact;
use crate::artifact::stage::{Staged, StagingArea};
use crate::artifact::trust::{self, Rules, Trust};
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::{Backend, Parts};
use crate::slot::Slot;
use crate::sync::lock;

/// The program that runs isolated libraries.
const RUNNER: &str = "hotbay-runner";

/// The first argument of the runner, which refuses another version.
const HOST_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Starts the library in `artifact`, which was verified and probed.
pub(super) fn start(
    context: &LoaderContext,
    candidate: &Candidate,
    artifact: &Artifact,
    limits: &PluginLimits,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Backend, Error> {
    let trust = context.rules.trust();
    let runner = runner_of(candidate, context.runner.as_deref(), trust)?;
    let copy = IsolatedLibrary {
        runner,
        trust,
        copy: Mutex::new(stage(&context.staging, candidate, artifact)?),
        candidate: candidate.clone(),
        rules: context.rules.clone(),
        area: Arc::downgrade(&context.staging),
        content: artifact.content(),
    };
    // Messages name the library that the runner opens.
    let original = artifact.path().to_owned();
    let program = program(candidate, Arc::new(copy), original, limits, &context.limits)?;
    start_program(context, candidate, program, until, parts, slot)
}

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
        Some(path) => path.is_file().then(|| path.to_owned()),
        None => paths.find(|path| path.is_file()),
    };
    found.ok_or_else(|| {
        let searched = match set {
            Some(path) => format!("`{}` is not a file", path.display()),
            None => {
                let beside: Vec<_> =
                    beside.iter().map(|it| format!("`{}`", it.display())).collect();
                format!("not found in {} or a folder of `PATH`", beside.join(", "))
            }
        };
        let message = format!("the program `{RUNNER}`, which runs isolated libraries: {searched}");
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
fn check_runner(runner: &Path, trust: Trust) -> Result<(), Error> {
    let cannot_use =
        |kind| Error::new(kind, format!("cannot use the runner `{}`", runner.display()));
    let checked = trust::check(runner, trust).and_then(|()| trust::check_above(runner, trust));
    checked.map_err(|error| cannot_use(ErrorKind::Integrity).caused_by(error))?;
    let metadata = std::fs::metadata(runner);
    if metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0) {
        return Err(cannot_use(ErrorKind::StartFailed)
            .caused_by("it is not executable")
            .with_hint(format!("make it executable with `chmod +x {}`", runner.display())));
    }
    Ok(())
}

/// The private copy of a library that runs in its own process.
#[derive(Debug)]
struct IsolatedLibrary {
    runner: PathBuf,
    trust: Trust,
    copy: Mutex<Staged>,
    /// What the copy was made of, to make it again.
    candidate: Candidate,
    rules: Rules,
    area: Weak<StagingArea>,
    content: [u8; 32],
}

impl ProgramCopy for IsolatedLibrary {
    fn path(&self) -> PathBuf {
        self.runner.clone()
    }

    fn arguments(&self) -> Vec<OsString> {
        vec![HOST_VERSION.into(), lock(&self.copy).path().into()]
    }

    fn files(&self) -> Vec<PathBuf> {
        lock(&self.copy).files()
    }

    fn sha256(&self) -> [u8; 32] {
        self.content
    }

    fn ensure_intact(&self) -> Result<(), Diagnosis> {
        let failed = |error: Error| Diagnosis {
            message: error.full_message(),
            hint: error.hint().map(str::to_owned),
        };
        check_runner(&self.runner, self.trust).map_err(failed)?;
        let mut copy = lock(&self.copy);
        if copy.is_complete() {
            return Ok(());
        }
        *copy = self.stage_again().map_err(failed)?;
        tracing::warn!(
            plugin = %self.candidate.manifest.name(),
            "the private copy of the library was missing and has been restored; another program may \
             be removing files from the temporary folder"
        );
        Ok(())
    }
}

impl IsolatedLibrary {
    /// Makes the copy again, of the same bytes.
    fn stage_again(&self) -> Result<Staged, Error> {
        let Self { candidate, rules, area, content, .. } = self;
        let failed = || candidate.failed(LoadStep::Stage, ErrorKind::Integrity);
        let area = area.upgrade().ok_or_else(|| failed().caused_by("the host has stopped"))?;
        match read_artifact(candidate, rules)? {
            Some(artifact) if artifact.content() == *content => stage(&area, candidate, &artifact),
            _ => Err(failed().caused_by("the library has changed since it was loaded")),
        }
    }
}
