//! The backend of a generation: code in this process, or a process. Only this module knows both
//! kinds.

use std::sync::Arc;
use std::time::Duration;

#[cfg(all(unix, feature = "process"))]
use hotbay_manifest::MappedMethod;
use hotbay_plugin::Snapshot;
use hotbay_plugin::contract::ContractText;
#[cfg(all(unix, feature = "process"))]
use hotbay_plugin::contract::internal::MethodKind;
use hotbay_plugin::contract::internal::StartExecuteFn;
#[cfg(all(unix, feature = "process"))]
use hotbay_plugin::contract::{Binding, Format, bind};
#[cfg(all(unix, feature = "process"))]
use hotbay_process::{Process, Program};
use hotbay_sandbox::Confinement;
use tokio::runtime::Handle;

use super::bindings::MethodBinding;
use crate::boundary::{BindError, CallMeter, Contracts, Image, Instance, Root};
use crate::call::Failure;
#[cfg(all(unix, feature = "process"))]
use crate::call::MethodRequest;
use crate::contracts::Offer;
#[cfg(all(unix, feature = "process"))]
use crate::contracts::{bind_mapped, mapped_hint};
use crate::metrics::ProcessUsage;
use crate::worker::{RunOutcome, WorkerThreads};

/// The processes of this machine, read once for all plugins that are measured together.
#[derive(Debug, Default)]
pub(crate) struct ProcessTable(#[cfg(all(unix, feature = "process"))] hotbay_process::ProcessTable);

/// Finds the methods of a caller's contract in a program.
#[cfg(all(unix, feature = "process"))]
fn bind_process(
    process: &Process,
    caller: &ContractText,
) -> Result<Box<[MethodBinding]>, BindError> {
    let mut served = process.served_contracts().iter();
    let Some(served) = served.find(|served| served.text.name == caller.name) else {
        let mapped = process.program().mapped(&caller.name).ok_or(BindError::NotServed)?;
        let bindings = bind_mapped(caller, mapped).map_err(|error| {
            let hint = mapped_hint(mapped).into();
            BindError::Incompatible { error, hint }
        })?;
        return Ok(bindings.into_iter().map(mapped_binding).collect());
    };
    let bindings = bind(caller, &served.text).map_err(BindError::incompatible)?;
    let can_be_postcard = |at: usize| {
        let method = &served.text.methods[at];
        // The items of a stream are JSON.
        method.kind != MethodKind::Stream && !method.output.has_empty_items()
    };
    let bound = bindings.into_iter().map(|binding| match binding {
        Binding::Same(at) if served.accepts_postcard && can_be_postcard(at) => {
            MethodBinding::Remote(Format::Postcard)
        }
        Binding::Same(_) | Binding::Converted(_) => MethodBinding::Remote(Format::Json),
        Binding::Missing => MethodBinding::Missing,
    });
    Ok(bound.collect())
}

#[cfg(all(unix, feature = "process"))]
fn mapped_binding(binding: Binding) -> MethodBinding {
    match binding {
        Binding::Same(_) | Binding::Converted(_) => MethodBinding::Remote(Format::Json),
        Binding::Missing => MethodBinding::Missing,
    }
}

/// Time limit for killing and reaping a process and all that it started; far more than needed.
#[cfg(all(unix, feature = "process"))]
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// The code or process that runs a generation's calls.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A library, or compiled-in code.
    InProcess(Instance),
    /// A process.
    #[cfg(all(unix, feature = "process"))]
    OutOfProcess(Process),
}

/// Returns the runtime that the calling thread is in, if it can wait for the sockets of a process.
pub(crate) fn caller_runtime() -> Option<Handle> {
    #[cfg(all(unix, feature = "process"))]
    return hotbay_process::caller_runtime();
    #[cfg(not(all(unix, feature = "process")))]
    None
}

