//! HTTP responses: outputs, plugin errors, panics, and requests that the SDK rejects.

use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body::Reply;
use crate::export::panics::Raised;
use crate::{ContentType, Output};

/// Returns a response with the output of a call. Reuses the allocation of the request's headers.
pub(super) fn output(output: Output, mut headers: HeaderMap) -> Response<Reply> {
    headers.clear();
    headers.insert(CONTENT_TYPE, content_type(output.content_type()));
    let mut response = Response::new(output.into());
    *response.headers_mut() = headers;
    response
}

/// Returns an empty response with status 200.
pub(super) fn done() -> Response<Reply> {
    answer(StatusCode::OK, None, Reply::empty())
}

/// Returns a response with bytes of the given content type.
pub(super) fn bytes(bytes: Vec<u8>, content_type: &'static str) -> Response<Reply> {
    answer(StatusCode::OK, Some(HeaderValue::from_static(content_type)), bytes.into())
}

/// Returns a response for a call that failed.
pub(super) fn raised(raised: &Raised) -> Response<Reply> {
    let status = match raised {
        Raised::Error(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Raised::Panic(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    json_answer(status, &value_of(raised).into())
}

/// Returns a response for a health check that failed.
pub(super) fn not_healthy(raised: &Raised) -> Response<Reply> {
    json_answer(StatusCode::SERVICE_UNAVAILABLE, &value_of(raised).into())
}

/// Returns a response to a request that never reached the plugin.
pub(super) fn refused(status: StatusCode, message: &str) -> Response<Reply> {
    json_answer(status, &json!({ "message": message, "statusCode": status.as_u16() }))
}

/// Returns the JSON object that describes a failure.
pub(super) fn value_of(raised: &Raised) -> Map<String, Value> {
    let mut value = Map::new();
    match raised {
        Raised::Error(error) => {
            value.insert("code".to_owned(), error.code().into());
            value.insert("message".to_owned(), error.message().into());
            value.insert("retryable".to_owned(), error.is_retryable().into());
            if let Some(details) = error.details() {
                value.insert("details".to_owned(), details.clone());
            }
        }
        Raised::Panic(panic) => {
            value.insert("code".to_owned(), 500.into());
            value.insert("message".to_owned(), "panicked".into());
            let mut fault = json!({ "message": panic.message() });
            if let Some(location) = panic.location() {
                fault["location"] = location.into();
            }
            value.insert("fault".to_owned(), fault);
        }
    }
    value
}

/// Marks the connection to be closed after this response.
pub(super) fn end_connection(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Reply> {
    let json = HeaderValue::from_static(ContentType::JSON);
    answer(status, Some(json), value.to_string().into_bytes().into())
}

fn answer(status: StatusCode, content_type: Option<HeaderValue>, reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    *response.status_mut() = status;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

/// Returns the header value of a content type; `application/octet-stream` if no header can hold it.
fn content_type(name: &str) -> HeaderValue {
    const USUAL: [&str; 4] =
        [ContentType::JSON, ContentType::TEXT, ContentType::BYTES, ContentType::HTML];
    if let Some(usual) = USUAL.iter().find(|usual| **usual == name) {
        return HeaderValue::from_static(usual);
    }
    HeaderValue::from_bytes(name.as_bytes()).unwrap_or(HeaderValue::from_static(ContentType::BYTES))
}
