//! The output of a call: a few inline bytes, or a vector of the side that created it.

use std::mem::{self, MaybeUninit};
use std::{fmt, ptr, slice};

use abi_stable::StableAbi;
use serde::{Deserialize, Serialize};

use super::raw::{free_vec, into_parts};
use super::{
    BYTES_CODE, ContentType, HTML_CODE, JSON_CODE, Media, OTHER, Payload, TEXT_CODE, code_of,
    name_of, text_of,
};
use crate::PluginError;

/// The output of one call: owned bytes with a content type.
///
/// [`Output::copy_of`] stores up to 24 bytes (12 on a 32-bit target) inline, without an allocation.
/// All other outputs are a vector, which the side that created it frees.
///
/// ```
/// use hotbay_plugin::{ContentType, Output};
///
/// let output = Output::json(&["a", "b"])?;
/// assert_eq!(output.as_text()?, r#"["a","b"]"#);
/// assert_eq!(output.content_type(), ContentType::JSON);
///
/// let csv = Output::text("a,b").with_content_type("text/csv");
/// assert_eq!(csv.content_type(), "text/csv");
/// # Ok::<(), hotbay_plugin::PluginError>(())
/// ```
// Invariant O1: either `release` is `None` and `words` hold `extra` inline bytes, or `release` is
// `Some` and `words` are pointer, length and capacity of a `Vec<u8>` of that side. The last `extra`
// bytes of that vector are the name of the content type, which is empty unless `type_code` is
// `OTHER`.
#[repr(C)]
#[derive(StableAbi)]
pub struct Output {
    words: [*mut u8; 3],
    release: Option<unsafe extern "C" fn(*mut u8, usize, usize)>,
    type_code: u32,
    extra: u32,
}

const MAX_INLINE_BYTES: usize = mem::size_of::<[*mut u8; 3]>();
const WORD_BYTES: usize = mem::size_of::<usize>();

/// Returns up to [`MAX_INLINE_BYTES`] bytes as words, which stay in registers; a copy of unknown
/// length is a call. Missing bytes are zero.
#[inline]
fn words_of(bytes: &[u8]) -> [usize; 3] {
    let whole = |index: usize| {
        let word = bytes.get(index * WORD_BYTES..)?.first_chunk()?;
        Some(usize::from_ne_bytes(*word))
    };
    match (whole(0), whole(1), whole(2)) {
        (Some(first), Some(second), Some(third)) => [first, second, third],
        (Some(first), Some(second), None) => [first, second, part(&bytes[2 * WORD_BYTES..])],
        (Some(first), ..) => [first, part(&bytes[WORD_BYTES..]), 0],
        (None, ..) => [part(bytes), 0, 0],
    }
}

/// Returns the word that starts with these bytes, fewer than a word has, and ends with zeros.
#[inline]
fn part(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    let mut word = [0; WORD_BYTES];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    usize::from_ne_bytes(word)
}

// SAFETY: O1 (plain bytes, or a uniquely owned vector that any thread may free).
unsafe impl Send for Output {}
// SAFETY: O1 (shared access only reads bytes).
unsafe impl Sync for Output {}

impl Output {
    /// Creates an output of plain text.
    #[inline]
    pub fn text(text: impl Into<String>) -> Self {
        Self::from_vec(text.into().into_bytes(), TEXT_CODE, 0)
    }

    /// Creates an output of HTML.
    #[inline]
    pub fn html(html: impl Into<String>) -> Self {
        Self::from_vec(html.into().into_bytes(), HTML_CODE, 0)
    }

