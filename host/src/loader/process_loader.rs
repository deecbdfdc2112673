//! Starts a plugin as a process: digest → private copy → capabilities → config → launch → location
//! → ready → restore → health. Its capabilities are checked against its manifest before the start.

use std::any::Any;
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hotbay_plugin::ServiceError;
use hotbay_plugin::abi::Record;
use hotbay_process::{
    Capabilities, ContractCall, ContractFuture, Diagnosis, ObserverRef, Prepared, Process,
    ProcessLimits, ProcessObserver, Program, ProgramCopy, Step,
};
use tokio::runtime::Handle;

use super::candidate::Candidate;
use super::confinement::confine;
use super::context::LoaderContext;
use super::contract_check::{check_contracts, check_mapped};
use super::policy::{PluginLimits, check_declared};
use super::sandbox_paths::SandboxHost;
use super::services::PluginServices;
use super::start::{FailureCause, StartFailure, Until, into_backend, ready_to_open};
use crate::artifact::digest::Artifact;
use crate::artifact::private_folder::{FolderLock, sweep};
use crate::artifact::program::StagedProgram;
use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Trust;
use crate::boundary::services::{Services as _, enabled_level};
use crate::config::HostLimits;
use crate::contracts::ContractRegistry;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::generation::{Backend, Parts};
use crate::id::{GenerationId, PluginName};
use crate::slot::Slot;
use crate::worker::RunOutcome;

/// Time for a start besides the time that its program gets: each step has its own limit.
const EXTRA_TIMEOUT: Duration = Duration::from_secs(45);

/// Starts the program in `artifact`, which was verified.
pub(super) fn start(
    context: &LoaderContext,
    candidate: &Candidate,
    artifact: &Artifact,
    limits: &PluginLimits,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Backend, Error> {
    let staging = &context.staging;
    let trust = context.rules.trust();
    let program = stage_program(candidate, artifact, limits, staging, &context.limits, trust)?;
    start_program(context, candidate, program, until, parts, slot)
}

/// Starts a program, confined as it and the host require.
pub(super) fn start_program(
    context: &LoaderContext,
    candidate: &Candidate,
    mut program: Program,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Backend, Error> {
    let host = SandboxHost {
        policy: &context.confinement,
        trust: context.rules.trust(),
        staging_dir: context.staging.parent(),
        runner: context.runner.as_deref(),
        plugin_dirs: &context.plugin_dirs,
        environment: &context.inherit_env,
    };
    confine(candidate, host, &mut program)?;
    parts.is_confined = program.sandbox.is_some();
    start_staged(context, candidate, Arc::new(program), until, parts, slot)
}

/// Makes a private copy of the program in `artifact`, without environment variables of the host.
pub(super) fn stage_program(
    candidate: &Candidate,
    artifact: &Artifact,
    limits: &PluginLimits,
    staging: &Arc<StagingArea>,
    host: &HostLimits,
    trust: Trust,
) -> Result<Program, Error> {
    let manifest = &candidate.manifest;
    let (Some(folder), Some(program)) = (&candidate.folder, manifest.command().first()) else {
        return Err(no_folder(candidate));
    };
    check_executable(candidate, artifact.path())?;
    let name = manifest.name().as_str();
    let staged = staging
        .stage_program(
            artifact,
            folder,
            Path::new(program),
            name,
            trust,
            candidate.signature.list(),
        )
        .map_err(|error| {
            candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error)
        })?;
    self::program(candidate, Arc::new(staged), artifact.path().to_owned(), limits, host)
}

#[cold]
fn no_folder(candidate: &Candidate) -> Error {
    let message = "a program needs a plugin folder";
    candidate.failed(LoadStep::Stage, ErrorKind::Unsupported).caused_by(message)
}

/// Returns the program that runs `copy`, without environment variables of the host.
pub(super) fn program(
    candidate: &Candidate,
    copy: Arc<dyn ProgramCopy>,
    original: PathBuf,
    limits: &PluginLimits,
    host: &HostLimits,
) -> Result<Program, Error> {
    let manifest = &candidate.manifest;
    let folder = candidate.folder.as_ref().ok_or_else(|| no_folder(candidate))?;
    // An instance in memory would be lost, which does not happen to a library in this process.
    let idle_timeout = match candidate.is_isolated() {
        true => Duration::ZERO,
        false => host.process_idle_timeout,
    };
    Ok(Program {
        name: manifest.name().clone(),
        copy,
        original,
        args: manifest.command().iter().skip(1).map(Into::into).collect(),
        folder: folder.clone(),
        environment: Vec::new(),
        config: manifest.config().clone(),
        provides: manifest.provides().to_vec(),
        socket_type: manifest.socket_type(),
        limits: ProcessLimits {
            memory_bytes: limits.memory_bytes,
            descriptors: host.max_process_descriptors,
            // The system counts whole seconds.
            cpu_s: host.max_process_cpu_time.map(|time| time.as_secs_f64().ceil() as u64),
            start_timeout: host.start_timeout,
            stop_timeout: host.stop_timeout,
            idle_timeout,
            health_timeout: host.process_health_timeout,
            max_response_bytes: limits.output_bytes,
            max_snapshot_bytes: host.max_snapshot_bytes,
        },
        sandbox: None,
        own_folder,
    })
}

impl ProgramCopy for StagedProgram {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.folder()]
    }

    fn path(&self) -> PathBuf {
        Self::path(self)
    }

    fn sha256(&self) -> [u8; 32] {
        Self::sha256(self)
    }

    fn ensure_intact(&self) -> Result<(), Diagnosis> {
        Self::ensure_intact(self).map_err(|error| {
            let message = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            Diagnosis { message, hint: error.hint() }
        })
    }
}

