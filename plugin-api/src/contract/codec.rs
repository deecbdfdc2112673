//! How values are serialized: postcard if both sides have the same shape, otherwise JSON.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::text;

/// A serialization of arguments and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON: arguments by name.
    Json,
    /// postcard: arguments by position, for equal shapes only.
    Postcard,
}

impl Format {
    /// The format as it crosses the ABI.
    pub const fn code(self) -> u32 {
        match self {
            Self::Json => 0,
            Self::Postcard => 1,
        }
    }

    /// Returns the format with this code, if there is one.
    pub const fn of_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Json),
            1 => Some(Self::Postcard),
            _ => None,
        }
    }

    /// Returns its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => crate::ContentType::JSON,
            Self::Postcard => "application/x-postcard",
        }
    }

    /// Serializes a value.
    ///
    /// # Errors
    ///
    /// If the format cannot represent the value, such as a map in JSON whose keys are not strings.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Json => serde_json::to_vec(value).map_err(CodecError::new),
            Self::Postcard => postcard::to_allocvec(value).map_err(CodecError::new),
        }
    }

    /// Deserializes a value.
    ///
    /// # Errors
    ///
    /// If the bytes are not a value of this type, or more than that.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, CodecError> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(CodecError::new),
            Self::Postcard => match postcard::take_from_bytes(bytes) {
                Ok((value, [])) => Ok(value),
                Ok((_, rest)) => {
                    Err(CodecError::new(format_args!("{} bytes after the value", rest.len())))
                }
                Err(error) => Err(CodecError::new(error)),
            },
        }
    }
}

/// The reason a value cannot be serialized or deserialized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(Box<str>);

impl CodecError {
    /// Cuts the reason, which may quote what the other side wrote.
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
        Self(text::cut(&reason.to_string(), text::MAX_MESSAGE_BYTES).into())
    }

    /// Adds the argument that is invalid.
    pub(crate) fn in_argument(self, name: &str) -> Self {
        Self::new(format_args!("argument `{name}`: {self}"))
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}