    /// Creates an output of arbitrary bytes.
    #[inline]
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::from_vec(bytes.into(), BYTES_CODE, 0)
    }

    /// Serializes a value as JSON.
    ///
    /// # Errors
    ///
    /// Code 500 if `value` cannot be serialized, such as a map with keys that are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, PluginError> {
        match serde_json::to_vec(value) {
            Ok(bytes) => Ok(Self::from_vec(bytes, JSON_CODE, 0)),
            Err(error) => {
                Err(PluginError::new(500, format!("cannot serialize output as JSON: {error}")))
            }
        }
    }

    /// Copies `bytes`, without an allocation if they are short.
    #[inline]
    pub fn copy_of(bytes: &[u8]) -> Self {
        if bytes.len() > MAX_INLINE_BYTES {
            return Self::bytes(bytes);
        }
        let words = words_of(bytes).map(ptr::without_provenance_mut);
        Self { words, release: None, type_code: BYTES_CODE, extra: bytes.len() as u32 }
    }

    /// Copies a payload, without an allocation if it is short.
    pub(super) fn of(payload: Payload<'_>) -> Self {
        let Media { code, name } = payload.media;
        let mut copy = Self::copy_of(payload.bytes);
        if code == OTHER {
            return copy.with_content_type(ContentType::new(name.to_owned()));
        }
        copy.type_code = code;
        copy
    }

    /// Sets the content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<ContentType>) -> Self {
        let content_type = content_type.into();
        let name = content_type.as_str();
        let type_code = code_of(name);
        if self.type_code != OTHER && type_code != OTHER {
            self.type_code = type_code;
            return self;
        }
        let mut bytes = self.as_bytes().to_vec();
        if type_code == OTHER {
            bytes.extend_from_slice(name.as_bytes());
        }
        let extra = if type_code == OTHER { name.len() } else { 0 };
        Self::from_vec(bytes, type_code, extra as u32)
    }

    #[inline]
    fn from_vec(bytes: Vec<u8>, type_code: u32, extra: u32) -> Self {
        let (ptr, len, capacity) = into_parts(bytes);
        let words = [ptr, ptr::without_provenance_mut(len), ptr::without_provenance_mut(capacity)];
        Self { words, release: Some(free_vec), type_code, extra }
    }

    /// Returns the bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        if self.release.is_none() {
            let words = (&raw const self.words).cast::<u8>();
            // SAFETY: O1 (`extra` inline bytes).
            return unsafe { slice::from_raw_parts(words, self.extra as usize) };
        }
        let len = self.words[1].addr() - self.extra as usize;
        // SAFETY: O1 (pointer and length of a vector that is valid as long as `self`).
        unsafe { slice::from_raw_parts(self.words[0], len) }
    }

    /// Returns the bytes as text.
    ///
    /// # Errors
    ///
    /// Code 400 if the bytes are not UTF-8; the message names the first invalid byte.
    #[inline]
    pub fn as_text(&self) -> Result<&str, PluginError> {
        text_of(self.as_bytes())
    }

    /// Parses the bytes as JSON.
    ///
    /// # Errors
    ///
    /// Code 400 if the bytes are not JSON or do not match `T`; the message names line and column.
    pub fn parse_json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PluginError> {
        super::Payload::bytes(self.as_bytes()).json()
    }

    /// Returns whether the media type is not one of the constants of [`ContentType`].
    #[doc(hidden)]
    #[inline]
    pub fn has_own_content_type(&self) -> bool {
        self.type_code == OTHER
    }

    /// Returns the media type, such as `application/json`.
    #[inline]
    pub fn content_type(&self) -> &str {
        if self.type_code != OTHER || self.release.is_none() {
            return name_of(self.type_code);
        }
        let extra = self.extra as usize;
        let start = self.words[1].addr() - extra;
        let start = self.words[0].wrapping_add(start);
        // SAFETY: O1 (the last `extra` bytes of the vector).
        let name = unsafe { slice::from_raw_parts(start, extra) };
        std::str::from_utf8(name).unwrap_or(ContentType::BYTES)
    }

    /// Returns the number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Returns whether the output is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the output through a pointer, field by field. The other side of the call reads the
    /// fields right after; a load that spans two stores would wait until both have left the
    /// processor's store buffer, so the compiler must not combine them.
    ///
    /// # Safety
    ///
    /// `to` is valid to write. The value behind it is overwritten without a drop.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one proof for all fields")]
    #[inline]
    pub(crate) unsafe fn store(self, to: *mut Self) {
        let output = mem::ManuallyDrop::new(self);
        // SAFETY: this function's contract.
        unsafe {
            for (index, word) in output.words.iter().enumerate() {
                (&raw mut (*to).words[index]).write_volatile(*word);
            }
            (&raw mut (*to).release).write_volatile(output.release);
            (&raw mut (*to).type_code).write_volatile(output.type_code);
            (&raw mut (*to).extra).write_volatile(output.extra);
        }
    }

    /// Returns whether the bytes are inline, so that the output holds no memory of its creator.
    #[doc(hidden)]
    #[inline]
    pub fn is_inline(&self) -> bool {
        self.release.is_none()
    }
}

/// Space for the output of a call. Not initialized until the plugin writes to it: stores that are
/// overwritten at once would cost as much as the rest of a call's bookkeeping.
#[doc(hidden)]
pub struct OutputSlot {
    output: MaybeUninit<Output>,
    /// Whether `output` holds a value.
    is_written: bool,
}

