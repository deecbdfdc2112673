//! The services on the boundary: C functions of the host that take a token.
//!
//! Invariants, which the blocks below cite:
//! S1: the functions in a [`RawServices`] belong to code that is never unmapped, and take any
//! token.
//! S2: what is lent to such a function, texts and records, lives until it returns; it keeps
//! nothing of it.

use std::{fmt, str};

use abi_stable::StableAbi;

use super::{Level, Record, ServiceError};

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

/// A [`Record`] on the boundary. Read by hosts that may be newer, so it does not grow: more would
/// come as a field, or with a function of its own.
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

    /// What was lent.
    ///
    /// # Safety
    ///
    /// The texts that were lent still live, for as long as 'a.
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

/// The host's side of the services, by the token it gave at the start.
#[doc(hidden)]
pub trait ServiceHost {
    /// Writes a log line.
    fn log(token: u64, record: &Record<'_>) -> Result<(), ServiceError>;
    /// The code of the most verbose level that is wanted now; 0 for none. Asked before each
    /// line, so it is to be cheap.
    fn log_level(token: u64) -> u32;
    /// Hears of a panic on a thread of the plugin's own.
    fn thread_panicked(token: u64, message: &str, location: &str) -> Result<(), ServiceError>;
}

/// The host's functions. Passed by pointer at the start and copied; grows at its end.
#[doc(hidden)]
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct RawServices {
    /// Which load of which plugin speaks.
    token: u64,
    /// Writes a log line.
    log: unsafe extern "C" fn(u64, *const RawRecord) -> i32,
    /// The code of the most verbose level that is wanted now; 0 for none.
    log_level: unsafe extern "C" fn(u64) -> u32,
    /// Tells of a panic on a thread of the plugin's own: token, message, location.
    thread_panicked: unsafe extern "C" fn(u64, RawText, RawText) -> i32,
}

impl RawServices {
    /// The functions of `H`, which must not be unloaded, for the plugin behind `token`.
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

    /// The same functions, for another load of the same library.
    pub(super) fn with_token(self, token: u64) -> Self {
        Self { token, ..self }
    }

    /// Writes a log line; the code of the result_of.
    pub(super) fn log(&self, record: &Record<'_>) -> i32 {
        let record = RawRecord::new(record);
        // SAFETY: S1, S2 (the record and its texts live in this call).
        unsafe { (self.log)(self.token, &raw const record) }
    }

    /// The code of the most verbose level that is wanted now.
    pub(super) fn log_level(&self) -> u32 {
        // SAFETY: S1.
        unsafe { (self.log_level)(self.token) }
    }

    /// Tells of a panic on a thread of the plugin's own; the code of the result_of.
    pub(super) fn thread_panicked(&self, message: &str, location: &str) -> i32 {
        let (message, location) = (RawText::new(message), RawText::new(location));
        // SAFETY: S1, S2 (the texts live in this call).
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
    // Nothing unwinds back into the plugin.
    std::panic::catch_unwind(|| H::log_level(token)).unwrap_or(0)
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

/// Nothing unwinds back into the plugin.
fn run_service(service: impl FnOnce() -> Result<(), ServiceError>) -> i32 {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(service)) {
        Ok(Ok(())) => code::OK,
        Ok(Err(ServiceError::Closed)) => code::CLOSED,
        Ok(Err(ServiceError::Denied)) => code::DENIED,
        Ok(Err(ServiceError::Unavailable)) => code::UNAVAILABLE,
        Err(payload) => {
            // Its drop may panic too, and what that throws is dropped by nobody.
            let drop = std::panic::AssertUnwindSafe(|| drop(payload));
            if let Err(second) = std::panic::catch_unwind(drop) {
                std::mem::forget(second);
            }
            code::UNAVAILABLE
        }
    }
}
