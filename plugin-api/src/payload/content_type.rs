//! Media types: common ones cross the boundary as a number, all others as text.

use std::borrow::Cow;

/// The media type of an output.
///
/// The constants of this type are passed as a number; any other type is passed as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType(Cow<'static, str>);

/// A media type as a code, or as a name if it has no code. Looked up when a payload is created, so
/// that a call compares no text.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Media<'a> {
    pub(super) code: u32,
    /// Empty unless the code is `OTHER`.
    pub(super) name: &'a str,
}

impl<'a> Media<'a> {
    /// Arbitrary bytes.
    pub const BYTES: Self = Self { code: BYTES_CODE, name: "" };
    /// Plain text.
    pub const TEXT: Self = Self { code: TEXT_CODE, name: "" };
    /// JSON.
    pub const JSON: Self = Self { code: JSON_CODE, name: "" };

    /// Returns the media type with the given name.
    pub fn of(name: &'a str) -> Self {
        let code = code_of(name);
        Self { code, name: if code == OTHER { name } else { "" } }
    }

    /// Returns the name of the media type.
    pub fn as_str(self) -> &'a str {
        if self.code == OTHER { self.name } else { name_of(self.code) }
    }
}

/// The code of media types that are passed as text.
pub(super) const OTHER: u32 = u32::MAX;

/// A code is an index in this table; new types go at the end.
const KNOWN: [&str; 4] =
    [ContentType::BYTES, ContentType::TEXT, ContentType::JSON, ContentType::HTML];

impl ContentType {
    /// Arbitrary bytes.
    pub const BYTES: &'static str = "application/octet-stream";
    /// Plain text.
    pub const TEXT: &'static str = "text/plain; charset=utf-8";
    /// JSON.
    pub const JSON: &'static str = "application/json";
    /// HTML.
    pub const HTML: &'static str = "text/html; charset=utf-8";

    /// Creates a media type from its name.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// Returns the media type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for ContentType {
    fn from(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

pub(super) fn code_of(name: &str) -> u32 {
    KNOWN.iter().zip(0..).find(|(known, _)| **known == name).map_or(OTHER, |(_, code)| code)
}

/// Returns the media type with the given code; an unknown code means arbitrary bytes.
pub(super) fn name_of(code: u32) -> &'static str {
    KNOWN.get(code as usize).copied().unwrap_or(ContentType::BYTES)
}

pub(super) const BYTES_CODE: u32 = 0;
pub(super) const TEXT_CODE: u32 = 1;
pub(super) const JSON_CODE: u32 = 2;
pub(super) const HTML_CODE: u32 = 3;
