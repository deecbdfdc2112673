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
const KILL_WAIT_MAX: Duration = Duration::from_secs(30);

/// What runs a generation's calls.
#[derive(Debug)]
pub(crate) enum Body {
    /// A library, or code compiled in.
    Inside(Instance),
    /// A process.
    #[cfg(unix)]
    Apart(Process),
}

/// What is left of a body that has ended.
#[derive(Debug)]
pub(crate) enum Remains {
    /// The code, which is mapped.
    Code(Arc<Image>, Root),
    /// What the process was started from.
    #[cfg(unix)]
    Program(Arc<Program>),
}

impl Body {
    /// Asks whether the plugin can work.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        match self {
            Self::Inside(instance) => instance.health(),
            #[cfg(unix)]
            Self::Apart(process) => process.health(),
        }
    }

    /// Takes the state that is to live through a reload.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        match self {
            Self::Inside(instance) => instance.snapshot(),
            #[cfg(unix)]
            Self::Apart(process) => process.snapshot(),
        }
    }

    /// Gives a state to a plugin that was not called yet.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        match self {
            Self::Inside(instance) => instance.restore(snapshot),
            #[cfg(unix)]
            Self::Apart(process) => process.restore(snapshot),
        }
    }

    /// Ends the plugin, with what it does at its end if that is `graceful`.
    pub(crate) fn end(&mut self, graceful: bool) -> Result<(), Failure> {
        match self {
            Self::Inside(instance) => instance.end(graceful),
            #[cfg(unix)]
            Self::Apart(process) => process.end(graceful),
        }
    }

    /// The image that its code lies in; none if it is a process.
    pub(crate) fn image(&self) -> Option<&Arc<Image>> {
        match self {
            Self::Inside(instance) => Some(instance.image()),
            #[cfg(unix)]
            Self::Apart(_) => None,
        }
    }

    /// Runs a job with the body, on the thread that opened its library if there is one, else on
    /// one of the crew's, and waits for it, at most `wait_max`.
    pub(crate) fn run<T: Send + 'static>(
        self,
        crew: &WorkerThreads,
        wait_max: Duration,
        job: impl FnOnce(Self) -> T + Send + 'static,
    ) -> RunOutcome<T> {
        match self.image().map(Arc::clone) {
            Some(image) => image.run(crew, wait_max, move || job(self)),
            None => crew.run(wait_max, move || job(self)),
        }
    }

    /// How long its end may take in all, where the plugin itself has `stop_wait_max`: a process
    /// is killed then, and what it started is looked for.
    pub(crate) fn end_wait_max(&self, stop_wait_max: Duration) -> Duration {
        match self {
            Self::Inside(_) => stop_wait_max,
            #[cfg(unix)]
            Self::Apart(_) => stop_wait_max.saturating_add(KILL_WAIT_MAX),
        }
    }

    /// Gives up the body for what is left of it. What was not ended is leaked.
    pub(crate) fn into_remains(self) -> Remains {
        match self {
            Self::Inside(instance) => {
                let root = instance.root();
                Remains::Code(instance.into_image(), root)
            }
            #[cfg(unix)]
            Self::Apart(process) => Remains::Program(Arc::clone(process.program())),
        }
    }

    /// The contracts that it declares besides its manifest, each with its other names.
    pub(crate) fn contracts(&self) -> Vec<(String, Vec<String>)> {
        match self {
            Self::Inside(_) => Vec::new(),
            #[cfg(unix)]
            Self::Apart(process) => process.contracts(),
        }
    }

    /// The socket of its process, if that lies where a second process would want its own.
    pub(crate) fn fixed_socket(&self) -> Option<std::path::PathBuf> {
        match self {
            Self::Inside(_) => None,
            #[cfg(unix)]
            Self::Apart(process) => process.fixed_socket(),
        }
    }

    /// What of its config is not delivered, in words.
    pub(crate) fn config_notes(&self) -> Vec<String> {
        match self {
            Self::Inside(_) => Vec::new(),
            #[cfg(unix)]
            Self::Apart(process) => process.config_notes(),
        }
    }

    /// The process that serves, if it is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Inside(_) => None,
            #[cfg(unix)]
            Self::Apart(process) => process.pid(),
        }
    }

    /// Bytes that the plugin has allocated, where it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        let Self::Inside(instance) = self else { return None };
        let census = instance.root().census();
        census.counts_bytes.then_some(census.live_bytes)
    }
}
