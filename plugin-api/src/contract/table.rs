//! The tables of a library's contracts: plain C structs that the root module's `contracts` returns.
//! They rest on nothing of abi_stable.

use crate::context::RawContext;
use crate::payload::{Output, RawBuffer, RawPayload};
use crate::root::{ContractTables, RawFault, RawInstance};

/// Result codes of methods, besides those of the root module.
pub mod code {
    /// An argument cannot be read; the fault says why.
    pub const BAD_ARGUMENTS: i32 = 3;
    /// The result cannot be serialized; the fault says why.
    pub const BAD_RESULT: i32 = 4;
    /// The task of an async method was dropped before it was finished.
    pub const CANCELLED: i32 = 5;
}

/// Calls a method with arguments as they are, with its type removed: each method has the type
///
/// ```text
/// unsafe extern "C" fn(RawInstance, *const RawContext, ARGUMENTS…, *mut RESULT, *mut RawFault) -> i32
/// ```
///
/// The arguments are the `Raw` of their kinds, one by one. The context is null for a call without a
/// deadline, cancellation and trace. The result, a `RawResult` of the method's output, is written
/// only if the function returns zero.
pub type DirectFn = unsafe extern "C" fn();

/// Calls a method with serialized arguments in the given [`Format`](super::Format); writes the
/// serialized output only if it returns zero.
pub type SerializedFn = unsafe extern "C" fn(
    RawInstance,
    *const RawContext<'_>,
    u32,
    *const RawPayload<'_>,
    *mut Output,
    *mut RawFault,
) -> i32;

/// Starts an async method with serialized arguments, which it takes. It returns zero and writes the
/// task, and then calls the completion once, on any thread, perhaps before it returns. Otherwise it
/// writes the fault, and does not call the completion.
pub type StartFn = unsafe extern "C" fn(
    RawInstance,
    *const RawContext<'_>,
    u32,
    RawBuffer,
    RawCompletion,
    *mut RawTask,
    *mut RawFault,
) -> i32;

/// The function of the host that an async method calls when it is finished. It takes the output if
/// the code is zero, and the fault otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawCompletion {
    /// Identifies the call.
    pub token: u64,
    /// The function.
    pub complete: unsafe extern "C" fn(u64, i32, Output, RawFault),
}

/// A task of an async method.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawTask {
    /// Identifies the task.
    pub data: *const (),
    /// Drops the task's future at its next await. May be called after the completion.
    pub cancel: unsafe extern "C" fn(*const ()),
    /// Forgets the task, which continues. Called once.
    pub release: unsafe extern "C" fn(*const ()),
}

// SAFETY: the functions may be called on any thread.
unsafe impl Send for RawTask {}
// SAFETY: as above.
unsafe impl Sync for RawTask {}

/// Text of the library.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawStr {
    ptr: *const u8,
    len: usize,
}

impl RawStr {
    /// Creates one.
    pub const fn new(text: &'static str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() }
    }

    /// Returns the text; an empty one if it is not UTF-8.
    ///
    /// # Safety
    ///
    /// The library that owns the table is mapped for `'a`.
    pub unsafe fn get<'a>(&self) -> &'a str {
        // SAFETY: `new` took both from a static text.
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr, self.len) };
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// A method. New fields go at the end; see [`RawContract::method_size`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawMethod {
    /// Its name.
    pub name: RawStr,
    /// The hash of its signature.
    pub hash: u64,
    /// Calls it with arguments as they are; `None` if it is async.
    pub direct: Option<DirectFn>,
    /// Calls it with serialized arguments; `None` if it is async.
    pub serialized: Option<SerializedFn>,
    /// Starts it; `None` if it is not async.
    pub start: Option<StartFn>,
}

/// A contract that a library serves.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawContract {
    /// Its name.
    pub name: RawStr,
    /// The first of its methods, in the order of its text.
    pub methods: *const RawMethod,
    /// The number of methods.
    pub method_count: usize,
    /// The size of a method in bytes: larger if the library's SDK is newer.
    pub method_size: usize,
}

// SAFETY: they point to static memory that nothing writes.
unsafe impl Sync for RawContract {}
// SAFETY: as above.
unsafe impl Send for RawContract {}

impl RawContract {
    /// Creates the table of a contract.
    pub const fn new(name: &'static str, methods: &'static [RawMethod]) -> Self {
        Self {
            name: RawStr::new(name),
            methods: methods.as_ptr(),
            method_count: methods.len(),
            method_size: size_of::<RawMethod>(),
        }
    }

    /// Returns a method, if the table has so many and is of a known form.
    ///
    /// # Safety
    ///
    /// The library that owns the table is mapped.
    pub unsafe fn method(&self, at: usize) -> Option<RawMethod> {
        if at >= self.method_count || self.method_size < size_of::<RawMethod>() {
            return None;
        }
        // SAFETY: the methods are an array of `method_count` values of `method_size` bytes.
        let method = unsafe { self.methods.byte_add(at.checked_mul(self.method_size)?) };
        // SAFETY: as above; each begins with the fields of this version.
        Some(unsafe { *method })
    }
}

/// Returns the address and number of tables, for the root module.
pub const fn tables(contracts: &'static [RawContract]) -> ContractTables {
    ContractTables { first: contracts.as_ptr().cast(), count: contracts.len() }
}
