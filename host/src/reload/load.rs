//! The load itself, for each source of code: what is known before, the start, and what is made
//! of it. The first failure ends it and takes back what was done.

use std::sync::Arc;

use hotbay_plugin::Snapshot;

use super::Workshop;
#[cfg(unix)]
use super::apart;
use super::candidate::Candidate;
use super::clamp::{PluginLimits, within};
use super::dependencies::stage;
use super::inside::{self, Code, body_of, examine, readied, reason_to_keep};
use super::source::{Made, Source};
use super::survey::read_artifact;
use super::terms::{check_schemas, terms};
#[cfg(not(unix))]
use crate::artifact::digest::Artifact;
use crate::boundary::{Image, Root};
use crate::error::{Error, bug};
#[cfg(not(unix))]
use crate::error::{ErrorKind, LoadStep};
use crate::generation::retire::{Settle, close};
use crate::generation::{Body, IoLimits, Kept, Left, Parts, Remains, Token};
use crate::manifest::{Handover, Kind, Manifest};
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
pub(crate) struct Fresh {
    parts: Parts,
    body: Body,
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
    workshop: &Workshop,
    candidate: &Candidate,
    source: Source,
    state: Option<Snapshot>,
) -> Result<Loaded, Error> {
    let slot = Arc::new(Slot::new(
        candidate.manifest.name().clone(),
        workshop.limits.pause_wait_max,
        workshop.quarantine.clone(),
        workshop.board.clone(),
        workshop.clock.handle(),
    ));
    let fresh = Fresh::start(workshop, candidate, source, &slot, Until::Ready(state))?;
    let (token, build) = fresh.into_token();
    // The slot is new, so nothing was there before.
    let _ = slot.promote(token);
    Ok(Loaded { slot, build })
}

impl Fresh {
    /// Does everything up to `until`, beside whatever serves in the slot.
    pub(crate) fn start(
        workshop: &Workshop,
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
            _ => notes.extend(candidate.ask_for_grants(workshop.grant.as_ref())?),
        }
        let candidate = &candidate;
        let mut parts = parts(workshop, candidate, slot, &limits);
        let mut sha256 = None;
        let body = match source {
            Source::Library => return Err(bug!("the library was not read")),
            Source::Value(Made(make)) => {
                check_schemas(workshop, candidate, &mut parts)?;
                Body::Inside(make())
            }
            Source::Type(root) => {
                check_schemas(workshop, candidate, &mut parts)?;
                let code = Code::Ready(Arc::new(Image::compiled_in()), root);
                inside::start(workshop, candidate, code, until, &mut parts, slot)?
            }
            // It ran before with this config.
            Source::Mapped { image, root, keep, terms } => {
                parts.keep = keep;
                parts.terms = terms;
                let code = Code::Ready(image, root);
                inside::start(workshop, candidate, code, until, &mut parts, slot)?
            }
            #[cfg(unix)]
            Source::Again { program, terms } => {
                parts.terms = terms;
                apart::again(workshop, candidate, program, until, &mut parts, slot)?
            }
            Source::Read(artifact) if kind == Kind::Process => {
                sha256 = Some(artifact.sha256());
                start_apart(workshop, candidate, &artifact, &limits, until, &mut parts, slot)?
            }
            Source::Read(artifact) => {
                let probed = examine(workshop, candidate, &artifact)?;
                check_schemas(workshop, candidate, &mut parts)?;
                parts.keep = reason_to_keep(&candidate.manifest, &probed);
                notes.extend(inside::notes(&probed));
                sha256 = Some(artifact.content());
                let dependencies = artifact.dependencies();
                notes.extend(dependencies.notes.iter().cloned());
                let unresolved = dependencies.unresolved.clone();
                let staged = stage(&workshop.staging, candidate, &artifact)?;
                drop(artifact);
                let keep = inside::imports(&probed);
                let code = Code::File { staged, keep, unresolved };
                inside::start(workshop, candidate, code, until, &mut parts, slot)?
            }
        };
        let manifest = Arc::new(candidate.manifest.clone());
        let schemas = candidate.schema_digests(&workshop.rules);
        let contracts = body.contracts();
        notes.extend(noted(candidate, &body));
        let build = Build { manifest, sha256, schemas, contracts, notes };
        Ok(Self { parts, body, build })
    }

    /// Gives the instance its state and asks whether it can work, on a thread of its own.
    pub(crate) fn ready(
        self,
        workshop: &Workshop,
        candidate: &Candidate,
        state: Option<Snapshot>,
    ) -> Result<(Token, Build), Error> {
        let Self { parts, body, build } = self;
        let wait_max = workshop.limits.start_wait_max;
        let readied = body.run(&parts.crew, wait_max, move |body| readied(body, state));
        if matches!(readied, RunOutcome::SpawnFailed(_)) {
            let reason = "ready: no thread for it".to_owned();
            keep(workshop, candidate, reason, Left::Running);
        }
        let body = body_of(readied, workshop, candidate, &parts)?;
        Ok((Token::new(parts, body), build))
    }

    /// Ends an instance that is not wanted after all.
    pub(crate) fn give_up(self, workshop: &Workshop, candidate: &Candidate) {
        let Self { parts, body, .. } = self;
        let wait_max = body.end_wait_max(workshop.limits.stop_wait_max);
        let ended = body.run(&parts.crew, wait_max, move |mut body| {
            // What its drop has to say does not matter any more.
            let _ = body.end(false);
            body.into_remains()
        });
        match ended {
            RunOutcome::Completed(Remains::Code(image, root)) => {
                give_up(workshop, candidate, image, Some(root), parts.keep);
            }
            #[cfg(unix)]
            RunOutcome::Completed(Remains::Program(_)) => {}
            RunOutcome::TimedOut | RunOutcome::SpawnFailed(_) => {
                keep(workshop, candidate, "drop: still runs".to_owned(), Left::Running);
            }
        }
    }

    pub(crate) fn into_token(self) -> (Token, Build) {
        (Token::new(self.parts, self.body), self.build)
    }
}

