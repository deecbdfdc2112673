//! The load itself, for each source of code: checks before the start, the start, and the
//! generation. The first failure ends the load and undoes what was done.

use std::fmt;
use std::sync::Arc;

use hotbay_manifest::{Handover, Kind, Manifest};
use hotbay_plugin::{Config, PluginError, Snapshot};
#[cfg(all(unix, feature = "process"))]
use hotbay_process::Program;
use hotbay_sandbox::Confinement;

use super::bounds::{check_processes, not_granted, refuse_sandbox};
use super::candidate::Candidate;
use super::context::LoaderContext;
use super::dependencies::stage;
#[cfg(all(unix, feature = "process"))]
use super::isolated::start as start_isolated;
use super::library_loader::{self, Code, File, Opening, StagedLibrary};
use super::policy::{PluginLimits, call_memory_note, call_policy, check_schemas, effective_limits};
#[cfg(all(unix, feature = "process"))]
use super::process_loader::{self, start as start_process};
use super::schemas::Schemas;
use super::settings::PluginSettings;
use super::start::{
    FailureCause, StartFailure, Until, give_up, into_backend, ready_to_open, retain,
};
use super::survey::{self, read_artifact};
use crate::artifact::digest::Artifact;
use crate::artifact::signature::Signature;
use crate::boundary::{Contracts, Image, Instance, Root};
use crate::call::Failure;
use crate::contracts::Offer;
use crate::error::{Error, ErrorKind, LoadStep, bug};
use crate::event::HostEvent;
use crate::generation::{
    Backend, CallPolicy, InstanceRef, IoLimits, Parts, RetainReason, UnloadLeftovers,
};
use crate::panic::catch_panic;
use crate::slot::Slot;
use crate::worker::{RunOutcome, WorkerThreads};

/// A plugin that serves in its own slot.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) slot: Arc<Slot>,
    pub(crate) build: Build,
}

/// The facts about a load that a later load needs.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) manifest: Arc<Manifest>,
    /// The digest of the library and its dependencies; `None` if compiled in.
    pub(crate) sha256: Option<[u8; 32]>,
    /// The digests of its schema files.
    pub(crate) schemas: Vec<Option<[u8; 32]>>,
    /// The settings that it was started with.
    pub(crate) settings: Arc<PluginSettings>,
    /// The contracts that it declares besides its manifest.
    pub(crate) offers: Vec<Offer>,
    /// The signature of its folder.
    pub(crate) signature: Signature,
    /// Requests that the host did not fulfill, as text.
    pub(crate) notes: Vec<String>,
    /// What is enforced of its sandbox; `None` if it has none.
    pub(crate) confinement: Option<Confinement>,
}

/// A backend that was started and does not serve yet.
#[derive(Debug)]
pub(crate) struct NewGeneration {
    parts: Parts,
    backend: Backend,
    pub(crate) build: Build,
}

/// Loads a plugin into a new slot.
pub(crate) fn load(
    context: &LoaderContext,
    candidate: &Candidate,
    source: Source,
    state: Option<Snapshot>,
) -> Result<Loaded, Error> {
    let slot = Arc::new(Slot::new(
        candidate.manifest.name().clone(),
        context.limits.pause_timeout,
        context.quarantine.clone(),
        context.events.clone(),
        context.timer.handle(),
    ));
    let new_generation =
        NewGeneration::start(context, candidate, source, &slot, Until::Ready(state))?;
    let (instance, build) = new_generation.into_instance();
    // The slot is new, so it has no previous generation.
    let _ = slot.promote(instance);
    Ok(Loaded { slot, build })
}

