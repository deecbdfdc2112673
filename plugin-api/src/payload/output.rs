//! The output of a call: a few inline bytes, or a vector of the side that created it.

use std::{fmt, mem, ptr, slice};

use abi_stable::StableAbi;
use serde::{Deserialize, Serialize};

use super::raw::{free_vec, into_parts};
use super::{
    BYTES_CODE, ContentType, HTML_CODE, JSON_CODE, OTHER, TEXT_CODE, code_of, name_of, text_of,
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

// SAFETY: O1 (plain bytes, or a uniquely owned vector that any thread may free).
unsafe impl Send for Output {}
// SAFETY: O1 (shared access only reads bytes).
unsafe impl Sync for Output {}

impl Output {
    /// Creates an output of plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::from_vec(text.into().into_bytes(), TEXT_CODE, 0)
    }

    /// Creates an output of HTML.
    pub fn html(html: impl Into<String>) -> Self {
        Self::from_vec(html.into().into_bytes(), HTML_CODE, 0)
    }

    /// Creates an output of arbitrary bytes.
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
        let mut words = [0_usize; 3];
        // SAFETY: writes at most MAX_INLINE_BYTES bytes, the size of `words`.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast(), bytes.len());
        }
        // Converted word by word, so that the compiler can keep the value in registers.
        let words = words.map(ptr::without_provenance_mut);
        Self { words, release: None, type_code: BYTES_CODE, extra: bytes.len() as u32 }
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
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Returns whether the output is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the bytes are inline, so that the output holds no memory of its creator.
    #[doc(hidden)]
    pub fn is_inline(&self) -> bool {
        self.release.is_none()
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
