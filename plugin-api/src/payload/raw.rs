//! The ABI of bytes: C structs of pointers and lengths.

use std::marker::PhantomData;
use std::{fmt, ptr, slice};

use abi_stable::StableAbi;

use super::{ContentType, Media, OTHER, Payload};
use crate::text;

/// Owned bytes with the function that frees them.
///
/// Invariant R1: `ptr`, `len` and `capacity` are those of a `Vec<u8>` of the side that owns
/// `release`, or `ptr` is null, the numbers are zero and `release` is `None`.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawBuffer {
    ptr: *mut u8,
    len: usize,
    capacity: usize,
    release: Option<unsafe extern "C" fn(*mut u8, usize, usize)>,
}

// SAFETY: R1 (a uniquely owned vector, which any thread may free).
unsafe impl Send for RawBuffer {}
// SAFETY: R1 (shared access only reads bytes).
unsafe impl Sync for RawBuffer {}

impl RawBuffer {
    /// Creates an empty buffer.
    pub const fn empty() -> Self {
        Self { ptr: ptr::null_mut(), len: 0, capacity: 0, release: None }
    }

    /// Returns whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: R1 (pointer and length of a vector that is valid as long as `self`).
        unsafe { slice::from_raw_parts(self.ptr, self.len) }
    }

    /// Returns the bytes as text, truncated to `max_bytes`. Invalid UTF-8 is replaced.
    pub fn to_text(&self, max_bytes: usize) -> String {
        // A few bytes more, so that `cut` detects a text that is too long.
        let bytes = self.as_bytes();
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max_bytes + 4)]);
        text::cut(&text, max_bytes).into_owned()
    }
}

impl From<Vec<u8>> for RawBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        let (ptr, len, capacity) = into_parts(bytes);
        Self { ptr, len, capacity, release: Some(free_vec) }
    }
}

impl Drop for RawBuffer {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: R1 (the parts of a vector of the side that owns `release`, freed once).
            unsafe { release(self.ptr, self.len, self.capacity) }
        }
    }
}

impl fmt::Debug for RawBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[inline]
pub(super) fn into_parts(bytes: Vec<u8>) -> (*mut u8, usize, usize) {
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    (bytes.as_mut_ptr(), bytes.len(), bytes.capacity())
}

/// Frees a vector of this side.
///
/// # Safety
///
/// The arguments are the parts of a `Vec<u8>` of this copy of the crate, not freed yet.
pub(super) unsafe extern "C" fn free_vec(ptr: *mut u8, len: usize, capacity: usize) {
    // SAFETY: this function's own contract.
    drop(unsafe { Vec::from_raw_parts(ptr, len, capacity) });
}

/// The ABI of a [`Payload`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawPayload<'a> {
    ptr: *const u8,
    // Not beside `len`: the compiler would copy a slice by one load of two words, which waits if
    // they were just written one by one.
    type_ptr: *const u8,
    len: usize,
    type_len: u32,
    type_code: u32,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> RawPayload<'a> {
    /// Borrows `payload`.
    #[inline]
    pub fn new(payload: Payload<'a>) -> Self {
        let Media { code, name } = payload.media;
        Self {
            ptr: payload.bytes.as_ptr(),
            len: payload.bytes.len(),
            type_ptr: name.as_ptr(),
            // A name over 4 GiB is not a media type.
            type_len: u32::try_from(name.len()).unwrap_or(0),
            type_code: code,
            lifetime: PhantomData,
        }
    }

    /// Returns the number of bytes.
    #[inline]
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// Returns the borrowed payload.
    #[inline]
    pub fn get(&self) -> Payload<'a> {
        // SAFETY: `new` took pointer and length from a slice that is valid for `'a`.
        let bytes = unsafe { slice::from_raw_parts(self.ptr, self.len) };
        let name = if self.type_code == OTHER { self.type_name() } else { "" };
        Payload { bytes, media: Media { code: self.type_code, name } }
    }

    #[cold]
    fn type_name(&self) -> &'a str {
        // SAFETY: as in `get`.
        let name = unsafe { slice::from_raw_parts(self.type_ptr, self.type_len as usize) };
        std::str::from_utf8(name).unwrap_or(ContentType::BYTES)
    }
}

impl fmt::Debug for RawPayload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}
