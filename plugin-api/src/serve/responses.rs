//! HTTP responses: outputs, plugin errors, panics, and requests that the SDK rejects.

use hotbay_protocol::{ErrorBody, FaultBody};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value};

use super::body::OutgoingBody;
use super::instance::AccessError;
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

/// Returns a response after which the connection carries another protocol.
pub(super) fn upgraded(protocol: &'static str) -> Response<OutgoingBody> {
    let mut response = response(StatusCode::SWITCHING_PROTOCOLS, None, OutgoingBody::empty());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// Returns a response with bytes of the given content type.
pub(super) fn bytes(bytes: Vec<u8>, content_type: &'static str) -> Response<OutgoingBody> {
    response(StatusCode::OK, Some(HeaderValue::from_static(content_type)), bytes.into())
}

/// Returns a response with this body.
#[cfg(feature = "contracts")]
pub(super) fn body(body: OutgoingBody, content_type: &'static str) -> Response<OutgoingBody> {
    response(StatusCode::OK, Some(HeaderValue::from_static(content_type)), body)
}

/// Returns a response for a call that failed.
pub(super) fn failed(failure: &Failure) -> Response<OutgoingBody> {
    let status = match failure {
        Failure::Error(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Failure::Panic(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    json_response(status, &failure_body(failure))
}

/// Returns a response for a health check that failed.
pub(super) fn unhealthy(failure: &Failure) -> Response<OutgoingBody> {
    json_response(StatusCode::SERVICE_UNAVAILABLE, &failure_body(failure))
}

/// Returns a response to a request that never reached the plugin.
pub(super) fn rejected(status: StatusCode, message: &str) -> Response<OutgoingBody> {
    json_response(status, &ErrorBody::rejected(status.as_u16(), message))
}

/// Returns a response to a request for which the plugin is not available.
pub(super) fn not_possible(error: AccessError) -> Response<OutgoingBody> {
    rejected(StatusCode::CONFLICT, error.message())
}

/// Returns the body that describes a failure.
pub(super) fn failure_body(failure: &Failure) -> ErrorBody<'_> {
    match failure {
        Failure::Error(error) => ErrorBody {
            code: Some(error.code().into()),
            details: error.details().and_then(|details| to_raw_value(details).ok()),
            message: Some(error.message().into()),
            retryable: Some(error.is_retryable()),
            ..ErrorBody::default()
        },
        Failure::Panic(panic) => ErrorBody {
            code: Some(500),
            fault: Some(FaultBody {
                location: panic.location().map(Into::into),
                message: panic.message().into(),
            }),
            message: Some("panicked".into()),
            ..ErrorBody::default()
        },
    }
}

/// Returns the members of the body that describes a failure.
pub(super) fn failure_fields(failure: &Failure) -> Map<String, Value> {
    match serde_json::to_value(failure_body(failure)) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// Returns a body as JSON.
pub(super) fn to_json(body: &ErrorBody<'_>) -> String {
    serde_json::to_string(body).expect("its only maps are those of `Value`")
}

/// Marks the connection to be closed after this response.
pub(super) fn close_connection(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

fn json_response(status: StatusCode, body: &ErrorBody<'_>) -> Response<OutgoingBody> {
    let json = HeaderValue::from_static(ContentType::JSON);
    response(status, Some(json), to_json(body).into_bytes().into())
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
