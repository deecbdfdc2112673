//! What a supervised process is doing, as those who want to call it see it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::http::Client;
use super::restart::ExitCause;

/// Completes the sentence "the process is …".
#[derive(Clone)]
pub(super) enum Phase {
    /// Being started.
    Starting,
    /// There, and can be called.
    Serving(Arc<Live>),
    /// Gone; it left by itself because it had nothing to do, and is started by the next call.
    Idle,
    /// Gone; the last start failed, and the next one is at this moment.
    Backoff { why: Arc<str>, until: Instant },
    /// Gone for good.
    Stopped,
}

/// One process that can be called.
pub(super) struct Live {
    pub(super) pid: u32,
    pub(super) client: Client,
    /// Its socket, if that lies where a second process of the program would want its own.
    pub(super) fixed_socket: Option<PathBuf>,
    /// How it ended; set before the phase changes.
    pub(super) end: OnceLock<ExitCause>,
}

/// What the task that watches a process is asked to do.
pub(super) enum Command {
    /// A call waits for a process that is asleep.
    Wake,
    /// A call to this process missed its deadline: find out whether it is hung.
    CheckHung { pid: u32 },
    /// End it; within this time by itself. The sender hears how that went.
    Stop { graceful: bool, done: tokio::sync::oneshot::Sender<Result<(), String>> },
}