/// The remains of a backend after its shutdown.
#[derive(Debug)]
pub(crate) enum UnloadLeftovers {
    /// The mapped code.
    Library(Arc<Image>, Root),
    /// The program that the process was started from.
    #[cfg(all(unix, feature = "process"))]
    Process(Arc<Program>),
}

impl Backend {
    /// Checks the health of the plugin.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        match self {
            Self::InProcess(instance) => instance.health(),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => Ok(process.health()?),
        }
    }

    /// Takes the state to hand over at a reload.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        match self {
            Self::InProcess(instance) => instance.snapshot(),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => Ok(process.snapshot()?),
        }
    }

    /// Restores the state of a plugin that was not called yet.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        match self {
            Self::InProcess(instance) => instance.restore(snapshot),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => Ok(process.restore(snapshot)?),
        }
    }

    /// Stops the plugin; runs its shutdown code if `graceful`.
    pub(crate) fn shut_down(&mut self, graceful: bool) -> Result<(), Failure> {
        match self {
            Self::InProcess(instance) => instance.end(graceful),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => Ok(process.shut_down(graceful)?),
        }
    }

    /// Returns the image of the code, or `None` for a process.
    pub(crate) fn image(&self) -> Option<&Arc<Image>> {
        match self {
            Self::InProcess(instance) => Some(instance.image()),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(_) => None,
        }
    }

    /// Runs `job` with the backend and waits for it, at most `timeout`. It runs on the thread that
    /// opened the library if there is one, else on a thread of `workers`.
    pub(crate) fn run<T: Send + 'static>(
        self,
        workers: &WorkerThreads,
        timeout: Duration,
        job: impl FnOnce(Self) -> T + Send + 'static,
    ) -> RunOutcome<T> {
        match self.image().map(Arc::clone) {
            Some(image) => image.run(workers, timeout, move || job(self)),
            None => workers.run(timeout, move || job(self)),
        }
    }

    /// Returns the time limit of the whole shutdown if the plugin itself has `stop_timeout`: a
    /// process is killed after that, and its descendants are reaped.
    pub(crate) fn shutdown_timeout(&self, stop_timeout: Duration) -> Duration {
        match self {
            Self::InProcess(_) => stop_timeout,
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(_) => stop_timeout.saturating_add(KILL_TIMEOUT),
        }
    }

    /// Converts the backend into its leftovers. A plugin that was not shut down is leaked.
    pub(crate) fn into_leftovers(self) -> UnloadLeftovers {
        match self {
            Self::InProcess(instance) => {
                let root = instance.root();
                UnloadLeftovers::Library(instance.into_image(), root)
            }
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => UnloadLeftovers::Process(Arc::clone(process.program())),
        }
    }

    /// Finds the methods of a caller's contract.
    pub(super) fn bind(&self, caller: &ContractText) -> Result<Box<[MethodBinding]>, BindError> {
        match self {
            Self::InProcess(instance) => {
                let contracts = instance.image().contracts().ok_or(BindError::NotServed)?;
                Ok(contracts.bind(caller)?.into_iter().map(MethodBinding::from).collect())
            }
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => bind_process(process, caller),
        }
    }

    /// Returns the endpoint that a manifest maps a method onto.
    #[cfg(all(unix, feature = "process"))]
    pub(super) fn mapped(&self, method: &MethodRequest<'_>) -> Option<&MappedMethod> {
        let Self::OutOfProcess(process) = self else { return None };
        let mapped = process.program().mapped(&method.contract.text.name)?;
        mapped.methods.get(&method.method()?.name)
    }

    /// Returns the text of a contract that it serves.
    pub(super) fn contract_text(&self, name: &str) -> Option<ContractText> {
        let is_named = |text: &&ContractText| text.name == name;
        match self {
            Self::InProcess(instance) => {
                instance.image().contracts()?.texts().find(is_named).cloned()
            }
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => {
                let mut served = process.served_contracts().iter().map(|served| &served.text);
                served.find(is_named).cloned()
            }
        }
    }

    /// Returns name and version of each contract that it serves, and the hint for one that it does
    /// not serve.
    pub(super) fn served_contracts(&self) -> (Vec<String>, &'static str) {
        let named = |text: &ContractText| format!("`{}` {}", text.name, text.version);
        match self {
            Self::InProcess(instance) => {
                let contracts = instance.image().contracts().into_iter();
                let hint = "add the contract to `contracts` of `export_plugin!`, or to `Serves` if \
                            the plugin is compiled in";
                (contracts.flat_map(Contracts::texts).map(named).collect(), hint)
            }
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => {
                let described = process.served_contracts().iter().map(|served| named(&served.text));
                let provides = process.program().provides.iter();
                let mapped = provides.filter(|provided| !provided.methods.is_empty());
                let mapped = mapped.map(|provided| {
                    let version = &provided.version;
                    format!("`{}` {}.{}", provided.contract, version.major, version.minor)
                });
                let hint = "add the contract to `contracts` of `serve_plugin!`, or map its methods \
                            onto endpoints: `provides` with `methods` in plugin.json";
                (described.chain(mapped).collect(), hint)
            }
        }
    }

    /// Returns the function that starts a call of an async plugin as a task.
    pub(crate) fn start_execute(&self) -> Option<StartExecuteFn> {
        match self {
            Self::InProcess(instance) => instance.root().start_execute(),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(_) => None,
        }
    }

    /// Returns the contracts that it declares besides its manifest.
    pub(crate) fn offers(&self) -> Vec<Offer> {
        match self {
            Self::InProcess(instance) => {
                let contracts = instance.image().contracts();
                contracts.into_iter().flat_map(Contracts::texts).map(Offer::typed).collect()
            }
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => {
                let typed = process.served_contracts().iter();
                let named = process.contracts().into_iter();
                let named =
                    named.map(|(contract, aliases)| Offer { contract, version: None, aliases });
                typed.map(|served| Offer::typed(&served.text)).chain(named).collect()
            }
        }
    }

    /// Returns the socket of its process, if a second process would use the same path.
    pub(crate) fn fixed_socket(&self) -> Option<std::path::PathBuf> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => process.fixed_socket(),
        }
    }

    /// Returns what is enforced of its sandbox; `None` if it has none.
    pub(crate) fn confinement(&self) -> Option<Confinement> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => process.confinement(),
        }
    }

    /// Returns notes about parts of its config that are not delivered.
    pub(crate) fn config_notes(&self) -> Vec<String> {
        match self {
            Self::InProcess(_) => Vec::new(),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => process.config_notes(),
        }
    }

    /// Returns the process id, if it is a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => process.pid(),
        }
    }

    /// Returns what its process uses, if it is a process. Reads `/proc`.
    #[cfg_attr(
        not(all(unix, feature = "process")),
        allow(unused_variables, reason = "only processes are measured")
    )]
    pub(crate) fn process_usage(&self, table: &ProcessTable) -> Option<ProcessUsage> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(process) => {
                let used = process.usage(&table.0)?;
                Some(ProcessUsage {
                    memory_bytes: used.memory_bytes,
                    peak_memory_bytes: used.peak_memory_bytes,
                    cpu_time: used.cpu_time,
                })
            }
        }
    }

    /// Returns the functions that measure its calls, if it counts bytes.
    pub(crate) fn call_meter(&self) -> Option<CallMeter> {
        match self {
            Self::InProcess(instance) => instance.root().call_meter(),
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(_) => None,
        }
    }

    /// Returns the bytes that the plugin has allocated, if it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        #[cfg_attr(
            not(all(unix, feature = "process")),
            allow(
                clippy::infallible_destructuring_match,
                reason = "with processes it is fallible"
            )
        )]
        let instance = match self {
            Self::InProcess(instance) => instance,
            #[cfg(all(unix, feature = "process"))]
            Self::OutOfProcess(_) => return None,
        };
        let census = instance.root().census();
        census.counts_bytes.then_some(census.live_bytes)
    }
}
