//! Batches: several calls in one request, which run in order.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hotbay_protocol::{BatchRequests, ErrorBody, write_content};
use hyper::{Response, StatusCode};

use super::body::OutgoingBody;
use super::call::{CallBounds, CallError, CallHeaders, call};
use super::connections::Connection;
use super::responses;
use super::server::Server;
use crate::context::{Bounds, RawContext};
use crate::{CallContext, ContentType, Payload, Plugin};

/// Interval at which a batch checks whether the host closed the connection.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Responds to a batch request.
pub(super) fn respond<T: Plugin>(
    server: &Server<T>,
    connection: &Connection,
    call_headers: &CallHeaders,
    bytes: &[u8],
) -> Response<OutgoingBody> {
    match run(server, connection, call_headers, bytes) {
        Ok(replies) => responses::bytes(replies.into_bytes(), ContentType::JSON),
        Err(message) => responses::rejected(StatusCode::BAD_REQUEST, &message),
    }
}

fn run<T: Plugin>(
    server: &Server<T>,
    connection: &Connection,
    call_headers: &CallHeaders,
    bytes: &[u8],
) -> Result<String, String> {
    let batch: BatchRequests<'_> =
        serde_json::from_slice(bytes).map_err(|error| format!("invalid batch: {error}"))?;
    // All bodies are decoded before the first call runs: an invalid batch has no effect.
    let (mut bodies, mut ends) = (Vec::with_capacity(bytes.len()), Vec::new());
    for (index, request) in batch.requests.iter().enumerate() {
        STANDARD
            .decode_vec(request.body.as_bytes(), &mut bodies)
            .map_err(|error| format!("invalid base64 in the body of request {index}: {error}"))?;
        ends.push(bodies.len());
    }
    let mut check = CancelCheck {
        bounds: CallBounds { connection, deadline: call_headers.deadline },
        next_poll: None,
    };
    // Written by hand: each reply is three literals and two strings.
    let mut replies = String::with_capacity(bytes.len() + 32);
    replies.push_str(r#"{"replies":["#);
    let mut start = 0;
    for (at, (request, end)) in batch.requests.iter().zip(ends).enumerate() {
        let body = &bodies[start..end];
        start = end;
        replies.push_str(if at == 0 { "" } else { "," });
        if !check.should_run() {
            write_error(&mut replies, &not_started_error());
            continue;
        }
        let content_type = request.content_type.as_deref().unwrap_or(ContentType::BYTES);
        let input = Payload::bytes(body).with_content_type(content_type);
        let run = |plugin: &T, context: &RawContext<'_>| {
            plugin.execute(&CallContext::new(context), input)
        };
        match call(&server.instance, connection, call_headers, run) {
            Ok(output) => write_content(&mut replies, output.content_type(), output.as_bytes()),
            Err(CallError::Failed(failure)) => {
                write_error(&mut replies, &responses::failure_body(&failure));
            }
            Err(CallError::Rejected(error)) => {
                write_error(&mut replies, &retryable(409, error.message()));
            }
        }
    }
    replies.push_str("]}");
    Ok(replies)
}

fn write_error(replies: &mut String, error: &ErrorBody<'_>) {
    replies.push_str(r#"{"error":"#);
    replies.push_str(&responses::to_json(error));
    replies.push('}');
}

/// Returns the error of a call that can be made again.
fn retryable(code: i64, message: &str) -> ErrorBody<'_> {
    let (code, message) = (Some(code), Some(message.into()));
    ErrorBody { code, message, retryable: Some(true), ..ErrorBody::default() }
}

/// Checks whether the host still waits for the batch. Polling the connection is a system call,
/// which costs as much as a small call of the plugin, so it is not done before each call.
struct CancelCheck<'a> {
    bounds: CallBounds<'a>,
    next_poll: Option<Instant>,
}

impl CancelCheck<'_> {
    fn should_run(&mut self) -> bool {
        let now = Instant::now();
        if self.bounds.deadline.is_some_and(|deadline| deadline <= now) {
            return false;
        }
        if self.next_poll.is_some_and(|next_poll| now < next_poll) {
            return true;
        }
        self.next_poll = Some(now + POLL_INTERVAL);
        !self.bounds.is_cancelled()
    }
}

/// Returns the error of a call that had not started before the batch ended.
fn not_started_error() -> ErrorBody<'static> {
    retryable(408, "the deadline passed before this call started")
}