/// What a process gets otherwise than its manifest or its program asks for, in words.
fn noted(candidate: &Candidate, body: &Body) -> Vec<String> {
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

fn parts(workshop: &Workshop, candidate: &Candidate, slot: &Slot, limits: &PluginLimits) -> Parts {
    let id = slot.next_generation();
    let name = candidate.manifest.name().clone();
    Parts {
        id,
        version: candidate.manifest.version().clone(),
        limits: IoLimits {
            input_bytes_max: limits.input_bytes,
            output_bytes_max: limits.output_bytes,
        },
        terms: Arc::new(terms(workshop, candidate, limits)),
        keep: None,
        crew: WorkerThreads::new(format!("{name}-{id}"), limits.stack_bytes, limits.workers),
        tasks: None,
        board: workshop.board.clone(),
        services: None,
        name,
    }
}

#[cfg(unix)]
use apart::start as start_apart;

/// Local sockets, groups of processes and signals are what processes are run by.
#[cfg(not(unix))]
fn start_apart(
    _: &Workshop,
    candidate: &Candidate,
    _: &Artifact,
    _: &PluginLimits,
    _: Until,
    _: &mut Parts,
    _: &Arc<Slot>,
) -> Result<Body, Error> {
    let message = "its kind is `process`, which this host runs on Unix only";
    Err(candidate.failed(LoadStep::Manifest, ErrorKind::Unsupported).caused_by(message))
}

/// Closes what was opened for nothing, or keeps it with the reason.
pub(super) fn give_up(
    workshop: &Workshop,
    candidate: &Candidate,
    image: Arc<Image>,
    root: Option<Root>,
    reason: Option<String>,
) {
    if let Err((reason, left)) = close(image, root, reason, Settle::Awhile) {
        keep(workshop, candidate, reason, left);
    }
}

pub(super) fn keep(workshop: &Workshop, candidate: &Candidate, reason: String, left: Left) {
    let plugin = candidate.manifest.name().clone();
    workshop.keeper.keep(Kept { plugin, generation: None, reason, left });
}
