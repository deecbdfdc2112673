//! The load itself, for each source of code: what is known before, the start, and what is made
//! of it. The first failure ends it and takes back what was done.

use std::sync::Arc;

use hotbay_plugin::{Config, Snapshot};

use super::LoaderContext;
use super::candidate::Candidate;
use super::dependencies::stage;
use super::effective_limits::{PluginLimits, within};
use super::library_loader::{self, Code, body_of, probe_file, ready_to_open, reason_to_keep};
use super::policy::{call_policy, check_schemas};
#[cfg(unix)]
use super::process_loader;
use super::source::{Constructor, Source};
use super::survey::read_artifact;
#[cfg(not(unix))]
use crate::artifact::digest::Artifact;
use crate::boundary::{Image, Instance, Root};
use crate::error::{Error, ErrorKind, LoadStep, bug};
use crate::generation::unload::{WaitForThreads, close};
use crate::generation::{
    Backend, InstanceRef, IoLimits, Parts, RetainReason, RetainedEntry, UnloadLeftovers,
};
use crate::manifest::{Handover, Kind, Manifest};
use crate::panic::catch_panic;
use crate::pool::{RunOutcome, WorkerThreads};
use crate::slot::Slot;

/// A plugin that serves in a slot of its own.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) slot: Arc<Slot>,
    pub(crate) build: Build,
}

/// What was loaded, as far as a later load has to know.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) manifest: Arc<Manifest>,
    /// The digest of the library and its dependencies; none when compiled in.
    pub(crate) sha256: Option<[u8; 32]>,
    /// The digests of its schemas that lie in files.
    pub(crate) schemas: Vec<Option<[u8; 32]>>,
    /// What it declares besides its manifest: contracts, each with its other names.
    pub(crate) contracts: Vec<(String, Vec<String>)>,
    /// What was asked for and not given, in words.
    pub(crate) notes: Vec<String>,
}

/// A body that was started and serves nobody yet.
#[derive(Debug)]
pub(crate) struct NewGeneration {
    parts: Parts,
    body: Backend,
    pub(crate) build: Build,
}

/// How far a start goes at once.
pub(crate) enum Until {
    /// `init` has ended: the state comes later.
    Started,
    /// It could serve, beginning with this state.
    Ready(Option<Snapshot>),
}

/// Loads a plugin into a new slot.
pub(crate) fn load(
    workshop: &LoaderContext,
    candidate: &Candidate,
    source: Source,
    state: Option<Snapshot>,
) -> Result<Loaded, Error> {
    let slot = Arc::new(Slot::new(
        candidate.manifest.name().clone(),
        workshop.limits.pause_timeout,
        workshop.quarantine.clone(),
        workshop.board.clone(),
        workshop.clock.handle(),
    ));
    let fresh = NewGeneration::start(workshop, candidate, source, &slot, Until::Ready(state))?;
    let (token, build) = fresh.into_instance();
    // The slot is new, so nothing was there before.
    let _ = slot.promote(token);
    Ok(Loaded { slot, build })
}

