//! Several calls in one request, with base64 bodies. Encoded without intermediate values, and
//! parsed without copies: each entry is a few literals and two strings.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::bodies::ErrorBody;

/// Maximum number of calls per batch that a host sends.
pub const MAX_BATCH: usize = 100;

/// The body of a batch request.
#[derive(Debug, Deserialize)]
pub struct BatchRequests<'a> {
    /// The calls, in the order in which they run.
    #[serde(borrow)]
    pub requests: Vec<BatchCall<'a>>,
}

/// One call of a batch.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchCall<'a> {
    /// The media type of the input.
    #[serde(borrow, default)]
    pub content_type: Option<Cow<'a, str>>,
    /// The input, as base64.
    #[serde(borrow)]
    pub body: Cow<'a, str>,
}

/// The body of the response to a batch.
#[derive(Debug, Deserialize)]
pub struct BatchReplies<'a> {
    /// The outcomes, in the order of the calls; at most [`MAX_BATCH`].
    #[serde(borrow, deserialize_with = "replies")]
    pub replies: Vec<BatchReply<'a>>,
}

/// The outcome of one call of a batch.
#[derive(Debug, Deserialize)]
pub struct BatchReply<'a> {
    /// The media type of the output; empty if it is missing.
    // An empty string stands for a missing field, since serde borrows only that way.
    #[serde(borrow, default, rename = "contentType")]
    pub content_type: Cow<'a, str>,
    #[serde(borrow, default = "missing_body")]
    body: Body<'a>,
    /// The error, instead of an output.
    pub error: Option<ErrorBody<'static>>,
}

/// Parses a list, and stops once it is too long: a reply of two bytes takes hundreds in memory.
fn replies<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<BatchReply<'a>>, D::Error> {
    struct Replies<'a>(PhantomData<BatchReply<'a>>);

    impl<'de: 'a, 'a> Visitor<'de> for Replies<'a> {
        type Value = Vec<BatchReply<'a>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_BATCH} replies")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
            let mut replies = Vec::new();
            while let Some(reply) = list.next_element()? {
                if replies.len() == MAX_BATCH {
                    return Err(S::Error::invalid_length(MAX_BATCH + 1, &self));
                }
                replies.push(reply);
            }
            Ok(replies)
        }
    }

    deserializer.deserialize_seq(Replies(PhantomData))
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Body<'a>(#[serde(borrow)] Cow<'a, str>);

/// A placeholder that is not base64, to distinguish an empty body from a missing one.
const MISSING: &str = "-";

fn missing_body() -> Body<'static> {
    Body(Cow::Borrowed(MISSING))
}

impl BatchReply<'_> {
    /// Returns the output as base64, if there is one.
    pub fn body(&self) -> Option<&str> {
        Some(&*self.body.0).filter(|body| *body != MISSING)
    }
}

/// Encodes a batch request; each call is a media type and an input.
pub fn batch_request<'c>(
    calls: impl ExactSizeIterator<Item = (&'c str, &'c [u8])> + Clone,
) -> String {
    let bytes: usize = calls.clone().map(|(_, bytes)| bytes.len()).sum();
    let mut json = String::with_capacity(bytes * 4 / 3 + calls.len() * 64 + 32);
    json.push_str(r#"{"requests":["#);
    for (at, (content_type, bytes)) in calls.enumerate() {
        json.push_str(if at == 0 { "" } else { "," });
        write_content(&mut json, content_type, bytes);
    }
    json.push_str("]}");
    json
}

/// Appends an input or output of a batch, as a JSON object, to `json`.
pub fn write_content(json: &mut String, content_type: &str, bytes: &[u8]) {
    json.push_str(r#"{"contentType":"#);
    write_text(json, content_type);
    json.push_str(r#","body":""#);
    STANDARD.encode_string(bytes, json);
    json.push_str(r#""}"#);
}

/// Appends a JSON string. Usual media types need no escapes, and so no copy.
fn write_text(json: &mut String, text: &str) {
    let is_escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    if text.bytes().any(is_escaped) {
        json.push_str(&serde_json::Value::from(text).to_string());
        return;
    }
    json.push('"');
    json.push_str(text);
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_encoded_in_order() {
        let calls: [(&str, &[u8]); 2] =
            [("text/plain; charset=utf-8", b"hi"), ("a/\"b\"", &[0xff])];
        let expected = r#"{"requests":[{"contentType":"text/plain; charset=utf-8","body":"aGk="},{"contentType":"a/\"b\"","body":"/w=="}]}"#;
        let json = batch_request(calls.into_iter());
        assert_eq!(json, expected);
        let parsed: BatchRequests<'_> = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed.requests[0].content_type.as_deref(), Some("text/plain; charset=utf-8"));
        assert!(matches!(parsed.requests[1].body, Cow::Borrowed("/w==")));
    }

    #[test]
    fn empty_body_differs_from_missing_one() {
        let json = r#"{"replies":[{"body":""},{},{"error":{"code":7}}]}"#;
        let parsed: BatchReplies<'_> = serde_json::from_str(json).unwrap();
        let bodies: Vec<_> = parsed.replies.iter().map(BatchReply::body).collect();
        assert_eq!(bodies, [Some(""), None, None]);
        assert_eq!(parsed.replies[2].error.as_ref().unwrap().code, Some(7));
    }

    #[test]
    fn too_many_replies_are_rejected() {
        let parse = |count: usize| {
            let json = format!(r#"{{"replies":[{}]}}"#, vec!["{}"; count].join(","));
            let parsed = serde_json::from_str::<BatchReplies<'_>>(&json);
            parsed.map(|parsed| parsed.replies.len()).map_err(|error| error.to_string())
        };
        assert_eq!(parse(MAX_BATCH), Ok(MAX_BATCH));
        let error = parse(MAX_BATCH + 1).unwrap_err();
        assert!(error.starts_with("invalid length 101, expected at most 100 replies"), "{error}");
    }
}
