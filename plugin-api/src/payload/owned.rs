//! The input of an async call, which outlives the function that starts it.

use serde::Deserialize;

use super::{Output, Payload};
use crate::PluginError;

/// The input of one call of an [`AsyncPlugin`](crate::AsyncPlugin): owned bytes with a content type.
///
/// ```
/// use hotbay_plugin::{ContentType, OwnedPayload, Payload};
///
/// let input = OwnedPayload::from(Payload::json_text("[1, 2]"));
/// assert_eq!(input.content_type(), ContentType::JSON);
/// assert_eq!(input.json::<Vec<u32>>()?, [1, 2]);
/// # Ok::<(), hotbay_plugin::PluginError>(())
/// ```
// Crosses as an `Output` of the host, which also owns its bytes.
#[derive(Debug)]
pub struct OwnedPayload(Output);

impl OwnedPayload {
    /// Takes an input that crossed.
    #[cfg(all(unix, feature = "tokio"))]
    pub(crate) fn new(crossed: Output) -> Self {
        Self(crossed)
    }

    /// Returns the input as it crosses.
    #[doc(hidden)]
    pub fn into_output(self) -> Output {
        self.0
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the bytes as text.
    ///
    /// # Errors
    ///
    /// Code 400 if the bytes are not UTF-8; the message names the first invalid byte.
    pub fn as_text(&self) -> Result<&str, PluginError> {
        self.0.as_text()
    }

    /// Parses the bytes as JSON.
    ///
    /// # Errors
    ///
    /// Code 400 if the bytes are not JSON or do not match `T`; the message names line and column.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PluginError> {
        self.0.parse_json()
    }

    /// Returns the media type, such as `application/json`.
    pub fn content_type(&self) -> &str {
        self.0.content_type()
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Payload<'_>> for OwnedPayload {
    /// Copies an input, without an allocation if it is short.
    fn from(payload: Payload<'_>) -> Self {
        Self(Output::of(payload))
    }
}
