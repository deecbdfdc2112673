//! Services of the host that a plugin can call.
//!
//! They stay safe to call forever, and return `Closed` after the plugin was stopped.

#[allow(unsafe_code, reason = "calls functions of the host")]
mod raw;
mod record;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::{fmt, ptr};

pub use raw::{RawRecord, RawServices, RawText, ServiceHost, code};
pub use record::{Level, MAX_LINE_BYTES, Record, ServiceError};

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

/// The functions by which the plugin calls contracts, if the host offers them. A mapped library
/// belongs to one host, so they never change.
static CONTRACT_FUNCTIONS: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Takes the host's functions for calls of contracts, which are never unmapped.
pub(crate) fn connect(functions: *const ()) {
    CONTRACT_FUNCTIONS.store(functions.cast_mut(), Ordering::Release);
}

/// Returns what [`connect`] took, or null.
#[cfg(feature = "contracts")]
pub(crate) fn contract_functions() -> *const () {
    CONTRACT_FUNCTIONS.load(Ordering::Acquire)
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

    /// Returns the functions of the host as they cross.
    #[doc(hidden)]
    pub fn raw(&self) -> &RawServices {
        &self.raw
    }

    /// Returns the token of the plugin's start.
    #[cfg(feature = "contracts")]
    pub(crate) fn token(&self) -> u64 {
        self.raw.token()
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

fn result_of(code: i32) -> Result<(), ServiceError> {
    match code {
        code::OK => Ok(()),
        code::CLOSED => Err(ServiceError::Closed),
        code::DENIED => Err(ServiceError::Denied),
        _ => Err(ServiceError::Unavailable),
    }
}
