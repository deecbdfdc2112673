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
use super::survey::{judge, read_library};
use crate::artifact::digest::Artifact;
use crate::boundary::invoke::validate_config;
use crate::boundary::probe::{Probed, needs_only_known};
use crate::boundary::services::Registration;
use crate::boundary::{Failure, Image, Instance, Root};
use crate::error::boundary::BoundaryError;
use crate::error::{Error, ErrorKind, LoadStep, bug};
use crate::generation::retire::close;
use crate::generation::{IoLimits, Kept, Left, Parts, Token, error_of};
use crate::manifest::Unload;
use crate::pool::{Crew, Errand};
use crate::slot::Slot;

/// Where the code of a plugin comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A library in the candidate's folder, with the state to start from.
    Library(Option<Snapshot>),
    /// A type of this program.
    Type(Root),
    /// A value of this program.
    Value(Instance),
}

/// A plugin that serves in a slot of its own.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) slot: Arc<Slot>,
    /// What was asked for and not given, in words.
    pub(crate) notes: Vec<String>,
}

/// Loads a plugin into a new slot.
pub(crate) fn load(
    workshop: &Workshop,
    candidate: &Candidate,
    source: Source,
) -> Result<Loaded, Error> {
    candidate.check_kind()?;
    let (limits, notes) = within(candidate.manifest.limits(), &workshop.limits);
    let slot = Arc::new(Slot::new(
        candidate.manifest.name().clone(),
        limits.queue,
        workshop.quarantine.clone(),
        workshop.board.clone(),
    ));
    let token = generation(workshop, candidate, source, &slot, &limits)?;
    // The slot is new, so nothing was there before.
    let _ = slot.promote(token);
    Ok(Loaded { slot, notes })
}

fn generation(
    workshop: &Workshop,
    candidate: &Candidate,
    source: Source,
    slot: &Arc<Slot>,
    limits: &PluginLimits,
) -> Result<Token, Error> {
    let mut parts = parts(workshop, candidate, slot, limits);
    let instance = match source {
        Source::Value(instance) => {
            candidate.check_config(&workshop.rules)?;
            instance
        }
        Source::Type(root) => {
            start(workshop, candidate, Code::Linked(root), None, &mut parts, slot)?
        }
        Source::Library(state) => {
            let (artifact, probed) = examine(workshop, candidate)?;
            parts.keep = reason_to_keep(candidate, &probed);
            let staged = workshop
                .staging
                .stage(&artifact, candidate.manifest.name().as_str())
                .map_err(|error| {
                    candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error)
                })?;
            drop(artifact);
            let path = staged.path().to_owned();
            let started = start(workshop, candidate, Code::File(path), state, &mut parts, slot);
            // Mapped or refused: on Unix the copy is not needed any more. Elsewhere a mapped
            // file stays until the staging area goes.
            let _ = staged.remove();
            started?
        }
    };
    Ok(Token::new(parts, instance))
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
        keep: None,
        crew: Crew::new(format!("{name}-{id}"), limits.stack_bytes, limits.workers),
        board: workshop.board.clone(),
        services: None,
        name,
    }
}

/// Everything that is known of a library before it is opened.
fn examine(workshop: &Workshop, candidate: &Candidate) -> Result<(Artifact, Probed), Error> {
    let rules = &workshop.rules;
    let Some(artifact) = read_library(candidate, rules)? else {
        return Err(bug!("`{}` has no library to load", candidate.manifest.name()));
    };
    let manifest = &candidate.manifest;
    let digest = manifest.sha256().map(|digest| *digest.as_bytes());
    artifact.verify(digest, manifest.length(), rules.allow_unverified).map_err(|error| {
        candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error)
    })?;
    let probed = judge(candidate, &artifact)?;
    Ok((artifact, probed))
}

/// Code that is to be started.
enum Code {
    /// A private copy of a library.
    File(PathBuf),
    /// Part of this program.
    Linked(Root),
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

/// From code to a healthy instance, on a thread of the generation's own that then ends: what
/// initialisers and `init` leave on it is gone before anything is closed.
fn start(
    workshop: &Workshop,
    candidate: &Candidate,
    code: Code,
    state: Option<Snapshot>,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Instance, Error> {
    candidate.check_config(&workshop.rules)?;
    let services = Arc::new(PluginServices::new(candidate, parts.id, slot));
    let registration = Registration::new(services);
    let raw = registration.raw();
    parts.services = Some(registration);
    let config = candidate.manifest.config().to_string();
    let want_frames = workshop.want_frames;
    let wait_max = workshop.limits.start_wait_max;
    match parts.crew.run(wait_max, move || begin(code, state, &config, &raw, want_frames)) {
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
                wait_max.as_millis()
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
    state: Option<Snapshot>,
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
    let mut instance = started.map_err(at(LoadStep::Init))?;
    let restored = state.map_or(Ok(()), |state| instance.restore(state));
    let restored = restored.map_err(at(LoadStep::Restore));
    let healthy = restored.and_then(|()| instance.health().map_err(at(LoadStep::Health)));
    if let Err(failed) = healthy {
        // What its drop has to say does not matter any more.
        let _ = instance.end(false);
        return Err(failed);
    }
    Ok(instance)
}

fn opened(code: Code) -> Result<(Arc<Image>, Root), Failed> {
    let failed = |step, error, left| Failed { step, cause: Cause::Boundary(error), left };
    let path = match code {
        Code::Linked(root) => return Ok((Arc::new(Image::compiled_in()), root)),
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
        Cause::Plugin(failure @ Failure::Code(_)) => error.caused_by(error_of(failure)),
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
    if let Err((reason, left)) = close(image, root, reason) {
        keep(workshop, candidate, reason, left);
    }
}

fn keep(workshop: &Workshop, candidate: &Candidate, reason: String, left: Left) {
    let plugin = candidate.manifest.name().clone();
    workshop.keeper.keep(Kept { plugin, generation: None, reason, left });
}
