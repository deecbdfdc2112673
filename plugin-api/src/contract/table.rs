//! The tables of a library's contracts: plain C structs that the root module's `contracts` returns.
//! They rest on nothing of abi_stable.

use std::mem::{MaybeUninit, offset_of};

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
    /// The stream has no more items.
    pub const FINISHED: i32 = 6;
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
/// writes the fault, and may have called the completion as cancelled.
pub type StartFn = unsafe extern "C" fn(
    RawInstance,
    *const RawContext<'_>,
    u32,
    RawBuffer,
    RawCompletion,
    *mut RawTask,
    *mut RawFault,
) -> i32;

/// Opens the stream of a method with serialized arguments; writes it only if it returns zero.
pub type OpenFn = unsafe extern "C" fn(
    RawInstance,
    *const RawContext<'_>,
    u32,
    *const RawPayload<'_>,
    *mut RawStream,
    *mut RawFault,
) -> i32;

/// A stream of a method. Its items are serialized in the format that it was opened with. Nothing
/// follows a failure.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawStream {
    /// Identifies the stream.
    pub data: *const (),
    /// Makes the next item on this thread, and writes it if it returns zero; the last code is
    /// [`code::FINISHED`]. `None` if the plugin's runtime makes the items.
    pub next: Option<
        unsafe extern "C" fn(*const (), *const RawContext<'_>, *mut Output, *mut RawFault) -> i32,
    >,
    /// Requests up to this number of items, which the completion takes as a [`batch`] as soon as the
    /// plugin would have to wait. At most one request at a time; `None` if there is `next`.
    pub request: Option<unsafe extern "C" fn(*const (), u32, RawCompletion)>,
    /// Ends what makes an item, as far as the plugin queries it. May be called during any other
    /// function.
    pub cancel: unsafe extern "C" fn(*const ()),
    /// Drops the stream. Called once; may panic, which the code says.
    pub release: unsafe extern "C" fn(*const (), *mut RawFault) -> i32,
}

// SAFETY: the functions may be called on any thread.
unsafe impl Send for RawStream {}
// SAFETY: as above.
unsafe impl Sync for RawStream {}

/// Several items in one output: a byte that says whether more follow, and each item after its length
/// (`u32`, little endian).
pub mod batch {
    /// More items may follow.
    pub const MORE: u8 = 0;
    /// The stream ends with this batch.
    pub const LAST: u8 = 1;

    /// Adds an item.
    ///
    /// # Panics
    ///
    /// Panics if the item has 4 GiB or more.
    pub fn push(batch: &mut Vec<u8>, item: &[u8]) {
        let length = u32::try_from(item.len()).expect("an item is smaller than 4 GiB");
        batch.extend_from_slice(&length.to_le_bytes());
        batch.extend_from_slice(item);
    }

    /// Returns whether the batch is the last one, and its items. `None` if it is invalid.
    pub fn parse(batch: &[u8]) -> Option<(bool, Vec<&[u8]>)> {
        let (is_last, mut rest) = match batch.split_first()? {
            (&MORE, rest) => (false, rest),
            (&LAST, rest) => (true, rest),
            _ => return None,
        };
        let mut items = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (item, after) = after.split_at_checked(length)?;
            items.push(item);
            rest = after;
        }
        rest.is_empty().then_some((is_last, items))
    }
}

/// Starts a call of an async plugin, like [`StartFn`], with the input in the place of arguments.
pub type StartExecuteFn = unsafe extern "C" fn(
    RawInstance,
    *const RawContext<'_>,
    Output,
    RawCompletion,
    *mut RawTask,
    *mut RawFault,
) -> i32;

/// The functions of an async plugin.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawAsyncPlugin {
    /// Starts a call.
    pub start: StartExecuteFn,
}

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
    /// Opens its stream; `None` if it returns none.
    pub open: Option<OpenFn>,
}

/// The size of a method without the fields that were added later.
const MIN_METHOD_BYTES: usize = offset_of!(RawMethod, open);

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
    /// The size of a method in bytes: larger if the library's SDK is newer, smaller if it is older.
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
        if at >= self.method_count || self.method_size < MIN_METHOD_BYTES {
            return None;
        }
        // SAFETY: the methods are an array of `method_count` values of `method_size` bytes.
        let method = unsafe { self.methods.byte_add(at.checked_mul(self.method_size)?) };
        // Functions that an older library does not have are zero, which is `None`.
        let mut found = MaybeUninit::<RawMethod>::zeroed();
        let size = self.method_size.min(size_of::<RawMethod>());
        // SAFETY: as above; each begins with fields of this version.
        unsafe { found.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(method.cast(), size) };
        // SAFETY: the fields before `open` were copied, and `open` was copied or is zero.
        Some(unsafe { found.assume_init() })
    }
}

/// Returns the address and number of tables, for the root module.
pub const fn tables(contracts: &'static [RawContract]) -> ContractTables {
    ContractTables { first: contracts.as_ptr().cast(), count: contracts.len() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn methods_of_older_tables_lack_later_functions() {
        #[repr(C)]
        struct Older {
            name: RawStr,
            hash: u64,
            functions: [usize; 3],
        }
        static OLDER: [Older; 2] = [
            Older { name: RawStr::new("a"), hash: 1, functions: [0; 3] },
            Older { name: RawStr::new("b"), hash: 2, functions: [0; 3] },
        ];
        // SAFETY: its text is static.
        unsafe impl Sync for Older {}
        let mut table = RawContract {
            name: RawStr::new("older"),
            methods: OLDER.as_ptr().cast(),
            method_count: OLDER.len(),
            method_size: size_of::<Older>(),
        };
        // SAFETY: the table is in this program.
        let method = |table: &RawContract, at| unsafe { table.method(at) };
        let second = method(&table, 1).expect("a method");
        // SAFETY: as above.
        assert_eq!((unsafe { second.name.get() }, second.hash), ("b", 2));
        assert!(second.open.is_none());
        assert!(method(&table, 2).is_none());
        table.method_size -= 1;
        assert!(method(&table, 1).is_none());
    }

    proptest! {
        #[test]
        fn items_of_a_batch_are_those_pushed(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            is_last in any::<bool>(),
        ) {
            let mut bytes = vec![if is_last { batch::LAST } else { batch::MORE }];
            items.iter().for_each(|item| batch::push(&mut bytes, item));
            let (found, parsed) = batch::parse(&bytes).expect("valid");
            prop_assert_eq!(found, is_last);
            prop_assert_eq!(parsed, items);
        }

        #[test]
        fn any_bytes_are_a_batch_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some((_, items)) = batch::parse(&bytes) {
                let found: usize = items.iter().map(|item| item.len() + 4).sum();
                prop_assert_eq!(found + 1, bytes.len());
            }
        }
    }
}
