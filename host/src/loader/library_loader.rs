//! Starts a plugin inside this process: from code to an instance, on the thread that opens its
//! library and exits just before the library is closed.

use std::sync::Arc;
use std::time::Duration;

use hotbay_plugin::abi::RawServices;

use super::candidate::Candidate;
use super::context::LoaderContext;
use super::services::PluginServices;
use super::start::{FailureCause, StartFailure, Until, into_backend, ready_to_open};
use crate::artifact::stage::Staged;
use crate::boundary::invoke::validate_config;
use crate::boundary::services::Registration;
use crate::boundary::{Image, Instance, Root};
use crate::error::{Error, LoadStep};
use crate::generation::{Backend, Parts};
use crate::slot::Slot;
use crate::worker::{OpeningThread, RunOutcome};

/// The code to start.
pub(super) enum Code {
    /// A private copy of a library, and why it must stay mapped once its code was called.
    File {
        staged: Staged,
        retain_reason: Option<String>,
        /// Libraries that it links and that were not found in its folder, each with a message.
        unresolved: Vec<(String, String)>,
    },
    /// Compiled in, or already mapped.
    Ready(Arc<Image>, Root),
}

/// Starts an instance of the code. A library is opened on a thread that lives until just before it
/// is closed: what initializers and `init` bind to the thread stays valid until then.
pub(super) fn start(
    context: &LoaderContext,
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
        context.limits.max_log_lines_per_second,
    ));
    let registration = Registration::new(services);
    let raw = registration.raw();
    parts.services = Some(registration);
    let config = candidate.manifest.config().to_string();
    let capture_panic_backtrace = context.capture_panic_backtrace;
    let (image, reason) = match &code {
        Code::Ready(image, _) => (Some(Arc::clone(image)), None),
        Code::File { retain_reason, .. } => (None, retain_reason.clone()),
    };
    let job = move || {
        let backend = Backend::InProcess(open_root(code, &config, &raw, capture_panic_backtrace)?);
        match until {
            Until::Started => Ok(backend),
            Until::Ready(state) => ready_to_open(backend, state),
        }
    };
    let timeout = context.limits.start_timeout;
    let started = match image {
        Some(image) => image.run(&parts.workers, timeout, job),
        None => match parts.workers.opening_thread() {
            Ok(opening_thread) => open_on(opening_thread, timeout, job),
            Err(error) => RunOutcome::SpawnFailed(error),
        },
    };
    let was_called = match &started {
        RunOutcome::Completed(Err(failed)) => {
            failed.leftovers.as_ref().is_some_and(|(_, root)| root.is_some())
        }
        _ => true,
    };
    parts.retain_reason = parts.retain_reason.take().or(reason.filter(|_| was_called));
    into_backend(started, context, candidate, parts)
}

/// Runs a job that opens a library on `opening_thread`, which stays with the library.
fn open_on(
    opening_thread: OpeningThread,
    timeout: Duration,
    job: impl FnOnce() -> Result<Backend, StartFailure> + Send + 'static,
) -> RunOutcome<Result<Backend, StartFailure>> {
    let done = opening_thread.run(timeout, job);
    let image = match &done {
        RunOutcome::Completed(Ok(backend)) => backend.image(),
        RunOutcome::Completed(Err(failed)) => failed.leftovers.as_ref().map(|(image, _)| image),
        // It stays with the library, which is retained.
        RunOutcome::TimedOut => return done,
        RunOutcome::SpawnFailed(_) => None,
    };
    match image {
        Some(image) => image.attach(opening_thread),
        // Nothing was opened, so nothing is bound to it.
        None => drop(opening_thread.finish(timeout)),
    }
    done
}

fn open_root(
    code: Code,
    config: &str,
    services: &RawServices,
    capture_panic_backtrace: bool,
) -> Result<Instance, StartFailure> {
    let (image, root) = opened(code)?;
    let at = |step| {
        let leftovers = Some((Arc::clone(&image), Some(root)));
        move |failure| StartFailure { step, cause: FailureCause::Plugin(failure), leftovers }
    };
    validate_config(root, config).map_err(at(LoadStep::Config))?;
    let started =
        Instance::start(Arc::clone(&image), root, config, services, capture_panic_backtrace);
    // Checked now: another handler may replace it later, and still call it as the previous one.
    image.held_signal_handler();
    started.map_err(at(LoadStep::Init))
}

fn opened(code: Code) -> Result<(Arc<Image>, Root), StartFailure> {
    let failed = |step, error, leftovers| StartFailure {
        step,
        cause: FailureCause::Boundary(error),
        leftovers,
    };
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
