//! The output of a call: a few bytes in place, or a vector of the side that made it.

use std::{fmt, mem, ptr, slice};

use abi_stable::StableAbi;
use serde::{Deserialize, Serialize};

use super::content_type::{BYTES_CODE, HTML_CODE, JSON_CODE, OTHER, TEXT_CODE, code_of, name_of};
use super::raw::{free_vec, into_parts};
use super::{ContentType, text_of};
use crate::PluginError;

/// The output of one call: owned bytes with their content type.
///
/// Up to 24 bytes (12 on a 32-bit target) made by [`Output::copy_of`] lie in the value itself
/// and cost no allocation. All others are a vector, freed by the side that made it.
///
/// Invariant O1: `release` is none and `words` hold `extra` bytes in place; or `release` is
/// some, `words` are pointer, length and capacity of a `Vec<u8>` of that side, and the last
/// `extra` bytes of it are the name of the content type (none unless `type_code` is `OTHER`).
#[repr(C)]
#[derive(StableAbi)]
pub struct Output {
    words: [*mut u8; 3],
    release: Option<unsafe extern "C" fn(*mut u8, usize, usize)>,
    type_code: u32,
    extra: u32,
}

const MAX_INLINE_BYTES: usize = mem::size_of::<[*mut u8; 3]>();

// SAFETY: O1 (plain bytes, or a vector that nobody else holds and any thread may free).
unsafe impl Send for Output {}
// SAFETY: O1 (shared access only reads bytes).
unsafe impl Sync for Output {}

impl Output {
    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::from_vec(text.into().into_bytes(), TEXT_CODE, 0)
    }

    /// HTML.
    pub fn html(html: impl Into<String>) -> Self {
        Self::from_vec(html.into().into_bytes(), HTML_CODE, 0)
    }

    /// Any bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::from_vec(bytes.into(), BYTES_CODE, 0)
    }

    /// A value written as JSON.
    ///
    /// # Errors
    ///
    /// Code 500 when `value` cannot be JSON, such as a map whose keys are no text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, PluginError> {
        match serde_json::to_vec(value) {
            Ok(bytes) => Ok(Self::from_vec(bytes, JSON_CODE, 0)),
            Err(error) => Err(PluginError::new(500, format!("output cannot be JSON: {error}"))),
        }
    }

    /// A copy of `bytes`; a short one costs no allocation.
    #[inline]
    pub fn copy_of(bytes: &[u8]) -> Self {
        if bytes.len() > MAX_INLINE_BYTES {
            return Self::bytes(bytes);
        }
        let mut words = [0_usize; 3];
        // SAFETY: at most MAX_INLINE_BYTES bytes are written, which is what `words` take.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast(), bytes.len());
        }
        // Word by word, so that the value can stay in registers on its way up.
        let words = words.map(ptr::without_provenance_mut);
        Self { words, release: None, type_code: BYTES_CODE, extra: bytes.len() as u32 }
    }

    /// The same bytes under another content type.
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

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        if self.release.is_none() {
            let words = (&raw const self.words).cast::<u8>();
            // SAFETY: O1 (`extra` bytes lie in place).
            return unsafe { slice::from_raw_parts(words, self.extra as usize) };
        }
        let len = self.words[1].addr() - self.extra as usize;
        // SAFETY: O1 (pointer and length of a vector that lives as long as self).
        unsafe { slice::from_raw_parts(self.words[0], len) }
    }

    /// The bytes as text.
    ///
    /// # Errors
    ///
    /// Code 400, naming the first byte that is not UTF-8.
    pub fn as_text(&self) -> Result<&str, PluginError> {
        text_of(self.as_bytes())
    }

    /// The bytes read as JSON.
    ///
    /// # Errors
    ///
    /// Code 400, naming line and column of what does not fit `T`.
    pub fn parse_json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PluginError> {
        super::Payload::bytes(self.as_bytes()).json()
    }

    /// Whether its media type is a text of the plugin's own, and not one of the usual ones.
    #[doc(hidden)]
    #[inline]
    pub fn has_own_content_type(&self) -> bool {
        self.type_code == OTHER
    }

    /// The media type, such as `application/json`.
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

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the bytes lie in the value itself, so that nothing of its maker is held.
    #[doc(hidden)]
    pub fn is_inline(&self) -> bool {
        self.release.is_none()
    }
}

impl Default for Output {
    /// No bytes.
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
            // SAFETY: O1 (the parts of a vector of the side that `release` belongs to).
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
    fn bytes_and_content_type_survive_every_way_of_making_an_output() {
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
    fn only_short_copies_lie_in_place() {
        assert!(Output::copy_of(&[1; MAX_INLINE_BYTES]).is_inline());
        assert!(!Output::copy_of(&[1; MAX_INLINE_BYTES + 1]).is_inline());
        assert!(!Output::text("x").is_inline());
    }

    #[test]
    fn text_that_is_none_is_told_with_its_place() {
        let error = Output::copy_of(b"ab\xff").as_text().unwrap_err();
        assert_eq!(error.code(), 400);
        assert_eq!(error.message(), "wanted UTF-8 text; byte 2 is none");
    }
}
