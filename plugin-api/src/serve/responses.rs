//! HTTP responses: outputs, plugin errors, panics, and requests that the SDK rejects.

use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body::OutgoingBody;
use crate::export::panics::Failure;
use crate::{ContentType, Output};

/// Returns a response with the output of a call. Reuses the allocation of the request's headers.
pub(super) fn output(output: Output, mut headers: HeaderMap) -> Response<OutgoingBody> {
    headers.clear();
    headers.insert(CONTENT_TYPE, content_type(output.content_type()));
    let mut response = Response::new(output.into());
    *response.headers_mut() = headers;
    response
}

/// Returns an empty response with status 200.
pub(super) fn empty() -> Response<OutgoingBody> {
    response(StatusCode::OK, None, OutgoingBody::empty())
}

/// Returns a response with bytes of the given content type.
pub(super) fn bytes(bytes: Vec<u8>, content_type: &'static str) -> Response<OutgoingBody> {
    response(StatusCode::OK, Some(HeaderValue::from_static(content_type)), bytes.into())
}

/// Returns a response for a call that failed.
pub(super) fn failed(failure: &Failure) -> Response<OutgoingBody> {
    let status = match failure {
        Failure::Error(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Failure::Panic(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    json_response(status, &failure_json(failure).into())
}

/// Returns a response for a health check that failed.
pub(super) fn unhealthy(failure: &Failure) -> Response<OutgoingBody> {
    json_response(StatusCode::SERVICE_UNAVAILABLE, &failure_json(failure).into())
}

/// Returns a response to a request that never reached the plugin.
pub(super) fn rejected(status: StatusCode, message: &str) -> Response<OutgoingBody> {
    json_response(status, &json!({ "message": message, "statusCode": status.as_u16() }))
}

/// Returns the JSON object that describes a failure.
pub(super) fn failure_json(failure: &Failure) -> Map<String, Value> {
    let mut value = Map::new();
    match failure {
        Failure::Error(error) => {
            value.insert("code".to_owned(), error.code().into());
            value.insert("message".to_owned(), error.message().into());
            value.insert("retryable".to_owned(), error.is_retryable().into());
            if let Some(details) = error.details() {
                value.insert("details".to_owned(), details.clone());
            }
        }
        Failure::Panic(panic) => {
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
pub(super) fn close_connection(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

fn json_response(status: StatusCode, value: &Value) -> Response<OutgoingBody> {
    let json = HeaderValue::from_static(ContentType::JSON);
    response(status, Some(json), value.to_string().into_bytes().into())
}

fn response(
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: OutgoingBody,
) -> Response<OutgoingBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

/// Returns the header value of a content type; `application/octet-stream` if no header can hold it.
fn content_type(name: &str) -> HeaderValue {
    const COMMON: [&str; 4] =
        [ContentType::JSON, ContentType::TEXT, ContentType::BYTES, ContentType::HTML];
    if let Some(common) = COMMON.iter().find(|common| **common == name) {
        return HeaderValue::from_static(common);
    }
    HeaderValue::from_bytes(name.as_bytes()).unwrap_or(HeaderValue::from_static(ContentType::BYTES))
}