impl OutputSlot {
    /// Creates an empty slot.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one proof for all")]
    #[inline(always)]
    pub fn new() -> Self {
        let mut slot = MaybeUninit::<Self>::uninit();
        // Field by field: as a constant, the whole slot would be filled with zeros.
        // SAFETY: `output` needs no value.
        unsafe {
            (&raw mut (*slot.as_mut_ptr()).is_written).write(false);
            slot.assume_init()
        }
    }

    /// Returns the address for the plugin to write to. The slot must be empty, or its output leaks.
    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut Output {
        self.output.as_mut_ptr()
    }

    /// Records that the plugin wrote an output.
    ///
    /// # Safety
    ///
    /// A valid output was written through [`as_mut_ptr`](Self::as_mut_ptr).
    #[inline(always)]
    pub unsafe fn set_written(&mut self) {
        self.is_written = true;
    }

    /// Replaces the output.
    #[inline]
    pub fn set(&mut self, output: Output) {
        drop(self.take());
        // SAFETY: the slot is valid to write, and empty.
        unsafe { output.store(self.output.as_mut_ptr()) };
        self.is_written = true;
    }

    /// Returns the output, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&Output> {
        // SAFETY: `is_written`.
        self.is_written.then(|| unsafe { self.output.assume_init_ref() })
    }

    /// Takes the output, if there is one. Reads it field by field, as a plugin writes it.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one proof for all fields")]
    #[inline(always)]
    pub fn take(&mut self) -> Option<Output> {
        if !mem::replace(&mut self.is_written, false) {
            return None;
        }
        let from = self.output.as_ptr();
        // SAFETY: it was written, and is not read again: `is_written` is false now.
        unsafe {
            Some(Output {
                words: [
                    (&raw const (*from).words[0]).read_volatile(),
                    (&raw const (*from).words[1]).read_volatile(),
                    (&raw const (*from).words[2]).read_volatile(),
                ],
                release: (&raw const (*from).release).read_volatile(),
                type_code: (&raw const (*from).type_code).read_volatile(),
                extra: (&raw const (*from).extra).read_volatile(),
            })
        }
    }
}

impl Default for OutputSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for OutputSlot {
    #[inline]
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl fmt::Debug for OutputSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutputSlot").field(&self.get()).finish()
    }
}

impl Default for Output {
    /// Creates an empty output.
    #[inline]
    fn default() -> Self {
        Self { words: [ptr::null_mut(); 3], release: None, type_code: BYTES_CODE, extra: 0 }
    }
}

impl Drop for Output {
    #[inline]
    fn drop(&mut self) {
        if let Some(release) = self.release {
            let [ptr, len, capacity] = self.words;
            // SAFETY: O1 (the parts of a vector of the side that owns `release`).
            unsafe { release(ptr, len.addr(), capacity.addr()) }
        }
    }
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&str> for Output {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<Vec<u8>> for Output {
    fn from(bytes: Vec<u8>) -> Self {
        Self::bytes(bytes)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("len", &self.len())
            .field("content_type", &self.content_type())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_bytes_and_content_type() {
        for len in [0, 1, MAX_INLINE_BYTES - 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 4096] {
            let bytes: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            for output in [Output::copy_of(&bytes), Output::bytes(bytes.clone())] {
                assert_eq!(output.as_bytes(), bytes);
                assert_eq!(output.content_type(), ContentType::BYTES);
                for name in ["text/csv", ContentType::JSON, "", "a/b; charset=ü"] {
                    let first = Output::copy_of(&bytes).with_content_type("x/y");
                    let output = first.with_content_type(ContentType::new(name));
                    assert_eq!(output.as_bytes(), bytes);
                    assert_eq!(output.content_type(), name);
                }
            }
        }
    }

    #[test]
    fn only_short_copies_are_inline() {
        assert!(Output::copy_of(&[1; MAX_INLINE_BYTES]).is_inline());
        assert!(!Output::copy_of(&[1; MAX_INLINE_BYTES + 1]).is_inline());
        assert!(!Output::text("x").is_inline());
    }

    #[test]
    fn invalid_utf8_is_reported_with_its_position() {
        let error = Output::copy_of(b"ab\xff").as_text().unwrap_err();
        assert_eq!(error.code(), 400);
        assert_eq!(error.message(), "invalid UTF-8 at byte 2");
    }
}
