//! A start in a process: digest → private copy → capabilities → config → launch → location →
//! ready → restore → health. What it says it can do is held against its manifest before it is
//! started for good.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::LoaderContext;
use super::candidate::Candidate;
use super::effective_limits::PluginLimits;
use super::library_loader::{Cause, Failed, body_of, ready_to_open};
use super::load::Until;
use super::policy::check_declared;
use super::process_observer::PluginProcessObserver;
use crate::artifact::digest::Artifact;
use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Trust;
use crate::config::HostLimits;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::{Backend, Parts};
use crate::pool::RunOutcome;
use crate::slot::Slot;
use crate::supervisor::{
    self, Capabilities, NotStarted, ObserverRef, ProcessLimits, Program, allowed,
};

/// What a start may take besides the time that its program is given: each step has its own limit.
const BESIDES: Duration = Duration::from_secs(45);

/// Starts the program that `artifact` is.
pub(super) fn start(
    workshop: &LoaderContext,
    candidate: &Candidate,
    artifact: &Artifact,
    limits: &PluginLimits,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Backend, Error> {
    let rules = &workshop.rules;
    let manifest = &candidate.manifest;
    let digest = manifest.sha256().map(|digest| *digest.as_bytes());
    artifact.verify(digest, manifest.length(), rules.allow_unverified).map_err(|error| {
        candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error)
    })?;
    super::policy::check_schemas(workshop, candidate, parts)?;
    let staging = &workshop.staging;
    let program = staged(candidate, artifact, limits, staging, &workshop.limits, rules.trust())?;
    let environment = allowed(std::env::vars_os(), &workshop.environment);
    let program = Arc::new(Program { environment, ..program });
    again(workshop, candidate, program, until, parts, slot)
}

/// A private copy of the program that `artifact` is, with nothing of the host's environment.
pub(super) fn staged(
    candidate: &Candidate,
    artifact: &Artifact,
    limits: &PluginLimits,
    staging: &Arc<StagingArea>,
    host: &HostLimits,
    trust: Trust,
) -> Result<Program, Error> {
    let manifest = &candidate.manifest;
    let (Some(folder), [program, args @ ..]) = (&candidate.folder, manifest.command()) else {
        let message = "it has no folder, and a program lies in one";
        return Err(candidate.failed(LoadStep::Stage, ErrorKind::Unsupported).caused_by(message));
    };
    check_executable(candidate, artifact.path())?;
    let name = manifest.name();
    let staged =
        staging.stage_program(artifact, folder, Path::new(program), name.as_str(), trust).map_err(
            |error| candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error),
        )?;
    Ok(Program {
        name: name.clone(),
        staged: Arc::new(staged),
        original: artifact.path().to_owned(),
        args: args.iter().map(Into::into).collect(),
        folder: folder.clone(),
        environment: Vec::new(),
        config: manifest.config().clone(),
        socket_type: manifest.socket_type().as_str(),
        limits: ProcessLimits {
            memory_bytes: limits.memory_bytes,
            descriptors: host.max_process_descriptors,
            cpu_s: host.max_process_cpu_seconds,
            start_timeout: host.start_timeout,
            stop_timeout: host.stop_timeout,
            idle_timeout: host.process_idle_timeout,
            health_timeout: host.process_health_timeout,
            max_response_bytes: limits.output_bytes,
            max_snapshot_bytes: host.max_snapshot_bytes,
        },
    })
}

/// Starts a program that was staged already.
pub(super) fn again(
    workshop: &LoaderContext,
    candidate: &Candidate,
    program: Arc<Program>,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Backend, Error> {
    let runtime = workshop.processes.runtime().map_err(|error| {
        candidate.failed(LoadStep::Launch, ErrorKind::StartFailed).caused_by(error)
    })?;
    let wait_max = workshop.limits.start_timeout.saturating_add(BESIDES);
    let (asked, handle) = (Arc::clone(&program), runtime.clone());
    let told = parts.workers.run(wait_max, move || {
        let task = async move { supervisor::capabilities(&asked).await };
        on_its_threads(&handle, task).unwrap_or_else(|| Err(still_asked()))
    });
    let capabilities = match told {
        RunOutcome::Completed(told) => told.map_err(|failed| not_started(candidate, failed))?,
        RunOutcome::TimedOut => return Err(not_started(candidate, still_asked())),
        RunOutcome::SpawnFailed(error) => {
            let failed = candidate.failed(LoadStep::Capabilities, ErrorKind::StartFailed);
            return Err(failed.caused_by(error));
        }
    };
    check_identity(candidate, &capabilities)?;
    check_declared(workshop, candidate, &capabilities, parts)?;
    let lines_per_s_max = workshop.limits.max_log_lines_per_second;
    let overseer: ObserverRef =
        Arc::new(PluginProcessObserver::new(candidate, parts.id, slot, lines_per_s_max));
    parts.runtime = Some(runtime.clone());
    let started = parts.workers.run(wait_max, move || {
        let task = supervisor::begin(program, capabilities, overseer);
        let begun = on_its_threads(&runtime, task).unwrap_or_else(|| Err(still_asked()));
        let body =
            begun.map(Backend::OutOfProcess).map_err(|NotStarted { step, message, .. }| {
                Failed { step, cause: Cause::Message(message), left: None }
            })?;
        match until {
            Until::Started => Ok(body),
            Until::Ready(state) => ready_to_open(body, state),
        }
    });
    body_of(started, workshop, candidate, parts)
}

/// Runs a task on the runtime's threads, which live as long as the host: on Linux a process is
/// killed when the thread ends that started it. None: the runtime ends.
fn on_its_threads<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    task: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    runtime.block_on(runtime.spawn(task)).ok()
}

fn not_started(candidate: &Candidate, NotStarted { step, message, .. }: NotStarted) -> Error {
    candidate.failed(step, ErrorKind::StartFailed).caused_by(message)
}

fn still_asked() -> NotStarted {
    let message = "`capabilities` did not end, and could not be ended".to_owned();
    NotStarted::at(LoadStep::Capabilities, message)
}

/// The copy can be run whatever the file says, so the file is asked.
fn check_executable(candidate: &Candidate, program: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || candidate.failed(LoadStep::Launch, ErrorKind::StartFailed);
    let metadata = program.metadata().map_err(|error| failed().caused_by(error))?;
    if metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    let program = program.display();
    Err(failed().caused_by(format!("`{program}` is not executable; `chmod +x` it")))
}

/// What a program of ours says it is has to be what its manifest says.
pub(super) fn check_identity(
    candidate: &Candidate,
    capabilities: &Capabilities,
) -> Result<(), Error> {
    let manifest = &candidate.manifest;
    let version = manifest.version().to_string();
    let wanted = [
        ("name", &capabilities.name, manifest.package()),
        ("version", &capabilities.version, version.as_str()),
    ];
    for (what, found, wanted) in wanted {
        if let Some(found) = found
            && found != wanted
        {
            let failed = candidate.failed(LoadStep::Version, ErrorKind::Incompatible);
            let message = format!(
                "the program says that its {what} is `{found}`, its manifest says `{wanted}`; \
                 build it again, or correct plugin.json"
            );
            return Err(failed.caused_by(message));
        }
    }
    Ok(())
}
