//! A start inside this process: from code to an instance, on the thread that opens its library
//! and lives until just before that is closed.

use std::sync::Arc;
use std::time::Duration;

use hotbay_plugin::Snapshot;
use hotbay_plugin::abi::RawServices;
use hotbay_plugin::text::{Lines, escaped};

use super::LoaderContext;
use super::candidate::Candidate;
use super::load::{Until, give_up, retain};
use super::services::PluginServices;
use super::survey::check;
use crate::artifact::digest::Artifact;
use crate::artifact::staged::Staged;
use crate::boundary::invoke::validate_config;
use crate::boundary::probe::{Probed, needs_only_known};
use crate::boundary::services::Registration;
use crate::boundary::{Image, Instance, Root};
use crate::call::Failure;
use crate::error::boundary::BoundaryError;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::{Backend, Parts, RetainReason, UnloadLeftovers, error_of};
use crate::manifest::{Manifest, Unload};
use crate::pool::{OpeningThread, RunOutcome};
use crate::slot::Slot;

/// Why a library is to stay mapped once it was opened, as far as its manifest and its file tell.
pub(super) fn reason_to_keep(manifest: &Manifest, probed: &Probed) -> Option<String> {
    if manifest.unload() == Unload::Keep {
        return Some("its manifest says `unload: keep`".to_owned());
    }
    pinned_at_open(probed)
}

/// What the file of a library tells of its later unmapping and reloads, for its author.
pub(super) fn notes(probed: &Probed) -> Vec<String> {
    let mut notes: Vec<_> =
        pinned_by_file(probed).iter().map(|why| format!("stays mapped: {why}")).collect();
    if probed.is_static_tls {
        notes.push(
            "takes static thread-local memory (`DF_STATIC_TLS`), of which a process has little: \
             after some reloads the system's loader refuses the next"
                .to_owned(),
        );
    }
    notes
}

/// Why a library will stay mapped, as far as its file tells.
pub(super) fn pinned_by_file(probed: &Probed) -> Option<String> {
    pinned_at_open(probed).or_else(|| imports(probed))
}

/// As [`pinned_by_file`], for a library of which nothing but the initialisers ran.
fn pinned_at_open(probed: &Probed) -> Option<String> {
    if let Some(pin) = &probed.pin {
        return Some(pin.to_string());
    }
    let unknown = needs_only_known(&probed.needs).err()?;
    Some(format!("links {}", escaped(&unknown.join(", "), Lines::One)))
}

/// What the library uses directly of the functions through which it may be called back.
pub(super) fn imports(probed: &Probed) -> Option<String> {
    let first = probed.callbacks.first()?;
    Some(format!("it imports `{}`, {}", first.name, first.consequence))
}

/// Everything that is known of a library before it is opened.
pub(super) fn probe_file(
    workshop: &LoaderContext,
    candidate: &Candidate,
    artifact: &Artifact,
) -> Result<Probed, Error> {
    let rules = &workshop.rules;
    let manifest = &candidate.manifest;
    let digest = manifest.sha256().map(|digest| *digest.as_bytes());
    artifact.verify(digest, manifest.length(), rules.allow_unverified).map_err(|error| {
        candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error)
    })?;
    check(candidate, artifact)
}

/// Code that is to be started.
pub(super) enum Code {
    /// A private copy of a library, and why it is to stay mapped once code of it was called.
    File {
        staged: Staged,
        keep: Option<String>,
        /// What it links that was not found beside it, with a sentence about each.
        unresolved: Vec<(String, String)>,
    },
    /// Part of this program, or mapped already.
    Ready(Arc<Image>, Root),
}

/// Where a start went wrong, and what is left to be closed.
pub(super) struct Failed {
    pub(super) step: LoadStep,
    pub(super) cause: Cause,
    pub(super) left: Option<(Arc<Image>, Option<Root>)>,
}

pub(super) enum Cause {
    Boundary(BoundaryError),
    Plugin(Failure),
    /// In words.
    Message(String),
}

