//! The way back to the host: functions that are safe to call for ever.
//! After the plugin was stopped they result_of `Closed`; nothing here knows when that is.

pub(crate) mod current;
#[allow(unsafe_code, reason = "calls functions of the host")]
mod raw;

use std::error::Error;
use std::fmt;

pub use raw::{RawRecord, RawServices, RawText, ServiceHost, code};

/// Bytes of a line's message that are kept, and of its fields as JSON; the rest is cut.
#[doc(hidden)]
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is odd.
    Warn = 2,
    /// Something happened.
    Info = 3,
    /// For who looks for a mistake.
    Debug = 4,
    /// For who looks very closely.
    Trace = 5,
}

impl Level {
    /// The level of a code; a code from a newer peer is [`Level::Trace`].
    #[doc(hidden)]
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Error,
            2 => Self::Warn,
            3 => Self::Info,
            4 => Self::Debug,
            _ => Self::Trace,
        }
    }
}

/// Why the host did not run_service a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceError {
    /// The plugin was stopped.
    Closed,
    /// The manifest's `permissions` do not name this service.
    Denied,
    /// The host does not offer this service, or could not run_service it now.
    Unavailable,
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the plugin was stopped",
            Self::Denied => "the manifest's `permissions` do not name this service",
            Self::Unavailable => "the host does not offer this service now",
        })
    }
}

impl Error for ServiceError {}

/// A plugin's way back to its host. Cheap to clone, safe to keep and to call for ever.
#[derive(Clone)]
pub struct HostServices {
    raw: RawServices,
}

impl HostServices {
    #[doc(hidden)]
    pub fn new(raw: RawServices) -> Self {
        Self { raw }
    }

    /// Writes a line to the host's log, under the plugin's name. Needs the permission `log`.
    ///
    /// A message of more than 64 KiB is cut, and says so. A line of a level that the host does
    /// not want is dropped without an error; whoever has to make the message up first asks
    /// [`enabled`](Self::enabled).
    ///
    /// # Errors
    ///
    /// [`ServiceError::Closed`] after the plugin was stopped, [`ServiceError::Denied`] without
    /// the permission, [`ServiceError::Unavailable`] where the plugin logs faster than it may.
    pub fn log(&self, level: Level, message: &str) -> Result<(), ServiceError> {
        self.record(&Record { level, target: "", message, fields: "", file: "", line: 0 })
    }

    /// Whether the host wants lines of this level now. Costs a few nanoseconds.
    pub fn enabled(&self, level: Level) -> bool {
        level as u32 <= self.raw.log_level()
    }

    /// Writes a line with all that is known of it.
    pub(crate) fn record(&self, record: &Record<'_>) -> Result<(), ServiceError> {
        result_of(self.raw.log(record))
    }

    /// Writes a line at [`Level::Error`], if the host takes it.
    pub fn error(&self, message: &str) {
        let _ = self.log(Level::Error, message);
    }

    /// Writes a line at [`Level::Warn`], if the host takes it.
    pub fn warn(&self, message: &str) {
        let _ = self.log(Level::Warn, message);
    }

    /// Writes a line at [`Level::Info`], if the host takes it.
    pub fn info(&self, message: &str) {
        let _ = self.log(Level::Info, message);
    }

    /// Writes a line at [`Level::Debug`], if the host takes it.
    pub fn debug(&self, message: &str) {
        let _ = self.log(Level::Debug, message);
    }

    /// Writes a line at [`Level::Trace`], if the host takes it.
    pub fn trace(&self, message: &str) {
        let _ = self.log(Level::Trace, message);
    }

    /// Tells the host that a thread of the plugin's own panicked.
    pub(crate) fn thread_panicked(&self, message: &str, location: &str) {
        // Whoever panicked has nobody to tell that the host did not listen.
        let _ = self.raw.thread_panicked(message, location);
    }
}

impl fmt::Debug for HostServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostServices").finish_non_exhaustive()
    }
}

/// A line on its way to the host.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// How much it matters.
    pub level: Level,
    /// The part of the plugin that speaks; empty for the plugin itself.
    pub target: &'a str,
    /// What it says.
    pub message: &'a str,
    /// Its fields: the text of a JSON object, or nothing.
    ///
    /// A value is what JSON says, or an object of one name for what JSON cannot say:
    /// `{"u64":5}`, `{"f64":"0.1"}`, `{"debug":"Some(1)"}`.
    pub fields: &'a str,
    /// The source file that speaks; empty when unknown.
    pub file: &'a str,
    /// The line in it; 0 when unknown.
    pub line: u32,
}

fn result_of(code: i32) -> Result<(), ServiceError> {
    match code {
        code::OK => Ok(()),
        code::CLOSED => Err(ServiceError::Closed),
        code::DENIED => Err(ServiceError::Denied),
        _ => Err(ServiceError::Unavailable),
    }
}
