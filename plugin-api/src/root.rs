//! The root module that a plugin's library exports: a struct of C functions.
//!
//! The functions return a code and write their results through their last pointers. They do not
//! unwind. New functions go at the end.

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;

use crate::context::RawContext;
use crate::fault::{Fault, PluginError};
use crate::payload::{Output, RawBuffer, RawPayload};
use crate::services::{RawServices, RawText};
use crate::text;

/// Result codes of the functions. Plain integers, so that unknown codes are not undefined behavior.
pub mod code {
    /// Success; the output was written.
    pub const OK: i32 = 0;
    /// The plugin returned an error; the fault contains it.
    pub const ERROR: i32 = 1;
    /// The plugin panicked; the fault describes the panic.
    pub const PANIC: i32 = 2;
}

/// Maximum number of return addresses of a panic that a host keeps.
const MAX_FRAMES: usize = 256;

/// Number of words in the bit set [`RawCensus::calls`].
pub(crate) const CALL_WORDS: usize = 2;

/// A started plugin, opaque to the host.
pub type RawInstance = *const ();

/// The input of `start`.
#[repr(C)]
#[derive(Debug, StableAbi)]
pub struct RawStart {
    /// The configuration: a JSON object as text.
    pub config: RawText,
    /// The host's functions, which the plugin copies.
    pub services: *const RawServices,
    /// Whether to report panics with their return addresses.
    pub want_frames: bool,
}

/// The ABI of an error or a panic.
#[repr(C)]
#[derive(Debug, StableAbi)]
pub struct RawFault {
    code: i32,
    retryable: bool,
    message: RawBuffer,
    details: RawBuffer,
    location: RawBuffer,
    frames: RawBuffer,
}

impl RawFault {
    /// Creates an empty fault, which a function may overwrite.
    pub const fn empty() -> Self {
        Self {
            code: 0,
            retryable: false,
            message: RawBuffer::empty(),
            details: RawBuffer::empty(),
            location: RawBuffer::empty(),
            frames: RawBuffer::empty(),
        }
    }

    /// Converts an error.
    pub fn from_error(error: &PluginError) -> Self {
        let details = error.details().map(ToString::to_string).unwrap_or_default();
        Self {
            code: error.code(),
            retryable: error.is_retryable(),
            message: error.message().as_bytes().to_vec().into(),
            details: details.into_bytes().into(),
            ..Self::empty()
        }
    }

    /// Converts a panic.
    pub fn from_panic(fault: &Fault) -> Self {
        let frames = fault.frames().iter().flat_map(|address| address.to_ne_bytes()).collect();
        Self {
            message: fault.message().as_bytes().to_vec().into(),
            location: fault.location().unwrap_or_default().as_bytes().to_vec().into(),
            frames: Vec::into(frames),
            ..Self::empty()
        }
    }

    /// Returns the error of the plugin.
    pub fn to_error(&self) -> PluginError {
        let message = self.message.to_text(text::MAX_MESSAGE_BYTES);
        let mut error = PluginError::new(self.code, message);
        if self.retryable {
            error = error.retryable();
        }
        if self.details.is_empty() {
            return error;
        }
        let details = self.details.as_bytes();
        let details = (details.len() <= text::MAX_DETAILS_BYTES).then_some(details);
        match details.and_then(|details| serde_json::from_slice(details).ok()) {
            Some(details) => error.with_details(details),
            // Too long, or nested too deeply to parse: keep the text.
            None => error.with_details(self.details.to_text(text::MAX_DETAILS_BYTES).into()),
        }
    }

    /// Returns the panic of the plugin.
    pub fn to_panic(&self) -> Fault {
        let location = &self.location;
        let location = (!location.is_empty()).then(|| location.to_text(text::MAX_LOCATION_BYTES));
        let words = self.frames.as_bytes().chunks_exact(size_of::<usize>());
        let frames = words.filter_map(|word| word.try_into().ok().map(usize::from_ne_bytes));
        let message = self.message.to_text(text::MAX_MESSAGE_BYTES);
        Fault::new(message, location, frames.take(MAX_FRAMES).collect())
    }
}

/// The ABI of an optional snapshot.
#[repr(C)]
#[derive(Debug, StableAbi)]
pub struct RawSnapshot {
    /// Whether the plugin has state.
    pub present: bool,
    /// Version of the format.
    pub version: u32,
    /// Bytes of the state.
    pub bytes: RawBuffer,
}

/// Resources that a plugin's library holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, StableAbi)]
pub struct RawCensus {
    /// Number of allocated bytes; zero if `counts_bytes` is `false`.
    pub live_bytes: i64,
    /// Number of live threads that the plugin started.
    pub live_threads: u32,
    /// Number of live threads that hold a thread-local value with a destructor in the plugin,
    /// without the calling thread.
    pub key_threads: u32,
    /// Whether the plugin's allocator counts bytes.
    pub counts_bytes: bool,
    /// Whether threads and thread keys are counted.
    pub counts_threads: bool,
    /// Calls that left a pointer to the plugin in the C library. Bit `n` is row `n` of
    /// [`CALLBACKS`](crate::abi::CALLBACKS).
    pub calls: [u64; CALL_WORDS],
}

