//! A start in a process: digest → private copy → capabilities → config → launch → location →
//! ready → restore → health. What it says it can do is held against its manifest before it is
//! started for good.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Workshop;
use super::candidate::Candidate;
use super::clamp::PluginLimits;
use super::inside::{Cause, Failed, body_of, readied};
use super::load::Until;
use super::overseer::PluginOverseer;
use super::terms::check_declared;
use crate::artifact::digest::Artifact;
use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Trust;
use crate::config::HostLimits;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::{Body, Parts};
use crate::pool::RunOutcome;
use crate::slot::Slot;
use crate::supervisor::{
    self, Capabilities, NotStarted, Overseen, ProcessLimits, Program, allowed,
};

/// What a start may take besides the time that its program is given: each step has its own limit.
const BESIDES: Duration = Duration::from_secs(45);

/// Starts the program that `artifact` is.
pub(super) fn start(
    workshop: &Workshop,
    candidate: &Candidate,
    artifact: &Artifact,
    limits: &PluginLimits,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Body, Error> {
    let rules = &workshop.rules;
    let manifest = &candidate.manifest;
    let digest = manifest.sha256().map(|digest| *digest.as_bytes());
    artifact.verify(digest, manifest.length(), rules.allow_unverified).map_err(|error| {
        candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error)
    })?;
    super::terms::check_schemas(workshop, candidate, parts)?;
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
            descriptors: host.process_descriptors_max,
            cpu_s: host.process_cpu_s_max,
            start_wait_max: host.start_wait_max,
            stop_wait_max: host.stop_wait_max,
            idle_max: host.process_idle_max,
            health_timeout: host.process_health_timeout,
            answer_bytes_max: limits.output_bytes,
            snapshot_bytes_max: host.snapshot_bytes_max,
        },
    })
}

/// Starts a program that was staged already.
pub(super) fn again(
    workshop: &Workshop,
    candidate: &Candidate,
    program: Arc<Program>,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Body, Error> {
    let runtime = workshop
        .processes
        .runtime()
        .map_err(|error| candidate.failed(LoadStep::Launch, ErrorKind::Start).caused_by(error))?;
    let wait_max = workshop.limits.start_wait_max.saturating_add(BESIDES);
    let (asked, handle) = (Arc::clone(&program), runtime.clone());
    let told = parts.crew.run(wait_max, move || {
        let task = async move { supervisor::capabilities(&asked).await };
        on_its_threads(&handle, task).unwrap_or_else(|| Err(still_asked()))
    });
    let capabilities = match told {
        RunOutcome::Completed(told) => told.map_err(|failed| not_started(candidate, failed))?,
        RunOutcome::TimedOut => return Err(not_started(candidate, still_asked())),
        RunOutcome::SpawnFailed(error) => {
            let failed = candidate.failed(LoadStep::Capabilities, ErrorKind::Start);
            return Err(failed.caused_by(error));
        }
    };
    check_identity(candidate, &capabilities)?;
    check_declared(workshop, candidate, &capabilities, parts)?;
    let lines_per_s_max = workshop.limits.log_lines_per_s_max;
    let overseer: Overseen =
        Arc::new(PluginOverseer::new(candidate, parts.id, slot, lines_per_s_max));
    parts.tasks = Some(runtime.clone());
    let started =
        parts.crew.run(wait_max, move || {
            let task = supervisor::begin(program, capabilities, overseer);
            let begun = on_its_threads(&runtime, task).unwrap_or_else(|| Err(still_asked()));
            let body = begun.map(Body::Apart).map_err(|NotStarted { step, message, .. }| {
                Failed { step, cause: Cause::Told(message), left: None }
            })?;
            match until {
                Until::Started => Ok(body),
                Until::Ready(state) => readied(body, state),
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
    candidate.failed(step, ErrorKind::Start).caused_by(message)
}

fn still_asked() -> NotStarted {
    let message = "`capabilities` did not end, and could not be ended".to_owned();
    NotStarted::at(LoadStep::Capabilities, message)
}

/// The copy can be run whatever the file says, so the file is asked.
fn check_executable(candidate: &Candidate, program: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || candidate.failed(LoadStep::Launch, ErrorKind::Start);
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
