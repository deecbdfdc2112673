//! Several requests in one round trip: JSON with base64 bodies, so that any language can implement
//! it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotbay_plugin::Output;
use serde::Deserialize;

use super::http::HttpResponse;
use super::process::ProcessCall;
use super::reply::{self, ErrorBody};
use crate::call::Failure;
use crate::error::{Error, ErrorKind};

/// Requests per round trip.
pub(super) const MAX_BATCH: usize = 100;

#[derive(Deserialize)]
struct Replies<'a> {
    #[serde(borrow)]
    replies: Vec<One<'a>>,
}

/// An empty string stands for a missing field, since serde borrows only that way.
#[derive(Deserialize)]
struct One<'a> {
    #[serde(borrow, default, rename = "contentType")]
    content_type: Cow<'a, str>,
    #[serde(borrow, default = "missing_body")]
    body: Body<'a>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Body<'a>(#[serde(borrow)] Cow<'a, str>);

/// Returns a placeholder that is not base64, to distinguish an empty body from a missing one.
fn missing_body() -> Body<'static> {
    Body(Cow::Borrowed("-"))
}

/// Encodes the body of a request for `calls`. Handwritten, since each entry is three literals and
/// two strings.
pub(super) fn encode(calls: &[ProcessCall<'_>]) -> Vec<u8> {
    let bytes: usize = calls.iter().map(|call| call.request.as_bytes().len()).sum();
    let mut body = String::with_capacity(bytes * 4 / 3 + calls.len() * 64 + 32);
    body.push_str(r#"{"requests":["#);
    for (at, call) in calls.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let content_type = serde_json::Value::from(call.request.content_type());
        body.push_str(comma);
        body.push_str(r#"{"contentType":"#);
        body.push_str(&content_type.to_string());
        body.push_str(r#","body":""#);
        STANDARD.encode_string(call.request.as_bytes(), &mut body);
        body.push_str(r#""}"#);
    }
    body.push_str("]}");
    body.into_bytes()
}

/// Parses the outcomes of `count` calls, in order.
pub(super) fn decode(
    response: HttpResponse,
    count: usize,
) -> Result<Vec<Result<Output, Failure>>, Failure> {
    let response = reply::success(response)?;
    let replies: Replies<'_> = serde_json::from_slice(&response.body)
        .map_err(|error| protocol_failure(format!("`/batch` is not a valid batch: {error}")))?;
    let found = replies.replies.len();
    if found != count {
        return Err(protocol_failure(format!("`/batch` has {found} replies; expected {count}")));
    }
    replies.replies.into_iter().map(|one| Ok(outcome(one))).collect()
}

fn outcome(one: One<'_>) -> Result<Output, Failure> {
    if let Some(error) = one.error {
        return Err(error.into_failure(500));
    }
    let Body(body) = one.body;
    if body == "-" {
        return Err(protocol_failure(
            "`/batch` has a reply with neither `body` nor `error`".to_owned(),
        ));
    }
    let bytes = STANDARD.decode(body.as_bytes()).map_err(|error| {
        protocol_failure(format!("`/batch` has a reply whose `body` is not valid base64: {error}"))
    })?;
    Ok(Output::bytes(bytes).with_content_type(reply::content_type(&one.content_type)))
}

#[cold]
fn protocol_failure(message: String) -> Failure {
    Failure::Other(Error::new(ErrorKind::Protocol, format!("its response to {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Request;
    use hyper::StatusCode;
    use hyper::header::HeaderMap;

    #[test]
    fn requests_are_encoded_in_order() {
        let (first, second) = (Request::text("hi"), Request::bytes(&[0xff]));
        let second = second.with_content_type("a/\"b\"");
        let calls = [&first, &second].map(|request| ProcessCall { request, call_id: 1 });
        let expected = r#"{"requests":[{"contentType":"text/plain; charset=utf-8","body":"aGk="},{"contentType":"a/\"b\"","body":"/w=="}]}"#;
        assert_eq!(String::from_utf8(encode(&calls)).expect("text"), expected);
    }

    fn outcomes(body: &str, count: usize) -> Vec<String> {
        let headers = HeaderMap::new();
        let response = HttpResponse { status: StatusCode::OK, headers, body: body.into() };
        let one = |outcome: Result<Output, Failure>| match outcome {
            Ok(output) => format!("{}: {:?}", output.content_type(), output.as_text()),
            Err(Failure::Error(error)) => error.to_string(),
            Err(Failure::Other(error)) => error.full_message(),
            Err(other) => format!("{other:?}"),
        };
        match decode(response, count) {
            Ok(outcomes) => outcomes.into_iter().map(one).collect(),
            Err(failure) => vec![one(Err(failure))],
        }
    }

    #[test]
    fn replies_are_parsed_in_order_and_errors_are_reported() {
        let body = r#"{"replies":[{"contentType":"text/plain","body":"aGk="},{"error":{"code":7,"message":"no"}},{"body":"?"},{}]}"#;
        let all = outcomes(body, 4);
        assert_eq!(all[0], r#"text/plain: Ok("hi")"#);
        assert!(all[1].contains("no (code 7)"), "{all:?}");
        assert!(all[2].contains("not valid base64"), "{all:?}");
        assert!(all[3].contains("neither"), "{all:?}");
        assert!(outcomes(r#"{"replies":[]}"#, 1)[0].contains("has 0 replies; expected 1"));
        assert!(outcomes("[]", 1)[0].contains("not a valid batch"));
    }
}
