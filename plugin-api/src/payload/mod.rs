//! Inputs and outputs of calls. An input is borrowed from the caller; an output is owned, with the
//! function that frees it. Common media types cross the boundary as a number, all others as text.

mod output;
mod owned;
mod raw;

use std::borrow::Cow;

use serde::Deserialize;

use crate::PluginError;
pub use output::Output;
#[doc(hidden)]
pub use output::OutputSlot;
pub use owned::OwnedPayload;
#[doc(hidden)]
pub use raw::{RawBuffer, RawPayload};

/// The input of one call: borrowed bytes with a content type.
///
/// It is valid during the call; copy what you need later.
///
/// ```
/// use hotbay_plugin::{ContentType, Payload};
///
/// let input = Payload::json_text("[1, 2]");
/// assert_eq!(input.content_type(), ContentType::JSON);
/// assert_eq!(input.json::<Vec<u32>>()?, [1, 2]);
///
/// let error = input.json::<String>().unwrap_err();
/// assert_eq!(error.code(), 400);
/// # Ok::<(), hotbay_plugin::PluginError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    media: Media<'a>,
}

impl<'a> Payload<'a> {
    /// Creates an input of plain text.
    #[inline]
    pub fn text(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), media: Media::TEXT }
    }

    /// Creates an input of JSON text.
    #[inline]
    pub fn json_text(json: &'a str) -> Self {
        Self { bytes: json.as_bytes(), media: Media::JSON }
    }

    /// Creates an input of arbitrary bytes.
    #[inline]
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, media: Media::BYTES }
    }

    /// Sets the content type, such as `text/csv`.
    #[must_use]
    pub fn with_content_type(self, content_type: &'a str) -> Self {
        Self { media: Media::of(content_type), ..self }
    }

    #[doc(hidden)]
    #[inline]
    pub fn media(&self) -> Media<'a> {
        self.media
    }

    #[doc(hidden)]
    #[inline]
    pub fn of_media(bytes: &'a [u8], media: Media<'a>) -> Self {
        Self { bytes, media }
    }

    /// Returns the bytes.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the bytes as text.
    ///
    /// # Errors
    ///
    /// Code 400 if the bytes are not UTF-8; the message names the first invalid byte.
    #[inline]
    pub fn as_text(&self) -> Result<&'a str, PluginError> {
        text_of(self.bytes)
    }

    /// Parses the bytes as JSON.
    ///
    /// # Errors
    ///
    /// Code 400 if the bytes are not JSON or do not match `T`; the message names line and column.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, PluginError> {
        serde_json::from_slice(self.bytes).map_err(|error| {
            PluginError::new(PluginError::BAD_INPUT, format!("invalid JSON input: {error}"))
        })
    }

    /// Returns the media type, such as `application/json`.
    #[inline]
    pub fn content_type(&self) -> &'a str {
        self.media.as_str()
    }

    /// Returns the number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether the payload is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, PluginError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("invalid UTF-8 at byte {}", error.valid_up_to());
        PluginError::new(PluginError::BAD_INPUT, message)
    })
}

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
    code: u32,
    /// Empty unless the code is `OTHER`.
    name: &'a str,
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
    #[inline]
    pub fn as_str(self) -> &'a str {
        if self.code == OTHER { self.name } else { name_of(self.code) }
    }
}

/// The code of media types that are passed as text.
const OTHER: u32 = u32::MAX;

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

fn code_of(name: &str) -> u32 {
    KNOWN.iter().zip(0..).find(|(known, _)| **known == name).map_or(OTHER, |(_, code)| code)
}

/// Returns the media type with the given code; an unknown code means arbitrary bytes.
fn name_of(code: u32) -> &'static str {
    KNOWN.get(code as usize).copied().unwrap_or(ContentType::BYTES)
}

const BYTES_CODE: u32 = 0;
const TEXT_CODE: u32 = 1;
const JSON_CODE: u32 = 2;
const HTML_CODE: u32 = 3;