impl NewGeneration {
    /// Runs all steps up to `until`, next to the generation that serves in the slot.
    pub(crate) fn start(
        context: &LoaderContext,
        candidate: &Candidate,
        source: Source,
        slot: &Arc<Slot>,
        until: Until,
    ) -> Result<Self, Error> {
        let source = match source {
            Source::Library => {
                let Some(artifact) = read_artifact(candidate, &context.rules)? else {
                    return Err(bug!("`{}` has no library to load", candidate.manifest.name()));
                };
                Source::Read(Arc::new(artifact))
            }
            source => source,
        };
        let kind = source.kind().unwrap_or(candidate.runs_as());
        candidate.ensure_signature_was_checked(&context.rules)?;
        let (limits, mut notes) =
            effective_limits(candidate.manifest.limits(), kind, &context.limits);
        let mut candidate = candidate.clone();
        let schemas = match source.earlier_policy() {
            // It already ran with this config.
            Some(policy) => {
                candidate.granted.clone_from(&policy.permissions);
                Schemas::default()
            }
            None => {
                notes.extend(candidate.evaluate(context.permission_policy.as_ref())?);
                Schemas::read(&candidate, &context.rules)?
            }
        };
        let candidate = &candidate;
        notes.extend(not_granted(candidate, &context.confinement, &context.inherit_env));
        let mut parts = parts(context, candidate, slot, &limits);
        let schema_digests = schemas.digests();
        let mut sha256 = None;
        let backend = match source {
            Source::Library => return Err(bug!("the library was not read")),
            Source::Value(constructor) => {
                check_schemas(context, candidate, schemas, &mut parts)?;
                construct(context, candidate, constructor, until, &parts)?
            }
            Source::Type(root, contracts) => {
                check_schemas(context, candidate, schemas, &mut parts)?;
                let code = Code::Ready(Arc::new(Image::compiled_in(contracts)), root);
                library_loader::start(context, candidate, code, until, &mut parts, slot)?
            }
            Source::Mapped { image, root, retain_reason, policy } => {
                parts.retain_reason = retain_reason;
                parts.policy = policy;
                let code = Code::Ready(image, root);
                library_loader::start(context, candidate, code, until, &mut parts, slot)?
            }
            #[cfg(all(unix, feature = "process"))]
            Source::Restart { program, policy } => {
                parts.policy = policy;
                process_loader::start_staged(context, candidate, program, until, &mut parts, slot)?
            }
            Source::Read(artifact) if candidate.is_isolated() => {
                check_processes(candidate)?;
                verify(context, candidate, &artifact)?;
                survey::check_library(candidate, &artifact, Some(&context.contracts))?;
                notes.extend(artifact.dependencies().notes.iter().cloned());
                check_schemas(context, candidate, schemas, &mut parts)?;
                sha256 = Some(artifact.content());
                start_isolated(context, candidate, &artifact, &limits, until, &mut parts, slot)?
            }
            Source::Read(artifact) if kind == Kind::Process => {
                verify(context, candidate, &artifact)?;
                check_schemas(context, candidate, schemas, &mut parts)?;
                sha256 = Some(artifact.sha256());
                start_process(context, candidate, &artifact, &limits, until, &mut parts, slot)?
            }
            Source::Read(artifact) => {
                refuse_sandbox(candidate)?;
                let content = artifact.content_cell();
                let opening = Opening::start(context, candidate, artifact, &parts)?;
                let prepared = prepare(context, candidate, schemas, opening.artifact(), &mut parts);
                let (copy, retain_reason) = match prepared {
                    Ok(Prepared { copy, retain_reason, notes: more }) => {
                        notes.extend(more);
                        (copy, retain_reason)
                    }
                    Err(error) => return Err(opening.abandon(context, candidate, error)),
                };
                let code = Code::File(Box::new(File { opening, copy, retain_reason }));
                let backend =
                    library_loader::start(context, candidate, code, until, &mut parts, slot)?;
                sha256 = content.get().copied();
                backend
            }
        };
        let manifest = Arc::new(candidate.manifest.clone());
        let offers = backend.offers();
        notes.extend(process_notes(candidate, &backend));
        notes.extend(call_memory_note(candidate.manifest.limits(), &limits, &backend));
        let settings = Arc::clone(&candidate.settings);
        let confinement = backend.confinement();
        report_confinement(&parts, confinement.as_ref());
        let build = Build {
            manifest,
            sha256,
            schemas: schema_digests,
            settings,
            offers,
            signature: candidate.signature.clone(),
            notes,
            confinement,
        };
        Ok(Self { parts, backend, build })
    }

