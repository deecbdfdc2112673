//! The load itself: manifest → private copy → digest → probe → versions → open → layout →
//! config → init → health. The first failure ends it and takes back what was done.

use std::path::PathBuf;
use std::sync::Arc;

use hotbay_plugin::Snapshot;
use hotbay_plugin::abi::RawServices;

use super::Workshop;
use super::candidate::Candidate;
use super::clamp::{PluginLimits, within};
use super::services::PluginServices;
use super::source::{Made, Source};
use super::survey::{judge, read_library};
use super::terms::{check_schemas, terms};
use crate::artifact::digest::Artifact;
use crate::boundary::invoke::validate_config;
use crate::boundary::probe::{Probed, needs_only_known};
use crate::boundary::services::Registration;
use crate::boundary::{Image, Instance, Root};
use crate::call::Failure;
use crate::error::boundary::BoundaryError;
use crate::error::{Error, ErrorKind, LoadStep, bug};
use crate::generation::retire::{Settle, close};
use crate::generation::{IoLimits, Kept, Left, Parts, Token, error_of};
use crate::manifest::{Manifest, Unload};
use crate::pool::{Crew, Errand};
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
    /// The digest of the library; none when compiled in.
    pub(crate) sha256: Option<[u8; 32]>,
    /// The digests of its schemas that lie in files.
    pub(crate) schemas: Vec<Option<[u8; 32]>>,
    /// What was asked for and not given, in words.
    pub(crate) notes: Vec<String>,
}

/// An instance that was started and serves nobody yet.
#[derive(Debug)]
pub(crate) struct Fresh {
    parts: Parts,
    instance: Instance,
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
        workshop.clock.hand(),
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
        candidate.check_kind()?;
        let source = match source {
            Source::Library => {
                let Some(artifact) = read_library(candidate, &workshop.rules)? else {
                    return Err(bug!("`{}` has no library to load", candidate.manifest.name()));
                };
                Source::Read(Box::new(artifact))
            }
            source => source,
        };
        let (limits, mut notes) = within(candidate.manifest.limits(), &workshop.limits);
        let mut candidate = candidate.clone();
        match &source {
            Source::Mapped { terms, .. } => candidate.granted.clone_from(&terms.permissions),
            _ => notes.extend(candidate.ask_for_grants(workshop.grant.as_ref())?),
        }
        let candidate = &candidate;
        let mut parts = parts(workshop, candidate, slot, &limits);
        let mut sha256 = None;
        let instance = match source {
            Source::Library => return Err(bug!("the library was not read")),
            Source::Value(Made(make)) => {
                check_schemas(workshop, candidate, &mut parts)?;
                make()
            }
            Source::Type(root) => {
                check_schemas(workshop, candidate, &mut parts)?;
                let code = Code::Ready(Arc::new(Image::compiled_in()), root);
                start(workshop, candidate, code, until, &mut parts, slot)?
            }
            // It ran before with this config.
            Source::Mapped { image, root, keep, terms } => {
                parts.keep = keep;
                parts.terms = terms;
                start(workshop, candidate, Code::Ready(image, root), until, &mut parts, slot)?
            }
            Source::Read(artifact) => {
                let probed = examine(workshop, candidate, &artifact)?;
                check_schemas(workshop, candidate, &mut parts)?;
                parts.keep = reason_to_keep(candidate, &probed);
                sha256 = Some(artifact.sha256());
                let staged = workshop
                    .staging
                    .stage(&artifact, candidate.manifest.name().as_str())
                    .map_err(|error| {
                        candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error)
                    })?;
                drop(artifact);
                let code = Code::File(staged.path().to_owned());
                let started = start(workshop, candidate, code, until, &mut parts, slot);
                // Mapped or refused: on Unix the copy is not needed any more. Elsewhere a
                // mapped file stays until the staging area goes.
                let _ = staged.served();
                started?
            }
        };
        let manifest = Arc::new(candidate.manifest.clone());
        let schemas = candidate.schema_digests(&workshop.rules);
        Ok(Self { parts, instance, build: Build { manifest, sha256, schemas, notes } })
    }

    /// Gives the instance its state and asks whether it can work, on a thread of its own.
    pub(crate) fn ready(
        self,
        workshop: &Workshop,
        candidate: &Candidate,
        state: Option<Snapshot>,
    ) -> Result<(Token, Build), Error> {
        let Self { parts, instance, build } = self;
        let wait_max = workshop.limits.start_wait_max;
        let readied = parts.crew.run(wait_max, move || readied(instance, state));
        if matches!(readied, Errand::NoThread(_)) {
            let reason = "ready: no thread for it".to_owned();
            keep(workshop, candidate, reason, Left::Running);
        }
        let instance = instance_of(readied, workshop, candidate, &parts)?;
        Ok((Token::new(parts, instance), build))
    }

    /// Ends an instance that is not wanted after all.
    pub(crate) fn give_up(self, workshop: &Workshop, candidate: &Candidate) {
        let Self { parts, mut instance, .. } = self;
        let root = instance.root();
        let ended = parts.crew.run(workshop.limits.stop_wait_max, move || {
            // What its drop has to say does not matter any more.
            let _ = instance.end(false);
            instance.into_image()
        });
        match ended {
            Errand::Done(image) => {
                give_up(workshop, candidate, image, Some(root), parts.keep);
            }
            Errand::Late | Errand::NoThread(_) => {
                keep(workshop, candidate, "drop: still runs".to_owned(), Left::Running);
            }
        }
    }

    pub(crate) fn into_token(self) -> (Token, Build) {
        (Token::new(self.parts, self.instance), self.build)
    }
}

