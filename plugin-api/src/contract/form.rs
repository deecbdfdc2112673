//! Forms: how a value crosses between two sides in one process whose shapes are equal. Plain values
//! cross as they are, text and lists of plain values as pointer and length, all others as postcard.
//!
//! Invariants of raw values:
//!
//! - **F1.** Both sides have the same shape text for the value, so they have the same `Raw` and
//!   `RawResult` types. The host compares the texts before it makes the first call.
//! - **F2.** The pointers in a `Raw` are valid until the call returns.
//! - **F3.** A `RawResult` is read once. It owns its memory, and frees it on the side that allocated it.

use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::slice;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{CodecError, Format};
use crate::payload::RawBuffer;

/// A type that crosses as it is: no pointers, no destructor, and the same layout on both sides.
///
/// # Safety
///
/// The type has a layout that its shape text determines: a primitive, or `repr(C)` with plain fields.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of `#[repr(C)]` contract data",
    label = "not a plain type",
    note = "numbers, `bool`, `char` and other `#[repr(C)]` contract data can; without `#[repr(C)]`, \
            the type crosses serialized, and may have any data as fields"
)]
pub unsafe trait Plain: Copy + 'static {}

/// Returns whether a type of this size and alignment is laid out as `repr(C)` with fields of these
/// sizes and alignments.
pub const fn is_repr_c(size: usize, align: usize, fields: &[(usize, usize)]) -> bool {
    let (mut end, mut largest, mut at) = (0_usize, 1, 0);
    while at < fields.len() {
        let (size, align) = fields[at];
        end = end.next_multiple_of(align) + size;
        if align > largest {
            largest = align;
        }
        at += 1;
    }
    align == largest && size == end.next_multiple_of(largest)
}

macro_rules! plain {
    ($($type:ty),*) => {
        // SAFETY: primitive types.
        $(unsafe impl Plain for $type {})*
    };
}
plain!((), bool, char, u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);

/// How values of the type `T` cross.
pub trait Form<T> {
    /// What the caller keeps until the call returns.
    type Store;
    /// The argument as it crosses.
    type Raw;
    /// The result as it crosses.
    type RawResult;
    /// Whether a result owns memory.
    const OWNS_RESULT: bool;

    /// Prepares an argument.
    ///
    /// # Errors
    ///
    /// If the value cannot be serialized.
    fn prepare(value: &T) -> Result<Self::Store, CodecError>;

    /// Returns the argument as it crosses, which borrows from both.
    fn lower(value: &T, store: &Self::Store) -> Self::Raw;

    /// Returns the number of bytes behind the pointers of an argument.
    fn byte_len(store: &Self::Raw) -> usize;

    /// Reads an argument.
    ///
    /// # Errors
    ///
    /// If it cannot be deserialized.
    ///
    /// # Safety
    ///
    /// F1, F2.
    unsafe fn lift(raw: &Self::Raw) -> Result<T, CodecError>;

    /// Converts a result into what crosses.
    ///
    /// # Errors
    ///
    /// If it cannot be serialized.
    fn lower_result(value: T) -> Result<Self::RawResult, CodecError>;

    /// Returns the number of bytes that a result owns.
    fn result_len(raw: &Self::RawResult) -> usize;

    /// Reads a result, and frees what the other side allocated.
    ///
    /// # Errors
    ///
    /// If it cannot be deserialized.
    ///
    /// # Safety
    ///
    /// F1, F3.
    unsafe fn lift_result(raw: Self::RawResult) -> Result<T, CodecError>;
}

/// How slices of `T` cross as arguments.
pub trait SliceForm<T>: Form<Vec<T>> {
    /// Prepares a slice.
    ///
    /// # Errors
    ///
    /// If a value cannot be serialized.
    fn prepare_slice(values: &[T]) -> Result<Self::Store, CodecError>;

    /// Returns the slice as it crosses, which borrows from both.
    fn lower_slice(values: &[T], store: &Self::Store) -> Self::Raw;

