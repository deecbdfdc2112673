//! Bytes in and bytes out: input borrowed from the caller, output owned by the plugin with its
//! own way to be given back. Nothing here copies what can be lent.

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

/// The input of one call: borrowed bytes with their content type.
///
/// It lives as long as the call; what is to be kept must be copied.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    media: Media<'a>,
}

impl<'a> Payload<'a> {
    /// Plain text.
    pub fn text(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), media: Media::TEXT }
    }

    /// Text that is already JSON.
    pub fn json_text(json: &'a str) -> Self {
        Self { bytes: json.as_bytes(), media: Media::JSON }
    }

    /// Any bytes.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, media: Media::BYTES }
    }

    /// The same bytes under another content type, such as `text/csv`.
    #[must_use]
    pub fn with_content_type(self, content_type: &'a str) -> Self {
        Self { media: Media::of(content_type), ..self }
    }

    #[doc(hidden)]
    #[inline]
    pub fn of_media(bytes: &'a [u8], media: Media<'a>) -> Self {
        Self { bytes, media }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes as text.
    ///
    /// # Errors
    ///
    /// Code 400, naming the first byte that is not UTF-8.
    pub fn as_text(&self) -> Result<&'a str, PluginError> {
        text_of(self.bytes)
    }

    /// The bytes read as JSON.
    ///
    /// # Errors
    ///
    /// Code 400, naming line and column of what does not fit `T`.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, PluginError> {
        serde_json::from_slice(self.bytes).map_err(|error| {
            PluginError::new(
                PluginError::BAD_INPUT,
                format!("input is not the JSON wanted: {error}"),
            )
        })
    }

    /// The media type, such as `application/json`.
    pub fn content_type(&self) -> &'a str {
        self.media.as_str()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, PluginError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("wanted UTF-8 text; byte {} is none", error.valid_up_to());
        PluginError::new(PluginError::BAD_INPUT, message)
    })
}
