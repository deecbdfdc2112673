//! Many requests in one round trip: JSON with the bytes as base64, so that any language can take
//! part.

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

/// Requests in one round trip.
pub(super) const BATCH_MAX: usize = 100;

#[derive(Deserialize)]
struct Replies<'a> {
    #[serde(borrow)]
    replies: Vec<One<'a>>,
}

/// Empty is not there: only so does serde borrow.
#[derive(Deserialize)]
struct One<'a> {
    #[serde(borrow, default, rename = "contentType")]
    content_type: Cow<'a, str>,
    #[serde(borrow, default = "nothing")]
    body: Body<'a>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Body<'a>(#[serde(borrow)] Cow<'a, str>);

/// No base64, so that an empty body is told from none.
fn nothing() -> Body<'static> {
    Body(Cow::Borrowed("-"))
}

/// The body of a request for `calls`. Written by hand, as each is three literals and two texts.
pub(super) fn written(calls: &[ProcessCall<'_>]) -> Vec<u8> {
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

/// The outcomes of `count` calls, in their order.
pub(super) fn read(
    answer: HttpResponse,
    count: usize,
) -> Result<Vec<Result<Output, Failure>>, Failure> {
    let answer = reply::success(answer)?;
    let replies: Replies<'_> = serde_json::from_slice(&answer.body)
        .map_err(|error| wrong(format!("`/batch` is not the JSON wanted: {error}")))?;
    let found = replies.replies.len();
    if found != count {
        return Err(wrong(format!("`/batch` holds {found} replies; wanted {count}")));
    }
    replies.replies.into_iter().map(|one| Ok(outcome(one))).collect()
}

fn outcome(one: One<'_>) -> Result<Output, Failure> {
    if let Some(said) = one.error {
        return Err(said.into_failure(500));
    }
    let Body(body) = one.body;
    if body == "-" {
        return Err(wrong("an entry of `/batch` has neither `body` nor `error`".to_owned()));
    }
    let bytes = STANDARD.decode(body.as_bytes()).map_err(|error| {
        wrong(format!("the `body` of an entry of `/batch` is no base64: {error}"))
    })?;
    Ok(Output::bytes(bytes).with_content_type(reply::content_type(&one.content_type)))
}

#[cold]
fn wrong(message: String) -> Failure {
    Failure::Other(Error::new(ErrorKind::Protocol, format!("its answer to {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Request;
    use hyper::StatusCode;
    use hyper::header::HeaderMap;

    #[test]
    fn requests_are_written_in_their_order() {
        let (first, second) = (Request::text("hi"), Request::bytes(&[0xff]));
        let second = second.with_content_type("a/\"b\"");
        let calls = [&first, &second].map(|request| ProcessCall { request, call_id: 1 });
        let wanted = r#"{"requests":[{"contentType":"text/plain; charset=utf-8","body":"aGk="},{"contentType":"a/\"b\"","body":"/w=="}]}"#;
        assert_eq!(String::from_utf8(written(&calls)).expect("text"), wanted);
    }

    fn told(body: &str, count: usize) -> Vec<String> {
        let headers = HeaderMap::new();
        let answer = HttpResponse { status: StatusCode::OK, headers, body: body.into() };
        let one = |outcome: Result<Output, Failure>| match outcome {
            Ok(output) => format!("{}: {:?}", output.content_type(), output.as_text()),
            Err(Failure::Error(error)) => error.to_string(),
            Err(Failure::Other(error)) => error.full_message(),
            Err(other) => format!("{other:?}"),
        };
        match read(answer, count) {
            Ok(outcomes) => outcomes.into_iter().map(one).collect(),
            Err(failure) => vec![one(Err(failure))],
        }
    }

    #[test]
    fn replies_are_read_in_their_order_and_what_is_wrong_is_told() {
        let body = r#"{"replies":[{"contentType":"text/plain","body":"aGk="},{"error":{"code":7,"message":"no"}},{"body":"?"},{}]}"#;
        let told_all = told(body, 4);
        assert_eq!(told_all[0], r#"text/plain: Ok("hi")"#);
        assert!(told_all[1].contains("no (code 7)"), "{told_all:?}");
        assert!(told_all[2].contains("no base64"), "{told_all:?}");
        assert!(told_all[3].contains("neither"), "{told_all:?}");
        assert!(told(r#"{"replies":[]}"#, 1)[0].contains("holds 0 replies; wanted 1"));
        assert!(told("[]", 1)[0].contains("not the JSON wanted"));
    }
}