    /// Reads a slice, into `space` if it has to be deserialized.
    ///
    /// # Errors
    ///
    /// If it cannot be deserialized.
    ///
    /// # Safety
    ///
    /// F1, F2.
    unsafe fn borrow<'a>(
        raw: &'a Self::Raw,
        space: &'a mut Option<Vec<T>>,
    ) -> Result<&'a [T], CodecError>;
}

/// A borrowed slice as it crosses.
#[repr(C)]
#[derive(Debug)]
pub struct RawSlice<T> {
    ptr: *const T,
    len: usize,
}

impl<T> RawSlice<T> {
    #[inline]
    fn new(values: &[T]) -> Self {
        Self { ptr: values.as_ptr(), len: values.len() }
    }

    /// Returns the slice.
    ///
    /// # Safety
    ///
    /// F2.
    #[inline]
    unsafe fn get<'a>(&self) -> &'a [T] {
        // SAFETY: `new` took both from a slice, which F2 keeps valid.
        unsafe { slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// Owned values of one side, with the function that frees them.
///
/// Invariant V1: `ptr`, `len` and `capacity` are those of a `Vec<T>` of the side that owns
/// `release`.
#[repr(C)]
#[derive(Debug)]
pub struct RawVec<T: Plain> {
    ptr: *mut T,
    len: usize,
    capacity: usize,
    release: unsafe extern "C" fn(*mut T, usize, usize),
}

impl<T: Plain> RawVec<T> {
    fn new(values: Vec<T>) -> Self {
        let mut values = ManuallyDrop::new(values);
        let (ptr, len, capacity) = (values.as_mut_ptr(), values.len(), values.capacity());
        Self { ptr, len, capacity, release: free_values }
    }
}

impl<T: Plain> Drop for RawVec<T> {
    fn drop(&mut self) {
        // SAFETY: V1, freed once.
        unsafe { (self.release)(self.ptr, self.len, self.capacity) }
    }
}

/// Frees a vector of this side.
///
/// # Safety
///
/// The arguments are the parts of a `Vec<T>` of this copy of the crate, not freed yet.
unsafe extern "C" fn free_values<T: Plain>(ptr: *mut T, len: usize, capacity: usize) {
    // SAFETY: this function's own contract.
    drop(unsafe { Vec::from_raw_parts(ptr, len, capacity) });
}

/// The form of plain values.
#[derive(Debug)]
pub struct Copied;

impl<T: Plain> Form<T> for Copied {
    type Store = ();
    type Raw = T;
    type RawResult = T;
    const OWNS_RESULT: bool = false;

    #[inline(always)]
    fn prepare(_: &T) -> Result<(), CodecError> {
        Ok(())
    }

    #[inline(always)]
    fn lower(value: &T, (): &()) -> T {
        *value
    }

    #[inline(always)]
    fn byte_len(_: &T) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn lift(raw: &T) -> Result<T, CodecError> {
        Ok(*raw)
    }

    #[inline(always)]
    fn lower_result(value: T) -> Result<T, CodecError> {
        Ok(value)
    }

    #[inline(always)]
    fn result_len(_: &T) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn lift_result(raw: T) -> Result<T, CodecError> {
        Ok(raw)
    }
}

/// The form of text.
#[derive(Debug)]
pub struct Text;

impl Text {
    /// Reads text without a copy.
    ///
    /// # Safety
    ///
    /// F1, F2.
    #[inline]
    pub(super) unsafe fn borrow<'a>(raw: &RawSlice<u8>) -> &'a str {
        // SAFETY: F2.
        let bytes = unsafe { raw.get() };
        // SAFETY: F1 (the other side took the bytes from a `str`).
        unsafe { std::str::from_utf8_unchecked(bytes) }
    }

    #[inline]
    pub(super) fn lower(text: &str) -> RawSlice<u8> {
        RawSlice::new(text.as_bytes())
    }

    #[inline]
    pub(super) fn len(raw: &RawSlice<u8>) -> usize {
        raw.len
    }
}

impl Form<String> for Text {
    type Store = ();
    type Raw = RawSlice<u8>;
    type RawResult = RawBuffer;
    const OWNS_RESULT: bool = true;

    #[inline]
    fn prepare(_: &String) -> Result<(), CodecError> {
        Ok(())
    }

    #[inline]
    fn lower(value: &String, (): &()) -> RawSlice<u8> {
        Self::lower(value)
    }

    #[inline]
    fn byte_len(raw: &RawSlice<u8>) -> usize {
        raw.len
    }

    #[inline]
    unsafe fn lift(raw: &RawSlice<u8>) -> Result<String, CodecError> {
        // SAFETY: this function's contract.
        Ok(unsafe { Self::borrow(raw) }.to_owned())
    }

    #[inline]
    fn lower_result(value: String) -> Result<RawBuffer, CodecError> {
        Ok(value.into_bytes().into())
    }

    #[inline]
    fn result_len(raw: &RawBuffer) -> usize {
        raw.as_bytes().len()
    }

    #[inline]
    unsafe fn lift_result(raw: RawBuffer) -> Result<String, CodecError> {
        String::from_utf8(raw.as_bytes().to_vec()).map_err(CodecError::new)
    }
}

/// The form of lists of plain values.
#[derive(Debug)]
pub struct List;

impl<T: Plain> Form<Vec<T>> for List {
    type Store = ();
    type Raw = RawSlice<T>;
    type RawResult = RawVec<T>;
    const OWNS_RESULT: bool = true;

    #[inline]
    fn prepare(_: &Vec<T>) -> Result<(), CodecError> {
        Ok(())
    }

    #[inline]
    fn lower(values: &Vec<T>, (): &()) -> RawSlice<T> {
        RawSlice::new(values)
    }

    #[inline]
    fn byte_len(raw: &RawSlice<T>) -> usize {
        raw.len.saturating_mul(mem::size_of::<T>())
    }

    #[inline]
    unsafe fn lift(raw: &RawSlice<T>) -> Result<Vec<T>, CodecError> {
        // SAFETY: this function's contract.
        Ok(unsafe { raw.get() }.to_vec())
    }

    #[inline]
    fn lower_result(values: Vec<T>) -> Result<RawVec<T>, CodecError> {
        Ok(RawVec::new(values))
    }

    #[inline]
    fn result_len(raw: &RawVec<T>) -> usize {
        raw.len.saturating_mul(mem::size_of::<T>())
    }

    #[inline]
    unsafe fn lift_result(raw: RawVec<T>) -> Result<Vec<T>, CodecError> {
        // SAFETY: V1.
        Ok(unsafe { slice::from_raw_parts(raw.ptr, raw.len) }.to_vec())
    }
}

impl<T: Plain> SliceForm<T> for List {
    #[inline]
    fn prepare_slice(_: &[T]) -> Result<(), CodecError> {
        Ok(())
    }

    #[inline]
    fn lower_slice(values: &[T], (): &()) -> RawSlice<T> {
        RawSlice::new(values)
    }

    #[inline]
    unsafe fn borrow<'a>(
        raw: &'a RawSlice<T>,
        _: &'a mut Option<Vec<T>>,
    ) -> Result<&'a [T], CodecError> {
        // SAFETY: this function's contract.
        Ok(unsafe { raw.get() })
    }
}

/// The form of everything else: postcard.
#[derive(Debug)]
pub struct Encoded;

impl<T: Serialize + DeserializeOwned> Form<T> for Encoded {
    type Store = Vec<u8>;
    type Raw = RawSlice<u8>;
    type RawResult = RawBuffer;
    const OWNS_RESULT: bool = true;