fn reason_to_keep(candidate: &Candidate, probed: &Probed) -> Option<String> {
    match (candidate.manifest.unload(), needs_only_known(&probed.needs)) {
        (Unload::Keep, _) => Some("its manifest says `unload: keep`".to_owned()),
        (_, Err(unknown)) => Some(format!("links {}", unknown.join(", "))),
        _ => None,
    }
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
        crew: Crew::new(format!("{name}-{id}"), limits.stack_bytes, limits.workers),
        tasks: None,
        board: workshop.board.clone(),
        services: None,
        name,
    }
}

/// Everything that is known of a library before it is opened.
fn examine(
    workshop: &Workshop,
    candidate: &Candidate,
    artifact: &Artifact,
) -> Result<Probed, Error> {
    let rules = &workshop.rules;
    let manifest = &candidate.manifest;
    let digest = manifest.sha256().map(|digest| *digest.as_bytes());
    artifact.verify(digest, manifest.length(), rules.allow_unverified).map_err(|error| {
        candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error)
    })?;
    judge(candidate, artifact)
}

/// Code that is to be started.
enum Code {
    /// A private copy of a library.
    File(PathBuf),
    /// Part of this program, or mapped already.
    Ready(Arc<Image>, Root),
}

/// Where a start went wrong, and what is left to be closed.
struct Failed {
    step: LoadStep,
    cause: Cause,
    left: Option<(Arc<Image>, Option<Root>)>,
}

enum Cause {
    Boundary(BoundaryError),
    Plugin(Failure),
}

