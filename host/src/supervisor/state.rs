//! The state of a supervised process, as seen by its callers.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::http::Client;
use super::restart::ExitCause;
use crate::error::Diagnosis;

/// The phase of a process; completes the sentence "the process is …".
#[derive(Clone)]
pub(super) enum Phase {
    /// Being started.
    Starting,
    /// Running, and can be called.
    Serving(Arc<Live>),
    /// Not running: it exited by its idle timeout, and is started by the next call.
    Idle,
    /// Not running: the last start failed, and is retried at this instant.
    Backoff { why: Arc<Diagnosis>, until: Instant },
    /// Stopped for good.
    Stopped,
}

/// A process that can be called.
pub(super) struct Live {
    pub(super) pid: u32,
    pub(super) client: Client,
    /// Its socket, if a second process of the program would use the same path.
    pub(super) fixed_socket: Option<PathBuf>,
    /// How it ended; set before the phase changes.
    pub(super) end: OnceLock<ExitCause>,
}

/// A command to the watch task of a process.
pub(super) enum Command {
    /// A call waits for an idle process.
    Wake,
    /// A call to this process missed its deadline: check whether it hangs.
    CheckHung { pid: u32 },
    /// Stop it, with a grace period if `graceful`. The sender reports the result.
    Stop { graceful: bool, done: tokio::sync::oneshot::Sender<Result<(), Diagnosis>> },
}