    fn prepare(value: &T) -> Result<Vec<u8>, CodecError> {
        Format::Postcard.encode(value)
    }

    #[inline]
    fn lower(_: &T, store: &Vec<u8>) -> RawSlice<u8> {
        RawSlice::new(store)
    }

    #[inline]
    fn byte_len(raw: &RawSlice<u8>) -> usize {
        raw.len
    }

    unsafe fn lift(raw: &RawSlice<u8>) -> Result<T, CodecError> {
        // SAFETY: this function's contract.
        Format::Postcard.decode(unsafe { raw.get() })
    }

    fn lower_result(value: T) -> Result<RawBuffer, CodecError> {
        Ok(Format::Postcard.encode(&value)?.into())
    }

    #[inline]
    fn result_len(raw: &RawBuffer) -> usize {
        raw.as_bytes().len()
    }

    unsafe fn lift_result(raw: RawBuffer) -> Result<T, CodecError> {
        Format::Postcard.decode(raw.as_bytes())
    }
}

impl<T: Serialize + DeserializeOwned> SliceForm<T> for Encoded {
    fn prepare_slice(values: &[T]) -> Result<Vec<u8>, CodecError> {
        Format::Postcard.encode(values)
    }

    #[inline]
    fn lower_slice(_: &[T], store: &Vec<u8>) -> RawSlice<u8> {
        RawSlice::new(store)
    }