/// Creates a folder that this host owns until the returned value is dropped.
fn own_folder(
    make: &dyn Fn() -> io::Result<PathBuf>,
) -> io::Result<(PathBuf, Box<dyn Any + Send + Sync>)> {
    let (path, lock) = FolderLock::create(make, PathBuf::as_path)?;
    Ok((path, Box::new(lock)))
}

/// Starts a program that is already staged. If it was started before, it is started with the
/// capabilities that it had then while it prints them again.
pub(super) fn start_staged(
    context: &LoaderContext,
    candidate: &Candidate,
    program: Arc<Program>,
    until: Until,
    parts: &mut Parts,
    slot: &Arc<Slot>,
) -> Result<Backend, Error> {
    let runtime = context.processes.runtime(sweep).map_err(|error| {
        candidate.failed(LoadStep::Launch, ErrorKind::StartFailed).caused_by(error)
    })?;
    let timeout = context.limits.start_timeout.saturating_add(EXTRA_TIMEOUT);
    let services = PluginServices::new(context, candidate, parts.id, slot);
    let observer: ObserverRef =
        Arc::new(PluginProcessObserver::new(services, candidate, parts.id, slot));
    let policy = Arc::clone(&parts.policy);
    let expected = context.processes.expected_capabilities(&program).filter(|expected| {
        check_identity(candidate, expected).is_ok()
            && check_served(candidate, expected, Some(&context.contracts)).is_ok()
            && check_declared(context, candidate, expected, parts).is_ok()
    });
    parts.runtime = Some(runtime.clone());
    let launching = Launching { program, observer, runtime };
    let (found, prepared, until) = match expected {
        None => {
            let launching = launching.clone();
            match parts.workers.run(timeout, move || launching.query_and_prepare()) {
                RunOutcome::Completed((found, prepared)) => (found, Some(prepared), until),
                RunOutcome::TimedOut => (Err(capabilities_timeout()), None, until),
                RunOutcome::SpawnFailed(error) => {
                    let failed = candidate.failed(LoadStep::Capabilities, ErrorKind::StartFailed);
                    return Err(failed.caused_by(error));
                }
            }
        }
        Some(expected) => {
            let launching = launching.clone();
            let start = move || launching.start_expecting(expected, until);
            let started = match parts.workers.run(timeout, start) {
                RunOutcome::Completed(Expected::Differs(found, until)) => Err((found, until)),
                RunOutcome::Completed(Expected::Found(started)) => {
                    Ok(RunOutcome::Completed(started))
                }
                RunOutcome::TimedOut => Ok(RunOutcome::TimedOut),
                RunOutcome::SpawnFailed(error) => Ok(RunOutcome::SpawnFailed(error)),
            };
            match started {
                Ok(outcome) => return into_backend(outcome, context, candidate, parts),
                Err((found, until)) => (found, None, until),
            }
        }
    };
    parts.policy = policy;
    let capabilities = found.map_err(|failed| not_started(candidate, failed))?;
    check_identity(candidate, &capabilities)?;
    check_served(candidate, &capabilities, Some(&context.contracts))?;
    check_declared(context, candidate, &capabilities, parts)?;
    context.processes.expect_capabilities(&launching.program, capabilities.clone());
    let start = move || launching.start(capabilities, prepared, until);
    into_backend(parts.workers.run(timeout, start), context, candidate, parts)
}

