//! The response of a method that returns a stream: a JSON object per line. Each has an item; the last
//! one says that the stream has ended, or why it failed.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::ErrorBody;

/// The media type of the response.
pub const STREAM_CONTENT_TYPE: &str = "application/x-ndjson";

/// Bytes of a line besides its item.
pub const MAX_LINE_OVERHEAD_BYTES: u64 = 1024;

/// A line of the response.
#[derive(Debug)]
pub enum StreamLine<'a> {
    /// An item, as JSON.
    Item(&'a str),
    /// The end.
    End,
    /// The end, because of an error.
    Error(Box<ErrorBody<'a>>),
}

/// The reason a line is invalid.
#[derive(Debug)]
pub enum InvalidLine {
    /// It is not a JSON object with valid members.
    Json(serde_json::Error),
    /// It has none of the members, or several.
    Members,
}

impl<'a> StreamLine<'a> {
    /// Parses a line, with or without its end. `None` if it is empty, which keeps a connection alive.
    ///
    /// # Errors
    ///
    /// If it is not a line of a stream. Unknown members are ignored.
    ///
    /// ```
    /// use hotbay_protocol::StreamLine;
    ///
    /// let line = StreamLine::parse(br#"{"item": [1, 2]}"#).unwrap();
    /// assert!(matches!(line, Some(StreamLine::Item("[1, 2]"))));
    /// assert!(matches!(StreamLine::parse(b"\r\n"), Ok(None)));
    /// assert!(StreamLine::parse(br#"{"end": false}"#).is_err());
    /// ```
    pub fn parse(line: &'a [u8]) -> Result<Option<Self>, InvalidLine> {
        #[derive(Deserialize)]
        struct Members<'a> {
            #[serde(borrow, default, deserialize_with = "some")]
            item: Option<&'a RawValue>,
            #[serde(default)]
            end: Option<bool>,
            #[serde(borrow)]
            error: Option<Box<ErrorBody<'a>>>,
        }

        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let members: Members<'_> = serde_json::from_slice(line).map_err(InvalidLine::Json)?;
        match members {
            Members { item: Some(item), end: None, error: None } => {
                Ok(Some(Self::Item(item.get())))
            }
            Members { item: None, end: Some(true), error: None } => Ok(Some(Self::End)),
            Members { item: None, end: None, error: Some(error) } => Ok(Some(Self::Error(error))),
            _ => Err(InvalidLine::Members),
        }
    }

    /// Returns the line as bytes, with its end.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Item(json) => ["{\"item\":", json, "}\n"].concat().into_bytes(),
            Self::End => b"{\"end\":true}\n".to_vec(),
            Self::Error(error) => {
                let error = serde_json::to_string(error).unwrap_or_else(|_| "{}".to_owned());
                ["{\"error\":", &error, "}\n"].concat().into_bytes()
            }
        }
    }
}

impl fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "it is not a valid JSON object: {error}"),
            Self::Members => f.write_str("expected one of `item`, `\"end\": true` and `error`"),
        }
    }
}

impl std::error::Error for InvalidLine {}

/// Parses a value that may be missing, but is `Some` for `null`.
fn some<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> String {
        match StreamLine::parse(line.as_bytes()) {
            Ok(None) => "empty".to_owned(),
            Ok(Some(StreamLine::Item(item))) => format!("item {item}"),
            Ok(Some(StreamLine::End)) => "end".to_owned(),
            Ok(Some(StreamLine::Error(error))) => format!("error {:?}", error.code),
            Err(InvalidLine::Members) => "members".to_owned(),
            Err(InvalidLine::Json(_)) => "json".to_owned(),
        }
    }

    #[test]
    fn lines_have_one_member() {
        for (line, expected) in [
            (r#"{"item":null}"#, "item null"),
            (r#"{"item":{"item":1},"unknown":2}"#, r#"item {"item":1}"#),
            (r#"{"end":true}"#, "end"),
            (r#"{"error":{"code":7}}"#, "error Some(7)"),
            (r#"{"error":{}}"#, "error None"),
            ("", "empty"),
            (" \r\n", "empty"),
            ("{}", "members"),
            (r#"{"end":false}"#, "members"),
            (r#"{"item":1,"end":true}"#, "members"),
            (r#"{"item":1,"error":{}}"#, "members"),
            ("[1]", "json"),
            (r#"{"item":1"#, "json"),
            (r#"{"item":1}{"item":2}"#, "json"),
            (r#"{"end":1}"#, "json"),
        ] {
            assert_eq!(parsed(line), expected, "{line}");
        }
        assert!(StreamLine::parse(b"{\"item\":\"\xff\"}").is_err());
    }

    #[test]
    fn written_lines_are_parsed_back() {
        let error =
            ErrorBody { code: Some(7), message: Some("a\nb".into()), ..ErrorBody::default() };
        for line in [StreamLine::Item("\"a\""), StreamLine::End, StreamLine::Error(Box::new(error))]
        {
            let bytes = line.to_bytes();
            assert_eq!(bytes.iter().position(|byte| *byte == b'\n'), Some(bytes.len() - 1));
            let found = StreamLine::parse(&bytes).unwrap().unwrap();
            assert_eq!(found.to_bytes(), bytes);
        }
    }
}