    /// Restores the state of the instance and checks its health, on a separate thread.
    pub(crate) fn ready(
        self,
        context: &LoaderContext,
        candidate: &Candidate,
        state: Option<Snapshot>,
    ) -> Result<(InstanceRef, Build), Error> {
        let Self { parts, backend, build } = self;
        let timeout = context.limits.start_timeout;
        let outcome =
            backend.run(&parts.workers, timeout, move |backend| ready_to_open(backend, state));
        if let RunOutcome::SpawnFailed(error) = &outcome {
            let reason = format!("start: cannot start a thread ({error})");
            retain(context, candidate, reason, RetainReason::Running);
        }
        let backend = into_backend(outcome, context, candidate, &parts)?;
        Ok((InstanceRef::new(parts, backend), build))
    }

    /// Stops an instance that is not needed.
    pub(crate) fn abort(self, context: &LoaderContext, candidate: &Candidate) {
        let Self { parts, backend, .. } = self;
        let timeout = backend.shutdown_timeout(context.limits.stop_timeout);
        let outcome = backend.run(&parts.workers, timeout, move |mut backend| {
            // An error from its drop no longer matters.
            let _ = backend.shut_down(false);
            backend.into_leftovers()
        });
        match outcome {
            RunOutcome::Completed(UnloadLeftovers::Library(image, root)) => {
                give_up(context, candidate, image, Some(root), parts.retain_reason);
            }
            #[cfg(all(unix, feature = "process"))]
            RunOutcome::Completed(UnloadLeftovers::Process(_)) => {}
            RunOutcome::TimedOut => {
                retain(context, candidate, "drop: still running".to_owned(), RetainReason::Running);
            }
            RunOutcome::SpawnFailed(error) => {
                let reason = format!("shutdown: cannot start a thread ({error})");
                retain(context, candidate, reason, RetainReason::Running);
            }
        }
    }

    pub(crate) fn into_instance(self) -> (InstanceRef, Build) {
        (InstanceRef::new(self.parts, self.backend), self.build)
    }
}

/// A library that may be opened.
struct Prepared {
    copy: StagedLibrary,
    /// Why it must stay mapped once its code was called.
    retain_reason: Option<String>,
    notes: Vec<String>,
}

/// Probes a library, checks the schemas and the config, and makes a private copy.
fn prepare(
    context: &LoaderContext,
    candidate: &Candidate,
    schemas: Schemas,
    artifact: &Artifact,
    parts: &mut Parts,
) -> Result<Prepared, Error> {
    let probed = survey::check_library(candidate, artifact, Some(&context.contracts))?;
    check_schemas(context, candidate, schemas, parts)?;
    parts.retain_reason = survey::retain_reason(&candidate.manifest, &probed);
    let dependencies = artifact.dependencies();
    let mut notes = survey::notes(&probed);
    notes.extend(dependencies.notes.iter().cloned());
    let unresolved = dependencies.unresolved.clone();
    let staged = stage(&context.staging, candidate, artifact)?;
    let retain_reason = survey::callback_reason(&probed);
    Ok(Prepared { copy: StagedLibrary { staged, unresolved }, retain_reason, notes })
}

/// Compares the file that was read with the length and digest in its manifest.
fn verify(
    context: &LoaderContext,
    candidate: &Candidate,
    artifact: &Artifact,
) -> Result<(), Error> {
    let manifest = &candidate.manifest;
    let digest = manifest.sha256().map(|digest| *digest.as_bytes());
    let verified = artifact.verify(digest, manifest.length(), context.rules.allow_unverified);
    verified
        .map_err(|error| candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error))
}

/// Returns what differs from the request of the manifest or the program, as text.
fn process_notes(candidate: &Candidate, backend: &Backend) -> Vec<String> {
    let mut notes = backend.config_notes();
    if let Some(socket) = backend.fixed_socket()
        && candidate.manifest.handover() != Handover::StopFirst
    {
        notes.push(format!(
            "two processes cannot listen on the fixed socket `{}` at once: a reload uses the \
             handover `stop-first`, not `{}`",
            socket.display(),
            candidate.manifest.handover()
        ));
    }
    for note in &notes {
        tracing::warn!(plugin = %candidate.manifest.name(), note = note.as_str());
    }
    notes
}

