//! A plugin without hotbay: an abi_stable trait object and a C function, both of which return their
//! input on the heap. Calls have no guards, counters or checks.

#![allow(
    missing_docs,
    missing_debug_implementations,
    non_local_definitions,
    reason = "the macros of abi_stable generate items without these"
)]

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_trait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RBox, RSlice, RVec};

/// The interface of the trait object.
#[sabi_trait]
pub trait Echo: Send + Sync {
    /// Returns a copy of `input`.
    fn execute(&self, input: RSlice<'_, u8>) -> RVec<u8>;
    /// Adds two numbers.
    fn score(&self, a: f64, b: f64) -> f64;
}

/// The trait object.
pub type EchoBox = Echo_TO<'static, RBox<()>>;

/// The root module.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = RawRootRef)))]
#[sabi(missing_field(panic))]
pub struct RawRoot {
    /// Creates a plugin.
    pub make: extern "C" fn() -> EchoBox,
    /// The same work as a plain function: input, length, and a pointer to the output.
    pub echo: unsafe extern "C" fn(*const u8, usize, *mut CBytes),
    /// Adds two numbers.
    pub score: extern "C" fn(f64, f64) -> f64,
    /// Returns the length of a text.
    #[sabi(last_prefix_field)]
    pub length: unsafe extern "C" fn(*const u8, usize) -> u64,
}

impl RootModule for RawRootRef {
    abi_stable::declare_root_module_statics! {RawRootRef}

    const BASE_NAME: &'static str = "bench_raw";
    const NAME: &'static str = "bench-raw";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}

/// Bytes on the heap of the library that allocated them.
#[repr(C)]
#[derive(StableAbi)]
pub struct CBytes {
    ptr: *mut u8,
    len: usize,
    capacity: usize,
    release: unsafe extern "C" fn(*mut u8, usize, usize),
}

impl CBytes {
    /// Returns the bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: pointer and length of a vector that lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl Drop for CBytes {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the parts of a vector of the library that `release` belongs to.
        unsafe { (self.release)(self.ptr, self.len, self.capacity) }
    }
}

#[cfg(feature = "export")]
mod exported {
    use abi_stable::prefix_type::PrefixTypeTrait;
    use abi_stable::sabi_trait::TD_Opaque;

    use super::*;

    struct Plain;

    impl Echo for Plain {
        fn execute(&self, input: RSlice<'_, u8>) -> RVec<u8> {
            RVec::from(input.as_slice().to_vec())
        }

        fn score(&self, a: f64, b: f64) -> f64 {
            a + b
        }
    }

    extern "C" fn make() -> EchoBox {
        Echo_TO::from_value(Plain, TD_Opaque)
    }

    unsafe extern "C" fn echo(input: *const u8, len: usize, output: *mut CBytes) {
        // SAFETY: the caller lends `len` bytes.
        let input = unsafe { std::slice::from_raw_parts(input, len) };
        let mut bytes = std::mem::ManuallyDrop::new(input.to_vec());
        let bytes = CBytes {
            ptr: bytes.as_mut_ptr(),
            len: bytes.len(),
            capacity: bytes.capacity(),
            release,
        };
        // SAFETY: the caller provides memory for the output.
        unsafe { output.write(bytes) };
    }

    extern "C" fn score(a: f64, b: f64) -> f64 {
        a + b
    }

    unsafe extern "C" fn length(_: *const u8, len: usize) -> u64 {
        len as u64
    }

    unsafe extern "C" fn release(ptr: *mut u8, len: usize, capacity: usize) {
        // SAFETY: the parts of a vector that `echo` took apart.
        drop(unsafe { Vec::from_raw_parts(ptr, len, capacity) });
    }

    #[abi_stable::export_root_module]
    fn root() -> RawRootRef {
        RawRoot { make, echo, score, length }.leak_into_prefix()
    }
}
