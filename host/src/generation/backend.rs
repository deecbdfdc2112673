//! What runs a generation's calls: code in this process, or a process. The one place that knows
//! that there are two kinds.

use std::sync::Arc;
use std::time::Duration;

use hotbay_plugin::Snapshot;

use crate::boundary::{Image, Instance, Root};
use crate::call::Failure;
use crate::pool::{RunOutcome, WorkerThreads};
#[cfg(unix)]
use crate::supervisor::{Process, Program};

/// Far more than it takes to kill and reap a process and all that it started.
#[cfg(unix)]
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// What runs a generation's calls.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A library, or code compiled in.
    InProcess(Instance),
    /// A process.
    #[cfg(unix)]
    OutOfProcess(Process),
}

/// What is left of a body that has ended.
#[derive(Debug)]
pub(crate) enum UnloadLeftovers {
    /// The code, which is mapped.
    Library(Arc<Image>, Root),
    /// What the process was started from.
    #[cfg(unix)]
    Process(Arc<Program>),
}

impl Backend {
    /// Asks whether the plugin can work.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        match self {
            Self::InProcess(instance) => instance.health(),
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.health(),
        }
    }

    /// Takes the state that is to live through a reload.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        match self {
            Self::InProcess(instance) => instance.snapshot(),
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.snapshot(),
        }
    }

    /// Gives a state to a plugin that was not called yet.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        match self {
            Self::InProcess(instance) => instance.restore(snapshot),
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.restore(snapshot),
        }
    }

    /// Ends the plugin, with what it does at its end if that is `graceful`.
    pub(crate) fn shut_down(&mut self, graceful: bool) -> Result<(), Failure> {
        match self {
            Self::InProcess(instance) => instance.end(graceful),
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.shut_down(graceful),
        }
    }

    /// The image that its code lies in; none if it is a process.
    pub(crate) fn image(&self) -> Option<&Arc<Image>> {
        match self {
            Self::InProcess(instance) => Some(instance.image()),
            #[cfg(unix)]
            Self::OutOfProcess(_) => None,
        }
    }

    /// Runs a job with the body, on the thread that opened its library if there is one, else on
    /// one of the crew's, and waits for it, at most `wait_max`.
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

    /// How long its end may take in all, where the plugin itself has `stop_timeout`: a process
    /// is killed then, and what it started is looked for.
    pub(crate) fn shutdown_timeout(&self, stop_timeout: Duration) -> Duration {
        match self {
            Self::InProcess(_) => stop_timeout,
            #[cfg(unix)]
            Self::OutOfProcess(_) => stop_timeout.saturating_add(KILL_TIMEOUT),
        }
    }

    /// Gives up the body for what is left of it. What was not ended is leaked.
    pub(crate) fn into_leftovers(self) -> UnloadLeftovers {
        match self {
            Self::InProcess(instance) => {
                let root = instance.root();
                UnloadLeftovers::Library(instance.into_image(), root)
            }
            #[cfg(unix)]
            Self::OutOfProcess(process) => UnloadLeftovers::Process(Arc::clone(process.program())),
        }
    }

    /// The contracts that it declares besides its manifest, each with its other names.
    pub(crate) fn contracts(&self) -> Vec<(String, Vec<String>)> {
        match self {
            Self::InProcess(_) => Vec::new(),
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.contracts(),
        }
    }

    /// The socket of its process, if that lies where a second process would want its own.
    pub(crate) fn fixed_socket(&self) -> Option<std::path::PathBuf> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.fixed_socket(),
        }
    }

    /// What of its config is not delivered, in words.
    pub(crate) fn config_notes(&self) -> Vec<String> {
        match self {
            Self::InProcess(_) => Vec::new(),
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.config_notes(),
        }
    }

    /// The process that serves, if it is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(unix)]
            Self::OutOfProcess(process) => process.pid(),
        }
    }

    /// Bytes that the plugin has allocated, where it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        let Self::InProcess(instance) = self else { return None };
        let census = instance.root().census();
        census.counts_bytes.then_some(census.live_bytes)
    }
}