/// From code to an instance. A library is opened on a thread that lives until just before it is
/// closed: what initialisers and `init` bind to it is good meanwhile, and gone then.
pub(super) fn start(
    workshop: &LoaderContext,
    candidate: &Candidate,
    code: Code,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Backend, Error> {
    let services = Arc::new(PluginServices::new(
        candidate,
        parts.id,
        slot,
        workshop.limits.max_log_lines_per_second,
    ));
    let registration = Registration::new(services);
    let raw = registration.raw();
    parts.services = Some(registration);
    let config = candidate.manifest.config().to_string();
    let want_frames = workshop.want_frames;
    let (before, keep) = match &code {
        Code::Ready(image, _) => (Some(Arc::clone(image)), None),
        Code::File { keep, .. } => (None, keep.clone()),
    };
    let job = move || {
        let body = Backend::InProcess(open_root(code, &config, &raw, want_frames)?);
        match until {
            Until::Started => Ok(body),
            Until::Ready(state) => ready_to_open(body, state),
        }
    };
    let wait_max = workshop.limits.start_timeout;
    let started = match before {
        Some(image) => image.run(&parts.workers, wait_max, job),
        None => match parts.workers.opening_thread() {
            Ok(opener) => open_on(opener, wait_max, job),
            Err(error) => RunOutcome::SpawnFailed(error),
        },
    };
    let was_called = match &started {
        RunOutcome::Completed(Err(failed)) => {
            failed.left.as_ref().is_some_and(|(_, root)| root.is_some())
        }
        _ => true,
    };
    parts.retain_reason = parts.retain_reason.take().or(keep.filter(|_| was_called));
    body_of(started, workshop, candidate, parts)
}

/// Runs a job that opens a library on `opener`, which stays with the library.
fn open_on(
    opener: OpeningThread,
    wait_max: Duration,
    job: impl FnOnce() -> Result<Backend, Failed> + Send + 'static,
) -> RunOutcome<Result<Backend, Failed>> {
    let done = opener.run(wait_max, job);
    let image = match &done {
        RunOutcome::Completed(Ok(body)) => body.image(),
        RunOutcome::Completed(Err(failed)) => failed.left.as_ref().map(|(image, _)| image),
        // It sleeps on with the library, which is kept.
        RunOutcome::TimedOut => return done,
        RunOutcome::SpawnFailed(_) => None,
    };
    match image {
        Some(image) => image.attach(opener),
        // Nothing was opened, so nothing is left that it could be bound to.
        None => drop(opener.finish(wait_max)),
    }
    done
}

/// What came of an errand that was to make or ready an instance; what failed is cleared away.
pub(super) fn body_of(
    errand: RunOutcome<Result<Backend, Failed>>,
    workshop: &LoaderContext,
    candidate: &Candidate,
    parts: &Parts,
) -> Result<Backend, Error> {
    match errand {
        RunOutcome::Completed(Ok(body)) => Ok(body),
        RunOutcome::Completed(Err(failed)) => {
            if let Some((image, root)) = failed.left {
                give_up(workshop, candidate, image, root, parts.retain_reason.clone());
            }
            Err(start_error(candidate, failed.step, failed.cause))
        }
        RunOutcome::TimedOut => {
            retain(workshop, candidate, "init: still runs".to_owned(), RetainReason::Running);
            let message = format!(
                "it did not end within {} ms; its thread and its library are kept",
                workshop.limits.start_timeout.as_millis()
            );
            Err(candidate.failed(LoadStep::Init, ErrorKind::StartFailed).caused_by(message))
        }
        RunOutcome::SpawnFailed(error) => {
            Err(candidate.failed(LoadStep::Init, ErrorKind::StartFailed).caused_by(error))
        }
    }
}

fn open_root(
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
    // A look now: another handler may stand before it at the end, and call it as the previous one.
    image.held_signal_handler();
    started.map_err(at(LoadStep::Init))
}

/// Gives an instance its state, if there is one, and asks whether it can work.
pub(super) fn ready_to_open(mut body: Backend, state: Option<Snapshot>) -> Result<Backend, Failed> {
    let restored = state.map_or(Ok(()), |state| body.restore(state));
    let restored = restored.map_err(|failure| (LoadStep::Restore, failure));
    let healthy =
        restored.and_then(|()| body.health().map_err(|failure| (LoadStep::Health, failure)));
    let Err((step, failure)) = healthy else { return Ok(body) };
    // What its drop has to say does not matter any more.
    let _ = body.shut_down(false);
    let left = match body.into_leftovers() {
        UnloadLeftovers::Library(image, root) => Some((image, Some(root))),
        #[cfg(unix)]
        UnloadLeftovers::Process(_) => None,
    };
    Err(Failed { step, cause: Cause::Plugin(failure), left })
}

fn opened(code: Code) -> Result<(Arc<Image>, Root), Failed> {
    let failed = |step, error, left| Failed { step, cause: Cause::Boundary(error), left };
    let (staged, unresolved) = match code {
        Code::Ready(image, root) => return Ok((image, root)),
        Code::File { staged, unresolved, .. } => (staged, unresolved),
    };
    let before = staged.origin().map(Image::mapped_below).unwrap_or_default();
    let image = Image::open(staged)
        .map_err(|error| failed(LoadStep::Open, error.with_unresolved(&unresolved), None))?;
    let image = Arc::new(image);
    if let Err(error) = image.check_linked(&before) {
        return Err(failed(LoadStep::Open, error, Some((image, None))));
    }
    match Root::of(&image) {
        Ok(root) => Ok((image, root)),
        Err(error) => Err(failed(LoadStep::Layout, error, Some((image, None)))),
    }
}

fn start_error(candidate: &Candidate, step: LoadStep, cause: Cause) -> Error {
    let kind = match (step, &cause) {
        (LoadStep::Config, Cause::Plugin(Failure::Error(_))) => ErrorKind::Config,
        (LoadStep::Layout | LoadStep::Version, _) => ErrorKind::Incompatible,
        _ => ErrorKind::StartFailed,
    };
    let error = candidate.failed(step, kind);
    match cause {
        Cause::Boundary(cause) => error.caused_by(cause),
        Cause::Message(cause) => error.caused_by(cause),
        Cause::Plugin(Failure::Error(cause)) => error.caused_by(cause),
        Cause::Plugin(Failure::Panic(fault)) => error.caused_by(fault),
        Cause::Plugin(failure) => error.caused_by(error_of(failure)),
    }
}
