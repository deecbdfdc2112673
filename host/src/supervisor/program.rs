//! The parameters of every start: a private copy of a program, its environment and its limits.

use std::error::Error as _;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use hotbay_plugin::ServiceError;
use hotbay_plugin::abi::Record;

use super::diagnose;
use super::lines::Tail;
use crate::artifact::program::StagedProgram;
use crate::error::Diagnosis;
use crate::id::PluginName;

/// A program, and the parameters of each start.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: PluginName,
    /// The private copy that is run, independent of the original file.
    pub(crate) staged: Arc<StagedProgram>,
    /// The original file.
    pub(crate) original: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The plugin's folder, used as working directory.
    pub(crate) folder: PathBuf,
    /// The inherited part of the host's environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The config of the manifest, an object.
    pub(crate) config: serde_json::Value,
    /// The kind of socket that it should listen on: `unix` or `tcp`.
    pub(crate) socket_type: &'static str,
    pub(crate) limits: ProcessLimits,
}

impl Program {
    /// Restores the private copy if it was removed, and checks the files beside it.
    pub(super) async fn ensure_intact(&self) -> Result<(), Diagnosis> {
        let staged = Arc::clone(&self.staged);
        let ensured = tokio::task::spawn_blocking(move || staged.ensure_intact());
        match ensured.await {
            Ok(ensured) => ensured.map_err(|error| {
                let message = match error.source() {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                Diagnosis { message, hint: error.hint() }
            }),
            Err(_) => Err("the host is shutting down".into()),
        }
    }

    /// Explains why it was not spawned. Names the original file, which users know.
    pub(super) fn explain_spawn_error(&self, error: &io::Error) -> Diagnosis {
        self.with_original_path(diagnose::of_spawn(error, &self.staged.path()))
    }

    /// Explains how it exited, and why.
    pub(super) fn explain_exit(&self, status: ExitStatus, tail: &Tail) -> Diagnosis {
        self.with_original_path(diagnose::of_exit(status, &self.staged.path(), tail))
    }

    /// Explains what is wrong with the file itself, if that is the cause.
    pub(super) fn explain_file(&self) -> Option<Diagnosis> {
        diagnose::of_file(&self.staged.path()).map(|cause| self.with_original_path(cause))
    }

    fn with_original_path(&self, Diagnosis { message, hint }: Diagnosis) -> Diagnosis {
        let copy = self.staged.path().display().to_string();
        let original = self.original.display().to_string();
        let replace = |text: String| text.replace(&copy, &original);
        Diagnosis { message: replace(message), hint: hint.map(replace) }
    }
}

/// The limits of one process and of the calls to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessLimits {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) cpu_s: Option<u64>,
    /// From the launch until it is ready.
    pub(crate) start_timeout: Duration,
    /// Time in which it must exit on request.
    pub(crate) stop_timeout: Duration,
    /// After this time without calls it exits, or the host stops it if it speaks an older dialect.
    /// Zero disables this.
    pub(crate) idle_timeout: Duration,
    /// Time for which `/healthz` may stay unanswered after a call has missed its deadline. Zero
    /// disables the check.
    pub(crate) health_timeout: Duration,
    pub(crate) max_response_bytes: u64,
    pub(crate) max_snapshot_bytes: u64,
}

/// Receives the events of a process, and serves its requests to the host.
pub(crate) trait ProcessObserver: Send + Sync {
    /// Handles a line that the process wrote to one of its pipes.
    fn wrote(&self, record: &Record<'_>);
    /// Handles a line that the process logs through the host's services.
    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError>;
    /// Returns the lowest log level that is recorded; 0 if it may not log.
    fn log_level(&self) -> u32;
    /// Handles a panic on a thread of the program.
    fn thread_panicked(&self, message: &str, location: &str);
    /// Handles an unexpected exit of the process.
    fn exited(&self, pid: u32, reason: Diagnosis);
    /// Handles a listener on an address that other machines may reach.
    fn listens_beyond_loopback(&self, pid: u32, address: SocketAddr);
    /// Handles a restart of the process.
    fn restarted(&self, pid: u32, after: Duration);
    /// Handles a failed restart of the process.
    fn not_restarted(&self, reason: &Diagnosis);
}

pub(crate) type ObserverRef = Arc<dyn ProcessObserver>;
