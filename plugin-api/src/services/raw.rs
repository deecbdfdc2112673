//! The ABI of the services: C functions of the host that take a token.
//!
//! Invariants, which the blocks below cite:
//! S1: the functions in a [`RawServices`] are in code that is never unmapped, and accept any token.
//! S2: texts and records that are passed to such a function are valid until it returns, and it
//! keeps no reference to them.

use std::{fmt, str};

use abi_stable::StableAbi;

use super::record::{Level, Record, ServiceError};
use crate::panic::drop_panic;

/// Result codes of the functions.
#[doc(hidden)]
pub mod code {
    /// Success.
    pub const OK: i32 = 0;
    /// The plugin was stopped.
    pub const CLOSED: i32 = 1;
    /// The plugin lacks the permission.
    pub const DENIED: i32 = 2;
    /// The host does not offer the service, or not now.
    pub const UNAVAILABLE: i32 = 3;
}

/// Text that is borrowed for one call across the boundary.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct RawText {
    ptr: *const u8,
    len: usize,
}

impl RawText {
    /// Borrows `text`.
    pub fn new(text: &str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() }
    }

    /// Returns the borrowed text.
    ///
    /// # Safety
    ///
    /// The text is valid for `'a`.
    pub unsafe fn get<'a>(self) -> &'a str {
        // SAFETY: `new` took pointer and length from a str, which is valid (function contract).
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr, self.len) };
        str::from_utf8(bytes).unwrap_or("(not UTF-8)")
    }
}

impl fmt::Debug for RawText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawText").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The ABI of a [`Record`]. Hosts of other versions read it, so it must not grow: new data needs a
/// field in `fields` or a new function.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct RawRecord {
    level: u32,
    target: RawText,
    message: RawText,
    fields: RawText,
    file: RawText,
    line: u32,
}

impl RawRecord {
    fn new(record: &Record<'_>) -> Self {
        Self {
            level: record.level as u32,
            target: RawText::new(record.target),
            message: RawText::new(record.message),
            fields: RawText::new(record.fields),
            file: RawText::new(record.file),
            line: record.line,
        }
    }

    /// Returns the borrowed record.
    ///
    /// # Safety
    ///
    /// The texts are valid for `'a`.
    unsafe fn get<'a>(&self) -> Record<'a> {
        Record {
            level: Level::from_code(self.level),
            // SAFETY: this function's contract, here and below.
            target: unsafe { self.target.get() },
            // SAFETY: as above.
            message: unsafe { self.message.get() },
            // SAFETY: as above.
            fields: unsafe { self.fields.get() },
            // SAFETY: as above.
            file: unsafe { self.file.get() },
            line: self.line,
        }
    }
}

/// The host's implementation of the services. The token identifies one load of one plugin.
#[doc(hidden)]
pub trait ServiceHost {
    /// Writes a log line.
    fn log(token: u64, record: &Record<'_>) -> Result<(), ServiceError>;
    /// Returns the code of the most verbose level that the host wants, or 0 for no lines. Called
    /// before each line, so it must be cheap.
    fn log_level(token: u64) -> u32;
    /// Reports a panic on a thread that the plugin started.
    fn thread_panicked(token: u64, message: &str, location: &str) -> Result<(), ServiceError>;
}

/// The host's functions. Passed by pointer at the start and copied; new fields go at the end.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct RawServices {
    /// Identifies the load of a plugin.
    token: u64,
    /// Writes a log line.
    log: unsafe extern "C" fn(u64, *const RawRecord) -> i32,
    /// Returns the code of the most verbose level that the host wants, or 0.
    log_level: unsafe extern "C" fn(u64) -> u32,
    /// Reports a panic on a thread that the plugin started: token, message, location.
    thread_panicked: unsafe extern "C" fn(u64, RawText, RawText) -> i32,
}

impl RawServices {
    /// Creates the functions of `H` with `token`. The code of `H` must never be unmapped.
    pub fn of<H: ServiceHost>(token: u64) -> Self {
        Self {
            token,
            log: log::<H>,
            log_level: log_level::<H>,
            thread_panicked: thread_panicked::<H>,
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    /// Returns the same functions with the token of another load.
    pub(super) fn with_token(self, token: u64) -> Self {
        Self { token, ..self }
    }

    /// Writes a log line; returns the result code.
    pub(super) fn log(&self, record: &Record<'_>) -> i32 {
        let record = RawRecord::new(record);
        // SAFETY: S1, S2 (the record and its texts outlive this call).
        unsafe { (self.log)(self.token, &raw const record) }
    }

    /// Returns the code of the most verbose level that the host wants, or 0.
    pub(super) fn log_level(&self) -> u32 {
        // SAFETY: S1.
        unsafe { (self.log_level)(self.token) }
    }

    /// Reports a panic on a thread that the plugin started; returns the result code.
    pub(super) fn thread_panicked(&self, message: &str, location: &str) -> i32 {
        let (message, location) = (RawText::new(message), RawText::new(location));
        // SAFETY: S1, S2 (the texts outlive this call).
        unsafe { (self.thread_panicked)(self.token, message, location) }
    }
}

unsafe extern "C" fn log<H: ServiceHost>(token: u64, record: *const RawRecord) -> i32 {
    // SAFETY: S2.
    let record = unsafe { &*record };
    // SAFETY: S2.
    let record = unsafe { record.get() };
    run_service(|| H::log(token, &record))
}

unsafe extern "C" fn log_level<H: ServiceHost>(token: u64) -> u32 {
    drop_panic(|| H::log_level(token)).unwrap_or(0)
}

unsafe extern "C" fn thread_panicked<H: ServiceHost>(
    token: u64,
    message: RawText,
    location: RawText,
) -> i32 {
    // SAFETY: S2.
    let message = unsafe { message.get() };
    // SAFETY: S2.
    let location = unsafe { location.get() };
    run_service(|| H::thread_panicked(token, message, location))
}

/// Runs a service and returns its result code. A panic does not unwind into the plugin.
fn run_service(service: impl FnOnce() -> Result<(), ServiceError>) -> i32 {
    match drop_panic(service) {
        Some(Ok(())) => code::OK,
        Some(Err(ServiceError::Closed)) => code::CLOSED,
        Some(Err(ServiceError::Denied)) => code::DENIED,
        Some(Err(ServiceError::Unavailable)) | None => code::UNAVAILABLE,
    }
}
