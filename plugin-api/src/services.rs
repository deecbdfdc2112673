//! The way back to the host: functions that are safe to call for ever.
//! After the plugin was stopped they answer `Closed`; nothing here knows when that is.

use std::error::Error;
use std::{fmt, str};

use abi_stable::StableAbi;

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

/// Why the host did not serve a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceError {
    /// The plugin was stopped.
    Closed,
    /// The manifest's `permissions` do not name this service.
    Denied,
    /// The host does not offer this service, or could not serve it now.
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
    /// # Errors
    ///
    /// [`ServiceError::Closed`] after the plugin was stopped, [`ServiceError::Denied`] without
    /// the permission.
    pub fn log(&self, level: Level, message: &str) -> Result<(), ServiceError> {
        // SAFETY: S1 (a function of the host, given with its own token).
        let code = unsafe { (self.raw.log)(self.raw.token, level as u32, RawText::new(message)) };
        answer(code)
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
        // SAFETY: S1 (a function of the host, given with its own token).
        let _ = unsafe {
            (self.raw.thread_panicked)(
                self.raw.token,
                RawText::new(message),
                RawText::new(location),
            )
        };
    }
}

impl fmt::Debug for HostServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostServices").finish_non_exhaustive()
    }
}

/// Codes of the answers on the boundary.
#[doc(hidden)]
pub mod code {
    /// Served.
    pub const OK: i32 = 0;
    /// The plugin was stopped.
    pub const CLOSED: i32 = 1;
    /// Not permitted.
    pub const DENIED: i32 = 2;
    /// Not offered.
    pub const UNAVAILABLE: i32 = 3;
}

fn answer(code: i32) -> Result<(), ServiceError> {
    match code {
        code::OK => Ok(()),
        code::CLOSED => Err(ServiceError::Closed),
        code::DENIED => Err(ServiceError::Denied),
        _ => Err(ServiceError::Unavailable),
    }
}

/// Text that is lent for one call across the boundary.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct RawText {
    ptr: *const u8,
    len: usize,
}

impl RawText {
    /// Lends `text`.
    pub fn new(text: &str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() }
    }

    /// What was lent.
    ///
    /// # Safety
    ///
    /// The text that was lent still lives, for as long as 'a.
    pub unsafe fn get<'a>(self) -> &'a str {
        // SAFETY: `new` took them from a str, which lives (this function's contract).
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr, self.len) };
        str::from_utf8(bytes).unwrap_or("(not UTF-8)")
    }
}

impl fmt::Debug for RawText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawText").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The host's side of the services, by the token it gave at the start.
#[doc(hidden)]
pub trait ServiceHost {
    /// Writes a log line.
    fn log(token: u64, level: Level, message: &str) -> Result<(), ServiceError>;
    /// Hears of a panic on a thread of the plugin's own.
    fn thread_panicked(token: u64, message: &str, location: &str) -> Result<(), ServiceError>;
}

/// The host's functions. Passed by pointer at the start and copied; grows at its end.
///
/// Invariant S1: the functions belong to code that is never unmapped, take any token, and lend
/// nothing beyond their return.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct RawServices {
    /// Which load of which plugin speaks.
    token: u64,
    /// Writes a log line: token, level, text.
    log: unsafe extern "C" fn(u64, u32, RawText) -> i32,
    /// Tells of a panic on a thread of the plugin's own: token, message, location.
    thread_panicked: unsafe extern "C" fn(u64, RawText, RawText) -> i32,
}

impl RawServices {
    /// The functions of `H`, which must not be unloaded, for the plugin behind `token`.
    pub fn of<H: ServiceHost>(token: u64) -> Self {
        Self { token, log: log::<H>, thread_panicked: thread_panicked::<H> }
    }
}

unsafe extern "C" fn log<H: ServiceHost>(token: u64, level: u32, message: RawText) -> i32 {
    // SAFETY: S1 (the caller lends the text until this returns).
    let message = unsafe { message.get() };
    serve(|| H::log(token, Level::from_code(level), message))
}

unsafe extern "C" fn thread_panicked<H: ServiceHost>(
    token: u64,
    message: RawText,
    location: RawText,
) -> i32 {
    // SAFETY: S1 (the caller lends the text until this returns).
    let message = unsafe { message.get() };
    // SAFETY: S1, as above.
    let location = unsafe { location.get() };
    serve(|| H::thread_panicked(token, message, location))
}

/// Nothing unwinds back into the plugin.
fn serve(service: impl FnOnce() -> Result<(), ServiceError>) -> i32 {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(service)) {
        Ok(Ok(())) => code::OK,
        Ok(Err(ServiceError::Closed)) => code::CLOSED,
        Ok(Err(ServiceError::Denied)) => code::DENIED,
        Ok(Err(ServiceError::Unavailable)) | Err(_) => code::UNAVAILABLE,
    }
}
