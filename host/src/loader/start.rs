//! What the starts of libraries and of processes share: how far a start runs, its failure, and what
//! is left of it.

use std::error::Error as StdError;
use std::sync::Arc;

use hotbay_plugin::Snapshot;

use super::candidate::Candidate;
use super::context::LoaderContext;
use crate::boundary::{Image, Root};
use crate::call::Failure;
use crate::error::boundary::BoundaryError;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::unload::{WaitForThreads, close};
use crate::generation::{Backend, Parts, RetainReason, RetainedEntry, UnloadLeftovers, error_of};
use crate::worker::RunOutcome;

/// The point up to which a start runs.
pub(crate) enum Until {
    /// Up to the end of `init`: the state follows later.
    Started,
    /// Until it can serve, with this state.
    Ready(Option<Snapshot>),
}

/// The step and cause of a failed start, and what is left to close.
pub(super) struct StartFailure {
    pub(super) step: LoadStep,
    pub(super) cause: FailureCause,
    pub(super) leftovers: Option<(Arc<Image>, Option<Root>)>,
}

pub(super) enum FailureCause {
    Boundary(BoundaryError),
    Plugin(Failure),
    Other(Box<dyn StdError + Send + Sync>),
}

/// Returns the backend of a start, or cleans up after its failure.
pub(super) fn into_backend(
    outcome: RunOutcome<Result<Backend, StartFailure>>,
    context: &LoaderContext,
    candidate: &Candidate,
    parts: &Parts,
) -> Result<Backend, Error> {
    match outcome {
        RunOutcome::Completed(Ok(backend)) => Ok(backend),
        RunOutcome::Completed(Err(failed)) => {
            if let Some((image, root)) = failed.leftovers {
                give_up(context, candidate, image, root, parts.retain_reason.clone());
            }
            Err(start_error(candidate, failed.step, failed.cause))
        }
        RunOutcome::TimedOut => {
            retain(context, candidate, "init: still running".to_owned(), RetainReason::Running);
            let message = format!(
                "the start did not finish within {} ms; its thread and library are retained",
                context.limits.start_timeout.as_millis()
            );
            Err(candidate.failed(LoadStep::Init, ErrorKind::StartFailed).caused_by(message))
        }
        RunOutcome::SpawnFailed(error) => {
            Err(candidate.failed(LoadStep::Init, ErrorKind::StartFailed).caused_by(error))
        }
    }
}

/// Restores the state of an instance, if any, and checks its health.
pub(super) fn ready_to_open(
    mut backend: Backend,
    state: Option<Snapshot>,
) -> Result<Backend, StartFailure> {
    let restored = state.map_or(Ok(()), |state| backend.restore(state));
    let restored = restored.map_err(|failure| (LoadStep::Restore, failure));
    let healthy =
        restored.and_then(|()| backend.health().map_err(|failure| (LoadStep::Health, failure)));
    let Err((step, failure)) = healthy else { return Ok(backend) };
    // An error from its drop no longer matters.
    let _ = backend.shut_down(false);
    let leftovers = match backend.into_leftovers() {
        UnloadLeftovers::Library(image, root) => Some((image, Some(root))),
        #[cfg(all(unix, feature = "process"))]
        UnloadLeftovers::Process(_) => None,
    };
    Err(StartFailure { step, cause: FailureCause::Plugin(failure), leftovers })
}

fn start_error(candidate: &Candidate, step: LoadStep, cause: FailureCause) -> Error {
    let kind = match (step, &cause) {
        (LoadStep::Config, FailureCause::Plugin(Failure::Error(_))) => ErrorKind::Config,
        (LoadStep::Layout | LoadStep::Version, _) => ErrorKind::Incompatible,
        (LoadStep::Digest, _) => ErrorKind::Integrity,
        _ => ErrorKind::StartFailed,
    };
    let error = candidate.failed(step, kind);
    match cause {
        FailureCause::Boundary(cause) => error.caused_by(cause),
        FailureCause::Other(cause) => error.caused_by(cause),
        FailureCause::Plugin(Failure::Error(cause)) => error.caused_by(cause),
        FailureCause::Plugin(Failure::Panic(fault)) => error.caused_by(fault),
        FailureCause::Plugin(failure) => error.caused_by(error_of(failure)),
    }
}

/// Closes the image of a failed load, or retains it with the reason.
pub(super) fn give_up(
    context: &LoaderContext,
    candidate: &Candidate,
    image: Arc<Image>,
    root: Option<Root>,
    reason: Option<String>,
) {
    if let Err((reason, retained)) = close(image, root, reason, WaitForThreads::Briefly) {
        retain(context, candidate, reason, retained);
    }
}

pub(super) fn retain(
    context: &LoaderContext,
    candidate: &Candidate,
    reason: String,
    retained: RetainReason,
) {
    let plugin = candidate.manifest.name().clone();
    context.deferred_unloads.retain(RetainedEntry { plugin, generation: None, reason, retained });
}
