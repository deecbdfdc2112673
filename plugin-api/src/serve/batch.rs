//! Many calls in one request: each runs as a call of its own, one after another, in order.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answers;
use super::body::Reply;
use super::call::{Heard, Limits};
use super::life::Server;
use super::line::Line;
use super::routes::{self, NotDone};
use crate::context::Bounds;
use crate::{ContentType, Payload, Plugin};

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    requests: Vec<One<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    #[serde(borrow, default)]
    content_type: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    body: std::borrow::Cow<'a, str>,
}

/// Answers a request of many calls.
pub(super) fn answer<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    heard: &Heard,
    bytes: &[u8],
) -> Response<Reply> {
    match run(server, line, heard, bytes) {
        Ok(replies) => {
            let text = json!({ "replies": replies }).to_string();
            answers::bytes(text.into_bytes(), ContentType::JSON)
        }
        Err(mistake) => answers::refused(StatusCode::BAD_REQUEST, &mistake),
    }
}

fn run<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    heard: &Heard,
    bytes: &[u8],
) -> Result<Vec<Value>, String> {
    let batch: Batch<'_> = serde_json::from_slice(bytes)
        .map_err(|error| format!("the batch is not the JSON wanted: {error}"))?;
    // All are read before the first runs: a batch that cannot be read does nothing.
    let read = batch.requests.iter().zip(0..).map(|(one, index): (_, usize)| {
        let body = STANDARD.decode(one.body.as_bytes());
        body.map_err(|error| format!("the body of request {index} is not base64: {error}"))
    });
    let bodies: Vec<Vec<u8>> = read.collect::<Result<_, _>>()?;
    let limits = Limits { line, until: heard.until };
    let replies = batch.requests.iter().zip(bodies).map(|(one, body)| {
        if limits.is_cancelled() {
            return not_begun();
        }
        let content_type = one.content_type.as_deref().unwrap_or(ContentType::BYTES);
        let input = Payload::bytes(&body).with_content_type(content_type);
        match routes::call(server, line, heard, input, T::execute) {
            Ok(output) => json!({
                "contentType": output.content_type(),
                "body": STANDARD.encode(output.as_bytes()),
            }),
            Err(NotDone::Raised(raised)) => failed(answers::value_of(&raised)),
            Err(NotDone::Refused(refused)) => {
                let error =
                    json!({ "code": 409, "message": routes::told(refused), "retryable": true });
                json!({ "error": error })
            }
        }
    });
    Ok(replies.collect())
}

fn failed(error: Map<String, Value>) -> Value {
    json!({ "error": error })
}

/// For calls that were not begun when the deadline passed, or the other side hung up.
fn not_begun() -> Value {
    let message = "the deadline had passed before this call began";
    json!({ "error": { "code": 408, "message": message, "retryable": true } })
}
