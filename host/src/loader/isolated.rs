//! Starts a library in its own process: the checks of a library, then the start of a process. The
//! program is the runner, and the library is its argument.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use hotbay_process::{Diagnosis, ProgramCopy};

use super::candidate::Candidate;
use super::context::LoaderContext;
use super::dependencies::stage;
use super::policy::PluginLimits;
use super::process_loader::{program, start_program};
use super::runner_program::{HOST_VERSION, check_runner, runner_of};
use super::start::Until;
use super::survey::read_artifact;
use crate::artifact::digest::Artifact;
use crate::artifact::stage::{Staged, StagingArea};
use crate::artifact::trust::{Rules, Trust};
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::{Backend, Parts};
use crate::slot::Slot;
use crate::sync::lock;

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