impl NewGeneration {
    /// Does everything up to `until`, beside whatever serves in the slot.
    pub(crate) fn start(
        workshop: &LoaderContext,
        candidate: &Candidate,
        source: Source,
        slot: &Arc<Slot>,
        until: Until,
    ) -> Result<Self, Error> {
        let source = match source {
            Source::Library => {
                let Some(artifact) = read_artifact(candidate, &workshop.rules)? else {
                    return Err(bug!("`{}` has no library to load", candidate.manifest.name()));
                };
                Source::Read(Box::new(artifact))
            }
            source => source,
        };
        let kind = source.kind().unwrap_or(candidate.kind());
        let (limits, mut notes) = within(candidate.manifest.limits(), kind, &workshop.limits);
        let mut candidate = candidate.clone();
        match &source {
            Source::Mapped { terms, .. } => candidate.granted.clone_from(&terms.permissions),
            #[cfg(unix)]
            Source::Again { terms, .. } => candidate.granted.clone_from(&terms.permissions),
            _ => notes.extend(candidate.evaluate(workshop.grant.as_ref())?),
        }
        let candidate = &candidate;
        let mut parts = parts(workshop, candidate, slot, &limits);
        let mut sha256 = None;
        let body = match source {
            Source::Library => return Err(bug!("the library was not read")),
            Source::Value(constructor) => {
                check_schemas(workshop, candidate, &mut parts)?;
                Backend::InProcess(construct(workshop, candidate, constructor, &parts)?)
            }
            Source::Type(root) => {
                check_schemas(workshop, candidate, &mut parts)?;
                let code = Code::Ready(Arc::new(Image::compiled_in()), root);
                library_loader::start(workshop, candidate, code, until, &mut parts, slot)?
            }
            // It ran before with this config.
            Source::Mapped { image, root, keep, terms } => {
                parts.retain_reason = keep;
                parts.policy = terms;
                let code = Code::Ready(image, root);
                library_loader::start(workshop, candidate, code, until, &mut parts, slot)?
            }
            #[cfg(unix)]
            Source::Again { program, terms } => {
                parts.policy = terms;
                process_loader::again(workshop, candidate, program, until, &mut parts, slot)?
            }
            Source::Read(artifact) if kind == Kind::Process => {
                sha256 = Some(artifact.sha256());
                start_apart(workshop, candidate, &artifact, &limits, until, &mut parts, slot)?
            }
            Source::Read(artifact) => {
                let probed = probe_file(workshop, candidate, &artifact)?;
                check_schemas(workshop, candidate, &mut parts)?;
                parts.retain_reason = reason_to_keep(&candidate.manifest, &probed);
                notes.extend(library_loader::notes(&probed));
                sha256 = Some(artifact.content());
                let dependencies = artifact.dependencies();
                notes.extend(dependencies.notes.iter().cloned());
                let unresolved = dependencies.unresolved.clone();
                let staged = stage(&workshop.staging, candidate, &artifact)?;
                drop(artifact);
                let keep = library_loader::imports(&probed);
                let code = Code::File { staged, keep, unresolved };
                library_loader::start(workshop, candidate, code, until, &mut parts, slot)?
            }
        };
        let manifest = Arc::new(candidate.manifest.clone());
        let schemas = candidate.schema_digests(&workshop.rules);
        let contracts = body.contracts();
        notes.extend(with_notes(candidate, &body));
        let build = Build { manifest, sha256, schemas, contracts, notes };
        Ok(Self { parts, body, build })
    }

    /// Gives the instance its state and asks whether it can work, on a thread of its own.
    pub(crate) fn ready(
        self,
        workshop: &LoaderContext,
        candidate: &Candidate,
        state: Option<Snapshot>,
    ) -> Result<(InstanceRef, Build), Error> {
        let Self { parts, body, build } = self;
        let wait_max = workshop.limits.start_timeout;
        let readied = body.run(&parts.workers, wait_max, move |body| ready_to_open(body, state));
        if matches!(readied, RunOutcome::SpawnFailed(_)) {
            let reason = "ready: no thread for it".to_owned();
            retain(workshop, candidate, reason, RetainReason::Running);
        }
        let body = body_of(readied, workshop, candidate, &parts)?;
        Ok((InstanceRef::new(parts, body), build))
    }

    /// Ends an instance that is not wanted after all.
    pub(crate) fn abort(self, workshop: &LoaderContext, candidate: &Candidate) {
        let Self { parts, body, .. } = self;
        let wait_max = body.shutdown_timeout(workshop.limits.stop_timeout);
        let ended = body.run(&parts.workers, wait_max, move |mut body| {
            // What its drop has to say does not matter any more.
            let _ = body.shut_down(false);
            body.into_leftovers()
        });
        match ended {
            RunOutcome::Completed(UnloadLeftovers::Library(image, root)) => {
                give_up(workshop, candidate, image, Some(root), parts.retain_reason);
            }
            #[cfg(unix)]
            RunOutcome::Completed(UnloadLeftovers::Process(_)) => {}
            RunOutcome::TimedOut | RunOutcome::SpawnFailed(_) => {
                retain(workshop, candidate, "drop: still runs".to_owned(), RetainReason::Running);
            }
        }
    }

