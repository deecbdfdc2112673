//! What is started, again and again: a private copy of a program, and all that it is given.

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
use crate::id::PluginName;

/// A program, and all that each start of it gets.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: PluginName,
    /// What is run, whatever becomes of the file that it was copied from.
    pub(crate) staged: Arc<StagedProgram>,
    /// The file that it was copied from.
    pub(crate) original: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The plugin's folder, where it runs.
    pub(crate) folder: PathBuf,
    /// What it gets of the host's environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The manifest's config, an object.
    pub(crate) config: serde_json::Value,
    /// The kind of socket that it is asked to listen at: `unix` or `tcp`.
    pub(crate) socket_type: &'static str,
    pub(crate) limits: ProcessLimits,
}

impl Program {
    /// Makes its private copy again if it was removed, and checks what lies beside it.
    pub(super) async fn make_sure(&self) -> Result<(), String> {
        let staged = Arc::clone(&self.staged);
        let made_sure = tokio::task::spawn_blocking(move || staged.make_sure());
        match made_sure.await {
            Ok(made_sure) => made_sure.map_err(|error| match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            }),
            Err(_) => Err("the host is ending".to_owned()),
        }
    }

    /// Why it did not start. Tells of the file that it was copied from, which people know.
    pub(super) fn why_not_spawned(&self, error: &io::Error) -> String {
        self.known(diagnose::of_spawn(error, &self.staged.path()))
    }

    /// How it ended, and why.
    pub(super) fn why_exited(&self, status: ExitStatus, tail: &Tail) -> String {
        self.known(diagnose::of_exit(status, &self.staged.path(), tail))
    }

    /// What can be told of the file itself, where that is the cause.
    pub(super) fn what_is_wrong_with_it(&self) -> Option<String> {
        diagnose::of_file(&self.staged.path()).map(|told| self.known(told))
    }

    fn known(&self, told: String) -> String {
        let copy = self.staged.path().display().to_string();
        told.replace(&copy, &self.original.display().to_string())
    }
}

/// What bounds one process and the calls to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessLimits {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) cpu_s: Option<u64>,
    /// From the launch until it can be called.
    pub(crate) start_timeout: Duration,
    /// How long it may take to end by itself.
    pub(crate) stop_timeout: Duration,
    /// Without calls for that long it ends by itself, or is ended where it speaks an older
    /// dialect; zero: never.
    pub(crate) idle_max: Duration,
    /// How long `/healthz` may stay unanswered once a call has missed its deadline; zero: it is
    /// not asked.
    pub(crate) health_timeout: Duration,
    pub(crate) answer_bytes_max: u64,
    pub(crate) max_snapshot_bytes: u64,
}

/// Who hears what becomes of a process, and answers it.
pub(crate) trait ProcessObserver: Send + Sync {
    /// It wrote a line, on one of its pipes.
    fn wrote(&self, record: &Record<'_>);
    /// It logs through its host's services.
    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError>;
    /// The least level that is expected; 0 where it may not log.
    fn log_level(&self) -> u32;
    /// A thread of its own panicked.
    fn thread_panicked(&self, message: &str, location: &str);
    /// It ended though nobody had ended it.
    fn exited(&self, pid: u32, reason: String);
    /// It listens at an address that other machines may reach.
    fn listens_beyond_loopback(&self, pid: u32, address: SocketAddr);
    /// It was started again.
    fn restarted(&self, pid: u32, after: Duration);
    /// It could not be started again.
    fn not_restarted(&self, reason: &str);
}

pub(crate) type ObserverRef = Arc<dyn ProcessObserver>;