/// Logs and emits which rules of a sandbox are not enforced.
fn report_confinement(parts: &Parts, confinement: Option<&Confinement>) {
    let incomplete = confinement.into_iter().flat_map(Confinement::incomplete);
    let rules: Vec<_> = incomplete.map(ToString::to_string).collect();
    if rules.is_empty() {
        return;
    }
    tracing::warn!(plugin = %parts.name, "its sandbox is not fully enforced: {}", rules.join("; "));
    let (plugin, generation) = (parts.name.clone(), parts.id);
    parts.events.emit(HostEvent::ConfinementIncomplete { plugin, generation, rules });
}

fn parts(
    context: &LoaderContext,
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
        policy: Arc::new(call_policy(context, candidate, limits)),
        retain_reason: None,
        is_confined: false,
        workers: WorkerThreads::new(format!("{name}-{id}"), limits.stack_bytes, limits.workers),
        runtime: None,
        events: context.events.clone(),
        services: None,
        name,
    }
}

/// Constructs an instance of this program, on a thread of the plugin.
fn construct(
    context: &LoaderContext,
    candidate: &Candidate,
    Constructor(construct): Constructor,
    until: Until,
    parts: &Parts,
) -> Result<Backend, Error> {
    let config = Config::from(candidate.manifest.config().clone());
    let failed = |cause| StartFailure { step: LoadStep::Init, cause, leftovers: None };
    let job = move || {
        let constructed = catch_panic(|| construct(&config));
        let instance = match constructed {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) => return Err(failed(FailureCause::Plugin(Failure::Error(error)))),
            Err(message) => {
                let panic = format!("panicked: {message}");
                return Err(failed(FailureCause::Other(panic.into())));
            }
        };
        let backend = Backend::InProcess(instance);
        match until {
            Until::Started => Ok(backend),
            Until::Ready(state) => ready_to_open(backend, state),
        }
    };
    let started = parts.workers.run(context.limits.start_timeout, job);
    into_backend(started, context, candidate, parts)
}

#[cfg(not(all(unix, feature = "process")))]
use start_process as start_isolated;

#[cfg(not(all(unix, feature = "process")))]
fn start_process(
    _: &LoaderContext,
    candidate: &Candidate,
    _: &Artifact,
    _: &PluginLimits,
    _: Until,
    _: &mut Parts,
    _: &Arc<Slot>,
) -> Result<Backend, Error> {
    Err(super::bounds::no_processes(candidate))
}

/// The source of a plugin's code.
#[derive(Debug)]
pub(crate) enum Source {
    /// A library in the candidate's folder.
    Library,
    /// The library or program in the candidate's folder, already read.
    Read(Arc<Artifact>),
    /// A type of this program.
    Type(Root, Contracts),
    /// A value of this program.
    Value(Constructor),
    /// A library that is already mapped, with the call policy of its generation.
    Mapped { image: Arc<Image>, root: Root, retain_reason: Option<String>, policy: Arc<CallPolicy> },
    /// A program that already ran, with the call policy of its generation.
    #[cfg(all(unix, feature = "process"))]
    Restart { program: Arc<Program>, policy: Arc<CallPolicy> },
}

impl Source {
    /// Returns the kind of plugin if it does not follow from the manifest.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            #[cfg(all(unix, feature = "process"))]
            Self::Restart { .. } => Some(Kind::Process),
            _ => None,
        }
    }

    /// Returns the call policy of code that already ran.
    fn earlier_policy(&self) -> Option<&Arc<CallPolicy>> {
        match self {
            Self::Mapped { policy, .. } => Some(policy),
            #[cfg(all(unix, feature = "process"))]
            Self::Restart { policy, .. } => Some(policy),
            _ => None,
        }
    }
}

/// Constructs an instance of this program from its config.
pub(crate) struct Constructor(pub(crate) Box<ConstructorFn>);

type ConstructorFn = dyn FnOnce(&Config) -> Result<Instance, PluginError> + Send;

impl fmt::Debug for Constructor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constructor").finish_non_exhaustive()
    }
}