/// The measurement of the call around another call of the same library on the same thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, StableAbi)]
pub struct RawMeasure {
    /// Bytes that the outer call had allocated and not freed.
    pub outer_live: i64,
    /// The highest value of `outer_live` so far.
    pub outer_peak: i64,
}

/// Address and number of the tables of the contracts that a plugin serves. The tables are not part of
/// this module's layout: see `contract/table.rs`.
#[derive(Clone, Copy, Debug)]
pub struct ContractTables {
    pub(crate) first: *const (),
    pub(crate) count: usize,
}

/// The contracts that a plugin serves.
pub trait ContractSet: 'static {
    /// Their tables.
    const TABLES: ContractTables;
}

/// The set without contracts.
#[derive(Debug)]
pub struct NoContracts;

impl ContractSet for NoContracts {
    const TABLES: ContractTables = ContractTables { first: std::ptr::null(), count: 0 };
}

/// Address of the functions of an async plugin: see `contract/table.rs`.
#[derive(Clone, Copy, Debug)]
pub struct AsyncFunctions(pub(crate) *const ());

impl AsyncFunctions {
    /// Not an async plugin.
    pub const NONE: Self = Self(std::ptr::null());

    /// Takes the address of the functions.
    #[cfg(all(unix, feature = "tokio"))]
    pub(crate) fn at(address: *const ()) -> Self {
        Self(address)
    }
}

/// The functions of a plugin's library.
#[repr(C)]
#[derive(Debug, StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
#[sabi(missing_field(panic))]
pub struct PluginRoot {
    /// Validates a configuration.
    pub validate_config: unsafe extern "C" fn(RawText, *mut RawFault) -> i32,
    /// Starts an instance and writes it through the second pointer.
    pub start: unsafe extern "C" fn(*const RawStart, *mut RawInstance, *mut RawFault) -> i32,
    /// Handles a call; writes the output only if it returns [`code::OK`].
    pub execute: unsafe extern "C" fn(
        RawInstance,
        *const RawContext<'_>,
        *const RawPayload<'_>,
        *mut Output,
        *mut RawFault,
    ) -> i32,
    /// Checks whether an instance can work.
    pub health: unsafe extern "C" fn(RawInstance, *mut RawFault) -> i32,
    /// Takes a snapshot; writes it only if it returns [`code::OK`].
    pub snapshot: unsafe extern "C" fn(RawInstance, *mut RawSnapshot, *mut RawFault) -> i32,
    /// Restores a snapshot in an instance that was not called yet.
    pub restore: unsafe extern "C" fn(RawInstance, *const RawSnapshot, *mut RawFault) -> i32,
    /// Ends an instance and frees it.
    pub shutdown: unsafe extern "C" fn(RawInstance, *mut RawFault) -> i32,
    /// Frees an instance without its shutdown, after a start that was rolled back.
    pub discard: unsafe extern "C" fn(RawInstance, *mut RawFault) -> i32,
    /// Returns what the library holds.
    pub census: unsafe extern "C" fn(*mut RawCensus),
    /// Deletes the library's thread keys, right before it is unmapped.
    #[sabi(last_prefix_field)]
    pub release_keys: unsafe extern "C" fn(),
    /// Returns the address of the tables of its contracts, and writes their number. Since API 1.1.
    #[sabi(missing_field(option))]
    pub contracts: unsafe extern "C" fn(*mut usize) -> *const (),
    /// Takes the host's functions for calls of contracts, before `start`. Since API 1.2. They are not
    /// part of this module's layout: see `contract/host_functions.rs`.
    #[sabi(missing_field(option))]
    pub connect: unsafe extern "C" fn(*const ()),
    /// Returns the address of the functions of an async plugin, or null. Since API 1.2.
    #[sabi(missing_field(option))]
    pub async_functions: unsafe extern "C" fn() -> *const (),
    /// Begins to measure the memory of a call on the calling thread. Since API 1.2.
    #[sabi(missing_field(option))]
    pub begin_call: unsafe extern "C" fn(*mut RawMeasure),
    /// Ends the measurement that wrote this value, on the same thread and after all later ones.
    /// Returns the most bytes that the thread had allocated and not freed since. Since API 1.2.
    #[sabi(missing_field(option))]
    pub end_call: unsafe extern "C" fn(*const RawMeasure) -> i64,
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}

    const BASE_NAME: &'static str = "hotbay_plugin";
    const NAME: &'static str = "hotbay-plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}
