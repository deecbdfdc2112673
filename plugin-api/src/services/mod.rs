//! Services of the host that a plugin can call.
//!
//! They stay safe to call forever, and return `Closed` after the plugin was stopped.

#[allow(unsafe_code, reason = "calls functions of the host")]
mod raw;

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub use raw::{RawRecord, RawServices, RawText, ServiceHost, code};

/// Maximum length in bytes of a line's message, and of its fields as JSON. The rest is truncated.
#[doc(hidden)]
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// An operation failed.
    Error = 1,
    /// Something unexpected happened.
    Warn = 2,
    /// Normal operation.
    Info = 3,
    /// Details for debugging.
    Debug = 4,
    /// Very detailed output.
    Trace = 5,
}

impl Level {
    /// Returns the level with the given code; an unknown code is [`Level::Trace`].
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

/// The reason a service of the host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceError {
    /// The plugin was stopped.
    Closed,
    /// The `permissions` of the manifest do not include this service.
    Denied,
    /// The host does not offer this service, or is overloaded.
    Unavailable,
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the plugin was stopped",
            Self::Denied => {
                "permission denied: the manifest's `permissions` do not include this service"
            }
            Self::Unavailable => "the host does not offer this service, or is overloaded",
        })
    }
}

impl Error for ServiceError {}

/// Services of the host, such as its log. Cheap to clone, and safe to keep and call forever.
///
/// [`Plugin::init`](crate::Plugin::init) receives them.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # {
/// use hotbay_plugin::{Level, ServiceError, testing::FakeHost};
///
/// let fake = FakeHost::new();
/// let host = fake.services();
/// host.warn("the table is empty");
/// assert_eq!(fake.logs(), [(Level::Warn, "the table is empty".to_owned())]);
///
/// fake.close(); // As if the plugin had been unloaded.
/// assert_eq!(host.log(Level::Info, "unheard"), Err(ServiceError::Closed));
/// # }
/// ```
#[derive(Clone)]
pub struct HostServices {
    raw: RawServices,
}

/// The functions of the latest start. A mapped library belongs to one host, so they never change.
static CURRENT: OnceLock<HostServices> = OnceLock::new();
/// The token of the latest start.
static CURRENT_TOKEN: AtomicU64 = AtomicU64::new(0);

impl HostServices {
    #[doc(hidden)]
    pub fn new(raw: RawServices) -> Self {
        Self { raw }
    }

    /// Returns the services of the latest start in this library, for code that receives none, such
    /// as the logging bridges. Takes no lock.
    pub(crate) fn current() -> Option<Self> {
        let functions = CURRENT.get()?;
        Some(Self::new(functions.raw.with_token(CURRENT_TOKEN.load(Ordering::Acquire))))
    }

    /// Makes these the services of the latest start. They are never dropped.
    pub(crate) fn make_current(&self) {
        CURRENT_TOKEN.store(self.raw.token(), Ordering::Release);
        let _ = CURRENT.set(self.clone());
    }

    /// Writes a line to the host's log, under the plugin's name. Requires the permission `log`.
    ///
    /// A message over 64 KiB is truncated and marked. A line of a level that the host does not
    /// want is dropped without an error; check [`enabled`](Self::enabled) before formatting a
    /// costly message.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Closed`] after the plugin was stopped, [`ServiceError::Denied`] without
    /// the permission, [`ServiceError::Unavailable`] if the plugin exceeds its rate limit.
    pub fn log(&self, level: Level, message: &str) -> Result<(), ServiceError> {
        self.record(&Record { level, target: "", message, fields: "", file: "", line: 0 })
    }

    /// Returns whether the host wants lines of this level now. Costs a few nanoseconds.
    pub fn enabled(&self, level: Level) -> bool {
        level as u32 <= self.raw.log_level()
    }

    /// Writes a line with target, fields and source location.
    pub(crate) fn record(&self, record: &Record<'_>) -> Result<(), ServiceError> {
        result_of(self.raw.log(record))
    }

    /// Writes a line at [`Level::Error`]; ignores errors.
    pub fn error(&self, message: &str) {
        let _ = self.log(Level::Error, message);
    }

    /// Writes a line at [`Level::Warn`]; ignores errors.
    pub fn warn(&self, message: &str) {
        let _ = self.log(Level::Warn, message);
    }

    /// Writes a line at [`Level::Info`]; ignores errors.
    pub fn info(&self, message: &str) {
        let _ = self.log(Level::Info, message);
    }

    /// Writes a line at [`Level::Debug`]; ignores errors.
    pub fn debug(&self, message: &str) {
        let _ = self.log(Level::Debug, message);
    }

    /// Writes a line at [`Level::Trace`]; ignores errors.
    pub fn trace(&self, message: &str) {
        let _ = self.log(Level::Trace, message);
    }

    /// Reports a panic on a thread that the plugin started.
    pub(crate) fn thread_panicked(&self, message: &str, location: &str) {
        // The panicking thread cannot handle an error.
        let _ = self.raw.thread_panicked(message, location);
    }
}

impl fmt::Debug for HostServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostServices").finish_non_exhaustive()
    }
}

/// A log line.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Severity.
    pub level: Level,
    /// The part of the plugin that logs; empty for the plugin itself.
    pub target: &'a str,
    /// Message.
    pub message: &'a str,
    /// Fields: a JSON object as text, or the empty string.
    ///
    /// A value is plain JSON, or a tagged object for types that JSON lacks: `{"u64":5}`,
    /// `{"f64":"0.1"}`, `{"debug":"Some(1)"}`.
    pub fields: &'a str,
    /// Source file; empty if unknown.
    pub file: &'a str,
    /// Line in the source file; 0 if unknown.
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
