//! Starts a plugin inside this process: from code to an instance, on the thread that opens its
//! library and exits just before the library is closed.

use std::sync::Arc;
use std::time::Duration;

use hotbay_plugin::abi::RawServices;

use super::candidate::Candidate;
use super::context::LoaderContext;
use super::services::PluginServices;
use super::start::{FailureCause, StartFailure, Until, into_backend, ready_to_open};
use crate::artifact::digest::Artifact;
use crate::artifact::stage::Staged;
use crate::boundary::services::{Registration, contract_functions};
use crate::boundary::{Image, Instance, Root, validate_config};
use crate::error::artifact::ArtifactError;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::{Backend, Parts};
use crate::slot::Slot;
use crate::worker::{OpeningThread, RunOutcome};

/// A library that was read, and the thread that will open it. The thread computes the digest first,
/// while the load continues.
pub(super) struct Opening {
    artifact: Arc<Artifact>,
    stated: Stated,
    thread: OpeningThread,
}

/// What the manifest states about the content of a library.
#[derive(Clone, Copy)]
struct Stated {
    sha256: Option<[u8; 32]>,
    length: Option<u64>,
    allow_unverified: bool,
}

impl Stated {
    fn verify(self, artifact: &Artifact) -> Result<(), ArtifactError> {
        artifact.verify(self.sha256, self.length, self.allow_unverified)
    }
}

impl Opening {
    /// Starts the thread and the computation of the digest.
    pub(super) fn start(
        context: &LoaderContext,
        candidate: &Candidate,
        artifact: Arc<Artifact>,
        parts: &Parts,
    ) -> Result<Self, Error> {
        let manifest = &candidate.manifest;
        artifact.verify_length(manifest.length()).map_err(|error| {
            candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error)
        })?;
        let stated = Stated {
            sha256: manifest.sha256().map(|digest| *digest.as_bytes()),
            length: manifest.length(),
            allow_unverified: context.rules.allow_unverified,
        };
        let read = Arc::clone(&artifact);
        let thread = parts.workers.opening_thread().and_then(|thread| {
            thread.start(move || {
                read.content();
            })?;
            Ok(thread)
        });
        let thread = thread.map_err(|error| {
            candidate.failed(LoadStep::Init, ErrorKind::StartFailed).caused_by(error)
        })?;
        Ok(Self { artifact, stated, thread })
    }

    pub(super) fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// Ends the thread after `error`; returns the error of a wrong digest instead, if there is one.
    pub(super) fn abandon(
        self,
        context: &LoaderContext,
        candidate: &Candidate,
        error: Error,
    ) -> Error {
        let verified = self.stated.verify(&self.artifact);
        let _ = self.thread.finish(context.limits.start_timeout);
        match verified {
            Ok(()) => error,
            Err(error) => candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error),
        }
    }

    /// Runs `open` on the thread once the digest is verified, and waits for it, at most `timeout`
    /// from then on. The thread stays with the library.
    fn run(
        self,
        timeout: Duration,
        open: impl FnOnce() -> Result<Backend, StartFailure> + Send + 'static,
    ) -> RunOutcome<Result<Backend, StartFailure>> {
        let Self { artifact, stated, thread } = self;
        let read = Arc::clone(&artifact);
        let job = move || {
            stated.verify(&read).map_err(|error| StartFailure {
                step: LoadStep::Digest,
                cause: FailureCause::Other(error.into()),
                leftovers: None,
            })?;
            // A large file takes as much memory as its library.
            drop(read);
            open()
        };
        let opened = thread.submit(job);
        artifact.content();
        drop(artifact);
        let done = opened.wait(timeout);
        let image = match &done {
            RunOutcome::Completed(Ok(backend)) => backend.image(),
            RunOutcome::Completed(Err(failed)) => failed.leftovers.as_ref().map(|(image, _)| image),
            // It stays with the library, which is retained.
            RunOutcome::TimedOut => return done,
            RunOutcome::SpawnFailed(_) => None,
        };
        match image {
            Some(image) => image.attach(thread),
            // Nothing was opened, so nothing is bound to it.
            None => drop(thread.finish(timeout)),
        }
        done
    }
}

/// The code to start.
pub(super) enum Code {
    /// A private copy of a library.
    File(Box<File>),
    /// Compiled in, or already mapped.
    Ready(Arc<Image>, Root),
}

/// A library that may be opened.
pub(super) struct File {
    pub(super) opening: Opening,
    pub(super) copy: StagedLibrary,
    /// Why it must stay mapped once its code was called.
    pub(super) retain_reason: Option<String>,
}

/// A private copy of a library.
pub(super) struct StagedLibrary {
    pub(super) staged: Staged,
    /// Libraries that it links and that were not found in its folder, each with a message.
    pub(super) unresolved: Vec<(String, String)>,
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
    let services = Arc::new(PluginServices::new(context, candidate, parts.id, slot));
    let registration = Registration::new(services);
    let raw = registration.raw();
    parts.services = Some(registration);
    let config = candidate.manifest.config().to_string();
    let capture_panic_backtrace = context.capture_panic_backtrace;
    let begin = move |image, root| {
        let instance = begin(image, root, &config, &raw, capture_panic_backtrace)?;
        let backend = Backend::InProcess(instance);
        match until {
            Until::Started => Ok(backend),
            Until::Ready(state) => ready_to_open(backend, state),
        }
    };
    let timeout = context.limits.start_timeout;
    let (started, reason) = match code {
        Code::Ready(image, root) => {
            let own = Arc::clone(&image);
            (image.run(&parts.workers, timeout, move || begin(own, root)), None)
        }
        Code::File(file) => {
            let File { opening, copy, retain_reason } = *file;
            let open = move || open(copy).and_then(|(image, root)| begin(image, root));
            (opening.run(timeout, open), retain_reason)
        }
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

/// Starts an instance.
fn begin(
    image: Arc<Image>,
    root: Root,
    config: &str,
    services: &RawServices,
    capture_panic_backtrace: bool,
) -> Result<Instance, StartFailure> {
    let at = |step| {
        let leftovers = Some((Arc::clone(&image), Some(root)));
        move |failure| StartFailure { step, cause: FailureCause::Plugin(failure), leftovers }
    };
    validate_config(root, config).map_err(at(LoadStep::Config))?;
    root.connect(contract_functions());
    let started =
        Instance::start(Arc::clone(&image), root, config, services, capture_panic_backtrace);
    // Checked now: another handler may replace it later, and still call it as the previous one.
    image.held_signal_handler();
    started.map_err(at(LoadStep::Init))
}

/// Opens a library and checks its layout.
fn open(copy: StagedLibrary) -> Result<(Arc<Image>, Root), StartFailure> {
    let failed = |step, error, leftovers| StartFailure {
        step,
        cause: FailureCause::Boundary(error),
        leftovers,
    };
    let StagedLibrary { staged, unresolved } = copy;
    let before = staged.origin().map(Image::mapped_below).unwrap_or_default();
    let image = Image::open(staged)
        .map_err(|error| failed(LoadStep::Open, error.with_unresolved(&unresolved), None))?;
    let image = Arc::new(image);
    if let Err(error) = image.check_linked(&before) {
        return Err(failed(LoadStep::Open, error, Some((image, None))));
    }
    let root = match Root::of(&image) {
        Ok(root) => root,
        Err(error) => return Err(failed(LoadStep::Layout, error, Some((image, None)))),
    };
    match image.read_contracts(root.contracts()) {
        Ok(()) => Ok((image, root)),
        Err(error) => Err(failed(LoadStep::Layout, error, Some((image, None)))),
    }
}
