//! The one exported module: what a host finds in a plugin's library, as C functions.
//!
//! Every function returns a code and writes what it has to say through its last pointers. None
//! unwinds. The module grows at its end only.

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;

use crate::context::RawContext;
use crate::fault::{Fault, PluginError};
use crate::payload::{Output, RawBuffer, RawPayload};
use crate::services::{RawServices, RawText};
use crate::text;

/// Codes that the functions return. Plain integers: an unknown one is data, not undefined.
pub mod code {
    /// Done; the output was written.
    pub const OK: i32 = 0;
    /// The plugin answered with an error; the fault holds it.
    pub const ERROR: i32 = 1;
    /// The plugin panicked; the fault tells how.
    pub const PANIC: i32 = 2;
}

/// Most return addresses of a panic that a host keeps.
const MAX_FRAMES: usize = 256;

/// A started plugin, opaque to the host.
pub type RawInstance = *const ();

/// What a plugin is started with.
#[repr(C)]
#[derive(Debug, StableAbi)]
pub struct RawStart {
    /// The configuration as JSON text of an object.
    pub config: RawText,
    /// The host's functions; copied by the plugin.
    pub services: *const RawServices,
    /// Whether panics are to be told with their return addresses.
    pub want_frames: bool,
}

/// An error or a panic on the boundary.
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
    /// A fault that tells nothing, to be overwritten.
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

    /// Lays an author's error out for the boundary.
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

    /// Lays a panic out for the boundary.
    pub fn from_panic(fault: &Fault) -> Self {
        let frames = fault.frames().iter().flat_map(|address| address.to_ne_bytes()).collect();
        Self {
            message: fault.message().as_bytes().to_vec().into(),
            location: fault.location().unwrap_or_default().as_bytes().to_vec().into(),
            frames: Vec::into(frames),
            ..Self::empty()
        }
    }

    /// What the plugin answered with.
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
            // Too long, or nested deeper than a reader follows; the text still tells.
            None => error.with_details(self.details.to_text(text::MAX_DETAILS_BYTES).into()),
        }
    }

    /// How the plugin panicked.
    pub fn to_panic(&self) -> Fault {
        let location = &self.location;
        let location = (!location.is_empty()).then(|| location.to_text(text::MAX_LOCATION_BYTES));
        let words = self.frames.as_bytes().chunks_exact(size_of::<usize>());
        let frames = words.filter_map(|word| word.try_into().ok().map(usize::from_ne_bytes));
        let message = self.message.to_text(text::MAX_MESSAGE_BYTES);
        Fault::new(message, location, frames.take(MAX_FRAMES).collect())
    }
}

/// State on its way through a reload.
#[repr(C)]
#[derive(Debug, StableAbi)]
pub struct RawSnapshot {
    /// Whether there is any.
    pub present: bool,
    /// The version of its shape.
    pub version: u32,
    /// The bytes.
    pub bytes: RawBuffer,
}

/// What the census of a plugin counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, StableAbi)]
pub struct RawCensus {
    /// Bytes allocated and not released; zero when `counts_bytes` is false.
    pub live_bytes: i64,
    /// Threads that the plugin started and that still run.
    pub live_threads: u32,
    /// Living threads that hold a thread-local value whose destructor lies in the plugin, besides
    /// the thread that asks.
    pub key_threads: u32,
    /// Whether the plugin's allocator counts.
    pub counts_bytes: bool,
    /// Whether threads and thread keys are counted.
    pub counts_threads: bool,
    /// Calls that left a pointer of the plugin in the C library, as a bit set: bit `n` is row `n`
    /// of the table of callbacks.
    pub calls: [u64; crate::census::WORDS],
}

/// The functions of a plugin's library.
#[repr(C)]
#[derive(Debug, StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
#[sabi(missing_field(panic))]
pub struct PluginRoot {
    /// Checks a configuration.
    pub validate_config: unsafe extern "C" fn(RawText, *mut RawFault) -> i32,
    /// Starts an instance and writes it through the second pointer.
    pub start: unsafe extern "C" fn(*const RawStart, *mut RawInstance, *mut RawFault) -> i32,
    /// Answers a call; the output is written only with [`code::OK`].
    pub execute: unsafe extern "C" fn(
        RawInstance,
        *const RawContext<'_>,
        *const RawPayload<'_>,
        *mut Output,
        *mut RawFault,
    ) -> i32,
    /// Asks an instance whether it can work.
    pub health: unsafe extern "C" fn(RawInstance, *mut RawFault) -> i32,
    /// Takes a snapshot; written only with [`code::OK`].
    pub snapshot: unsafe extern "C" fn(RawInstance, *mut RawSnapshot, *mut RawFault) -> i32,
    /// Gives a snapshot to an instance that was not called yet.
    pub restore: unsafe extern "C" fn(RawInstance, *const RawSnapshot, *mut RawFault) -> i32,
    /// Ends an instance and frees it.
    pub shutdown: unsafe extern "C" fn(RawInstance, *mut RawFault) -> i32,
    /// Frees an instance without its shutdown, after a start that was taken back.
    pub discard: unsafe extern "C" fn(RawInstance, *mut RawFault) -> i32,
    /// Counts what the library holds.
    pub census: unsafe extern "C" fn(*mut RawCensus),
    /// Gives back the library's thread keys, right before it is unmapped.
    #[sabi(last_prefix_field)]
    pub release_keys: unsafe extern "C" fn(),
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}

    const BASE_NAME: &'static str = "hotbay_plugin";
    const NAME: &'static str = "hotbay-plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}