/// From code to an instance, on a thread of the generation's own that then ends: what
/// initialisers and `init` leave on it is gone before anything is closed.
fn start(
    workshop: &Workshop,
    candidate: &Candidate,
    code: Code,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Instance, Error> {
    let services = Arc::new(PluginServices::new(
        candidate,
        parts.id,
        slot,
        workshop.limits.log_lines_per_s_max,
    ));
    let registration = Registration::new(services);
    let raw = registration.raw();
    parts.services = Some(registration);
    let config = candidate.manifest.config().to_string();
    let want_frames = workshop.want_frames;
    let started = parts.crew.run(workshop.limits.start_wait_max, move || {
        let instance = begin(code, &config, &raw, want_frames)?;
        match until {
            Until::Started => Ok(instance),
            Until::Ready(state) => readied(instance, state),
        }
    });
    instance_of(started, workshop, candidate, parts)
}

/// What came of an errand that was to make or ready an instance; what failed is cleared away.
fn instance_of(
    errand: Errand<Result<Instance, Failed>>,
    workshop: &Workshop,
    candidate: &Candidate,
    parts: &Parts,
) -> Result<Instance, Error> {
    match errand {
        Errand::Done(Ok(instance)) => Ok(instance),
        Errand::Done(Err(failed)) => {
            if let Some((image, root)) = failed.left {
                give_up(workshop, candidate, image, root, parts.keep.clone());
            }
            Err(start_error(candidate, failed.step, failed.cause))
        }
        Errand::Late => {
            keep(workshop, candidate, "init: still runs".to_owned(), Left::Running);
            let message = format!(
                "it did not end within {} ms; its thread and its library are kept",
                workshop.limits.start_wait_max.as_millis()
            );
            Err(candidate.failed(LoadStep::Init, ErrorKind::Start).caused_by(message))
        }
        Errand::NoThread(error) => {
            Err(candidate.failed(LoadStep::Init, ErrorKind::Start).caused_by(error))
        }
    }
}

fn begin(
    code: Code,
    config: &str,
    services: &RawServices,
    want_frames: bool,
) -> Result<Instance, Failed> {
    let (image, root) = opened(code)?;
    let at = |step| {
        let left = Some((Arc::clone(&image), Some(root)));
        move |failure| Failed { step, cause: Cause::Plugin(failure), left }
    };
    validate_config(root, config).map_err(at(LoadStep::Config))?;
    let started = Instance::start(Arc::clone(&image), root, config, services, want_frames);
    started.map_err(at(LoadStep::Init))
}

/// Gives an instance its state, if there is one, and asks whether it can work.
fn readied(mut instance: Instance, state: Option<Snapshot>) -> Result<Instance, Failed> {
    let restored = state.map_or(Ok(()), |state| instance.restore(state));
    let restored = restored.map_err(|failure| (LoadStep::Restore, failure));
    let healthy =
        restored.and_then(|()| instance.health().map_err(|failure| (LoadStep::Health, failure)));
    let Err((step, failure)) = healthy else { return Ok(instance) };
    // What its drop has to say does not matter any more.
    let _ = instance.end(false);
    let root = instance.root();
    Err(Failed {
        step,
        cause: Cause::Plugin(failure),
        left: Some((instance.into_image(), Some(root))),
    })
}

fn opened(code: Code) -> Result<(Arc<Image>, Root), Failed> {
    let failed = |step, error, left| Failed { step, cause: Cause::Boundary(error), left };
    let path = match code {
        Code::Ready(image, root) => return Ok((image, root)),
        Code::File(path) => path,
    };
    let image = Image::open(&path).map_err(|error| failed(LoadStep::Open, error, None))?;
    let image = Arc::new(image);
    match Root::of(&image) {
        Ok(root) => Ok((image, root)),
        Err(error) => Err(failed(LoadStep::Layout, error, Some((image, None)))),
    }
}

fn start_error(candidate: &Candidate, step: LoadStep, cause: Cause) -> Error {
    let kind = match (step, &cause) {
        (LoadStep::Config, Cause::Plugin(Failure::Error(_))) => ErrorKind::Config,
        (LoadStep::Layout, _) => ErrorKind::Incompatible,
        _ => ErrorKind::Start,
    };
    let error = candidate.failed(step, kind);
    match cause {
        Cause::Boundary(cause) => error.caused_by(cause),
        Cause::Plugin(Failure::Error(cause)) => error.caused_by(cause),
        Cause::Plugin(Failure::Panic(fault)) => error.caused_by(fault),
        Cause::Plugin(failure) => error.caused_by(error_of(failure)),
    }
}

/// Closes what was opened for nothing, or keeps it with the reason.
fn give_up(
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

fn keep(workshop: &Workshop, candidate: &Candidate, reason: String, left: Left) {
    let plugin = candidate.manifest.name().clone();
    workshop.keeper.keep(Kept { plugin, generation: None, reason, left });
}
