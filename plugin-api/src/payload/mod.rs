//! Inputs and outputs of calls. An input is borrowed from the caller; an output is owned, with the
//! function that frees it.

mod content_type;
mod output;
mod raw;

use serde::Deserialize;

pub use content_type::ContentType;
#[doc(hidden)]
pub use content_type::Media;
pub use output::Output;
#[doc(hidden)]
pub use raw::{RawBuffer, RawPayload};

use crate::PluginError;

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
    pub fn text(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), media: Media::TEXT }
    }

    /// Creates an input of JSON text.
    pub fn json_text(json: &'a str) -> Self {
        Self { bytes: json.as_bytes(), media: Media::JSON }
    }

    /// Creates an input of arbitrary bytes.
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
    pub fn of_media(bytes: &'a [u8], media: Media<'a>) -> Self {
        Self { bytes, media }
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the bytes as text.
    ///
    /// # Errors
    ///
    /// Code 400 if the bytes are not UTF-8; the message names the first invalid byte.
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
    pub fn content_type(&self) -> &'a str {
        self.media.as_str()
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether the payload is empty.
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