    unsafe fn borrow<'a>(
        raw: &'a RawSlice<u8>,
        space: &'a mut Option<Vec<T>>,
    ) -> Result<&'a [T], CodecError> {
        // SAFETY: this function's contract.
        Ok(space.insert(Format::Postcard.decode(unsafe { raw.get() })?))
    }
}

/// The form of an optional value, if that of the value is `F`.
#[derive(Debug)]
pub struct OptionalForm<F>(F);

/// An optional value as it crosses.
///
/// Invariant P1: `value` is initialized if `is_present`.
#[repr(C)]
pub struct RawOption<T> {
    is_present: bool,
    value: MaybeUninit<T>,
}

impl<T> RawOption<T> {
    #[inline]
    pub(super) fn new(value: Option<T>) -> Self {
        match value {
            Some(value) => Self { is_present: true, value: MaybeUninit::new(value) },
            None => Self { is_present: false, value: MaybeUninit::uninit() },
        }
    }

    #[inline]
    pub(super) fn get(&self) -> Option<&T> {
        // SAFETY: P1.
        self.is_present.then(|| unsafe { self.value.assume_init_ref() })
    }

    #[inline]
    fn take(mut self) -> Option<T> {
        // SAFETY: P1; not read again, since it is absent from now on.
        mem::take(&mut self.is_present).then(|| unsafe { self.value.assume_init_read() })
    }
}

impl<T> Drop for RawOption<T> {
    #[inline]
    fn drop(&mut self) {
        if self.is_present {
            // SAFETY: P1, dropped once.
            unsafe { self.value.assume_init_drop() }
        }
    }
}

impl<T> std::fmt::Debug for RawOption<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawOption").field("is_present", &self.is_present).finish_non_exhaustive()
    }
}

impl<T, F: Form<T>> Form<Option<T>> for OptionalForm<F> {
    type Store = Option<F::Store>;
    type Raw = RawOption<F::Raw>;
    type RawResult = RawOption<F::RawResult>;
    const OWNS_RESULT: bool = F::OWNS_RESULT;

    #[inline]
    fn prepare(value: &Option<T>) -> Result<Self::Store, CodecError> {
        value.as_ref().map(F::prepare).transpose()
    }

    #[inline]
    fn lower(value: &Option<T>, store: &Self::Store) -> Self::Raw {
        RawOption::new(
            value.as_ref().zip(store.as_ref()).map(|(value, store)| F::lower(value, store)),
        )
    }

    #[inline]
    fn byte_len(raw: &Self::Raw) -> usize {
        raw.get().map_or(0, F::byte_len)
    }

    #[inline]
    unsafe fn lift(raw: &Self::Raw) -> Result<Option<T>, CodecError> {
        // SAFETY: this function's contract.
        raw.get().map(|raw| unsafe { F::lift(raw) }).transpose()
    }

    #[inline]
    fn lower_result(value: Option<T>) -> Result<Self::RawResult, CodecError> {
        Ok(RawOption::new(value.map(F::lower_result).transpose()?))
    }

    #[inline]
    fn result_len(raw: &Self::RawResult) -> usize {
        raw.get().map_or(0, F::result_len)
    }

    #[inline]
    unsafe fn lift_result(raw: Self::RawResult) -> Result<Option<T>, CodecError> {
        // SAFETY: this function's contract.
        raw.take().map(|raw| unsafe { F::lift_result(raw) }).transpose()
    }
}