    pub(crate) fn into_instance(self) -> (InstanceRef, Build) {
        (InstanceRef::new(self.parts, self.body), self.build)
    }
}

/// What a process gets otherwise than its manifest or its program asks for, in words.
fn with_notes(candidate: &Candidate, body: &Backend) -> Vec<String> {
    let mut notes = body.config_notes();
    if let Some(socket) = body.fixed_socket()
        && candidate.manifest.handover() != Handover::StopFirst
    {
        notes.push(format!(
            "its socket `{}` lies at a fixed place, where two processes cannot listen at once: a \
             reload stops this build first (`stop-first`), not `{}`",
            socket.display(),
            candidate.manifest.handover()
        ));
    }
    for note in &notes {
        tracing::warn!(plugin = %candidate.manifest.name(), note = note.as_str());
    }
    notes
}

fn parts(
    workshop: &LoaderContext,
    candidate: &Candidate,
    slot: &Slot,
    limits: &PluginLimits,
) -> Parts {
    let id = slot.next_generation();
    let name = candidate.manifest.name().clone();
    Parts {
        id,
        version: candidate.manifest.version().clone(),
        limits: IoLimits {
            max_input_bytes: limits.input_bytes,
            max_output_bytes: limits.output_bytes,
        },
        policy: Arc::new(call_policy(workshop, candidate, limits)),
        retain_reason: None,
        workers: WorkerThreads::new(format!("{name}-{id}"), limits.stack_bytes, limits.workers),
        runtime: None,
        events: workshop.board.clone(),
        services: None,
        name,
    }
}

/// Constructs an instance of this program, on a thread of the plugin.
fn construct(
    workshop: &LoaderContext,
    candidate: &Candidate,
    Constructor(construct): Constructor,
    parts: &Parts,
) -> Result<Instance, Error> {
    let config = Config::from(candidate.manifest.config().clone());
    let timeout = workshop.limits.start_timeout;
    let failed = || candidate.failed(LoadStep::Init, ErrorKind::StartFailed);
    match parts.workers.run(timeout, move || catch_panic(|| construct(&config))) {
        RunOutcome::Completed(Ok(Ok(instance))) => Ok(instance),
        RunOutcome::Completed(Ok(Err(error))) => Err(failed().caused_by(error)),
        RunOutcome::Completed(Err(message)) => {
            Err(failed().caused_by(format!("panicked: {message}")))
        }
        RunOutcome::TimedOut => {
            let message = format!("still running after {} ms", timeout.as_millis());
            Err(failed().caused_by(message))
        }
        RunOutcome::SpawnFailed(error) => Err(failed().caused_by(error)),
    }
}

#[cfg(unix)]
use process_loader::start as start_apart;

/// Local sockets, groups of processes and signals are what processes are run by.
#[cfg(not(unix))]
fn start_apart(
    _: &LoaderContext,
    candidate: &Candidate,
    _: &Artifact,
    _: &PluginLimits,
    _: Until,
    _: &mut Parts,
    _: &Arc<Slot>,
) -> Result<Backend, Error> {
    let message = "its kind is `process`, which this host runs on Unix only";
    Err(candidate.failed(LoadStep::Manifest, ErrorKind::Unsupported).caused_by(message))
}

/// Closes what was opened for nothing, or keeps it with the reason.
pub(super) fn give_up(
    workshop: &LoaderContext,
    candidate: &Candidate,
    image: Arc<Image>,
    root: Option<Root>,
    reason: Option<String>,
) {
    if let Err((reason, left)) = close(image, root, reason, WaitForThreads::Briefly) {
        retain(workshop, candidate, reason, left);
    }
}

pub(super) fn retain(
    workshop: &LoaderContext,
    candidate: &Candidate,
    reason: String,
    left: RetainReason,
) {
    let plugin = candidate.manifest.name().clone();
    workshop.keeper.retain(RetainedEntry { plugin, generation: None, reason, retained: left });
}