/// A program that is being started; its methods block a thread.
#[derive(Clone)]
struct Launching {
    program: Arc<Program>,
    observer: ObserverRef,
    runtime: Handle,
}

/// The outcome of a start with the capabilities that a program is expected to have.
enum Expected {
    /// It has them.
    Found(Result<Backend, StartFailure>),
    /// It has others, or printed none; its process was stopped.
    Differs(Result<Capabilities, hotbay_process::Error>, Until),
}

impl Launching {
    /// Queries the capabilities, and prepares the launch meanwhile.
    fn query_and_prepare(
        self,
    ) -> (Result<Capabilities, hotbay_process::Error>, Result<Prepared, hotbay_process::Error>)
    {
        let program = Arc::clone(&self.program);
        let query = self.runtime.spawn(async move { program.capabilities().await });
        let prepared =
            self.run(hotbay_process::prepare(self.program.clone(), self.observer.clone()));
        let found = self.runtime.block_on(query);
        (found.unwrap_or_else(|_| Err(capabilities_timeout())), prepared)
    }

    /// Starts the program and queries its capabilities meanwhile.
    fn start_expecting(self, expected: Capabilities, until: Until) -> Expected {
        let (program, observer) = (Arc::clone(&self.program), Arc::clone(&self.observer));
        let task = hotbay_process::supervise_expecting(program, expected.clone(), observer);
        let (started, found) = match run_on_runtime(&self.runtime, task) {
            Some(both) => both,
            None => (Err(capabilities_timeout()), Err(capabilities_timeout())),
        };
        if found.as_ref().is_ok_and(|found| *found == expected) {
            return Expected::Found(ready(started, until));
        }
        if let Ok(process) = started {
            // It was never called, so its errors do not matter.
            let _ = process.shut_down(false);
        }
        Expected::Differs(found, until)
    }

    /// Starts the program.
    fn start(
        self,
        capabilities: Capabilities,
        prepared: Option<Result<Prepared, hotbay_process::Error>>,
        until: Until,
    ) -> Result<Backend, StartFailure> {
        let (program, observer) = (Arc::clone(&self.program), Arc::clone(&self.observer));
        let started = self.run(async move {
            let prepared = match prepared {
                Some(prepared) => prepared,
                None => hotbay_process::prepare(program.clone(), observer.clone()).await,
            };
            hotbay_process::supervise(program, capabilities, observer, prepared).await
        });
        ready(started, until)
    }

    fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, hotbay_process::Error>> + Send + 'static,
    ) -> Result<T, hotbay_process::Error> {
        run_on_runtime(&self.runtime, task).unwrap_or_else(|| Err(capabilities_timeout()))
    }
}

/// Restores the state of a started process, and checks its health, as far as the load goes.
fn ready(
    started: Result<Process, hotbay_process::Error>,
    until: Until,
) -> Result<Backend, StartFailure> {
    let backend = started.map(Backend::OutOfProcess).map_err(|error| StartFailure {
        step: LoadStep::of_process(error.step()),
        cause: FailureCause::Other(error.into()),
        leftovers: None,
    })?;
    match until {
        Until::Started => Ok(backend),
        Until::Ready(state) => ready_to_open(backend, state),
    }
}

/// Runs a task on the runtime's threads, which live as long as the host: on Linux a process is
/// killed when the thread that started it exits. Returns `None` if the runtime stops.
fn run_on_runtime<T: Send + 'static>(
    runtime: &Handle,
    task: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    runtime.block_on(runtime.spawn(task)).ok()
}

fn not_started(candidate: &Candidate, error: hotbay_process::Error) -> Error {
    let step = LoadStep::of_process(error.step());
    candidate.failed(step, ErrorKind::StartFailed).caused_by(error)
}

fn capabilities_timeout() -> hotbay_process::Error {
    let message = "`capabilities` did not finish in time and could not be stopped";
    hotbay_process::Error::at(Step::Capabilities, message)
}

