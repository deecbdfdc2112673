//! Batches: several calls in one request, run one after another in order.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers;
use super::body::Reply;
use super::call::{Heard, Limits};
use super::life::Server;
use super::line::Line;
use super::routes::{self, NotDone};
use crate::context::Bounds;
use crate::{ContentType, Output, Payload, Plugin};

/// How often a batch checks whether the host closed the connection.
const LOOK_EVERY: Duration = Duration::from_millis(1);

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

/// Responds to a batch request.
pub(super) fn answer<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    heard: &Heard,
    bytes: &[u8],
) -> Response<Reply> {
    match run(server, line, heard, bytes) {
        Ok(replies) => answers::bytes(replies.into_bytes(), ContentType::JSON),
        Err(mistake) => answers::refused(StatusCode::BAD_REQUEST, &mistake),
    }
}

fn run<T: Plugin>(
    server: &Server<T>,
    line: &Line,
    heard: &Heard,
    bytes: &[u8],
) -> Result<String, String> {
    let batch: Batch<'_> =
        serde_json::from_slice(bytes).map_err(|error| format!("invalid batch: {error}"))?;
    // All bodies are decoded before the first call runs: an invalid batch has no effect.
    let read = batch.requests.iter().zip(0..).map(|(one, index): (_, usize)| {
        let body = STANDARD.decode(one.body.as_bytes());
        body.map_err(|error| format!("invalid base64 in the body of request {index}: {error}"))
    });
    let bodies: Vec<Vec<u8>> = read.collect::<Result<_, _>>()?;
    let mut wanted = Wanted { limits: Limits { line, until: heard.until }, look_at: None };
    // Written by hand: each reply is three literals and two texts.
    let mut replies = String::with_capacity(bytes.len() + 32);
    replies.push_str(r#"{"replies":["#);
    for (at, (one, body)) in batch.requests.iter().zip(bodies).enumerate() {
        replies.push_str(if at == 0 { "" } else { "," });
        if !wanted.is_still() {
            write_error(&mut replies, not_begun());
            continue;
        }
        let content_type = one.content_type.as_deref().unwrap_or(ContentType::BYTES);
        let input = Payload::bytes(&body).with_content_type(content_type);
        match routes::call(server, line, heard, input, T::execute) {
            Ok(output) => write_output(&mut replies, &output),
            Err(NotDone::Raised(raised)) => {
                write_error(&mut replies, answers::value_of(&raised).into());
            }
            Err(NotDone::Refused(refused)) => {
                let message = routes::told(refused);
                let error = json!({ "code": 409, "message": message, "retryable": true });
                write_error(&mut replies, error);
            }
        }
    }
    replies.push_str("]}");
    Ok(replies)
}

fn write_output(replies: &mut String, output: &Output) {
    replies.push_str(r#"{"contentType":"#);
    replies.push_str(&Value::from(output.content_type()).to_string());
    replies.push_str(r#","body":""#);
    STANDARD.encode_string(output.as_bytes(), replies);
    replies.push_str(r#""}"#);
}

fn write_error(replies: &mut String, error: Value) {
    replies.push_str(&json!({ "error": error }).to_string());
}

/// Checks whether the host still waits for the batch. Polling the connection is a system call,
/// which costs as much as a small call of the plugin, so it is not done before each call.
struct Wanted<'a> {
    limits: Limits<'a>,
    look_at: Option<Instant>,
}

impl Wanted<'_> {
    fn is_still(&mut self) -> bool {
        let now = Instant::now();
        if self.limits.until.is_some_and(|until| until <= now) {
            return false;
        }
        if self.look_at.is_some_and(|look_at| now < look_at) {
            return true;
        }
        self.look_at = Some(now + LOOK_EVERY);
        !self.limits.is_cancelled()
    }
}

/// Returns the error of a call that had not started when the batch ended.
fn not_begun() -> Value {
    let message = "the deadline passed before this call started";
    json!({ "code": 408, "message": message, "retryable": true })
}