/// Checks the mode of the original, since the copy is always executable.
pub(super) fn check_executable(candidate: &Candidate, program: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || candidate.failed(LoadStep::Launch, ErrorKind::StartFailed);
    let metadata = program.metadata().map_err(|error| failed().caused_by(error))?;
    if metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    let program = program.display();
    Err(failed()
        .caused_by(format!("`{program}` is not executable"))
        .with_hint(format!("run `chmod +x {program}`")))
}

/// Checks that name and version that a program reports match its manifest.
pub(super) fn check_identity(
    candidate: &Candidate,
    capabilities: &Capabilities,
) -> Result<(), Error> {
    let manifest = &candidate.manifest;
    let version = manifest.version().to_string();
    let expected = [
        ("name", &capabilities.name, manifest.package()),
        ("version", &capabilities.version, version.as_str()),
    ];
    for (what, found, expected) in expected {
        if let Some(found) = found
            && found != expected
        {
            let failed = candidate.failed(LoadStep::Version, ErrorKind::Incompatible);
            let message = format!(
                "the program reports {what} `{found}`, but plugin.json states `{expected}`"
            );
            let hint = "rebuild the program, or fix plugin.json";
            return Err(failed.caused_by(message).with_hint(hint));
        }
    }
    Ok(())
}

/// Checks the contracts that a program serves.
pub(super) fn check_served(
    candidate: &Candidate,
    capabilities: &Capabilities,
    contracts: Option<&ContractRegistry>,
) -> Result<(), Error> {
    let served = capabilities.contracts.iter().map(|served| &served.text);
    check_contracts(candidate, served.clone(), contracts, LoadStep::Capabilities)?;
    check_mapped(candidate, served, &capabilities.endpoints, contracts)
}

pub(super) struct PluginProcessObserver {
    services: PluginServices,
    name: PluginName,
    generation: GenerationId,
    slot: Weak<Slot>,
}

impl PluginProcessObserver {
    pub(super) fn new(
        services: PluginServices,
        candidate: &Candidate,
        generation: GenerationId,
        slot: &Arc<Slot>,
    ) -> Self {
        Self {
            services,
            name: candidate.manifest.name().clone(),
            generation,
            slot: Arc::downgrade(slot),
        }
    }
}

impl ProcessObserver for PluginProcessObserver {
    fn wrote(&self, record: &Record<'_>) {
        // The service counts dropped lines.
        let _ = self.services.write(record);
    }

    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError> {
        self.services.log(record)
    }

    fn log_level(&self) -> u32 {
        if self.services.may_log() { enabled_level() } else { 0 }
    }

    fn thread_panicked(&self, message: &str, location: &str) {
        self.services.thread_panicked(message, location);
    }

    fn call_contract(&self, call: ContractCall) -> ContractFuture {
        self.services.contracts.call_of_program(call)
    }

    fn exited(&self, pid: u32, Diagnosis { message: reason, hint }: Diagnosis) {
        let Some(slot) = self.slot.upgrade() else { return };
        slot.counters.exits.fetch_add(1, Ordering::Relaxed);
        slot.counters.faults.fetch_add(1, Ordering::Relaxed);
        slot.health.emit(HostEvent::ChildExited {
            plugin: self.name.clone(),
            generation: self.generation,
            pid,
            reason,
            hint,
        });
        slot.health.record_fault(self.generation.get(), false);
    }

    fn listens_beyond_loopback(&self, pid: u32, address: SocketAddr) {
        let generation = self.generation;
        tracing::warn!(
            plugin = %self.name, generation = generation.get(), pid, %address,
            hint = "listen on 127.0.0.1 or a Unix socket",
            "the process listens on an address that other machines may reach"
        );
        let Some(slot) = self.slot.upgrade() else { return };
        let plugin = self.name.clone();
        slot.health.emit(HostEvent::ListensBeyondLoopback { plugin, generation, pid, address });
    }

    fn restarted(&self, pid: u32, after: Duration) {
        let Some(slot) = self.slot.upgrade() else { return };
        slot.counters.restarts.fetch_add(1, Ordering::Relaxed);
        let (plugin, generation) = (self.name.clone(), self.generation);
        slot.health.emit(HostEvent::Restarted { plugin, generation, pid, after });
    }

    fn not_restarted(&self, Diagnosis { message: reason, hint }: &Diagnosis) {
        tracing::warn!(
            plugin = %self.name,
            generation = self.generation.get(),
            reason,
            hint = hint.as_deref()
        );
        if let Some(slot) = self.slot.upgrade() {
            slot.health.record_fault(self.generation.get(), false);
        }
    }
}
