//! Responses: of plugins, and for errors of calls. Details of errors are logged, not sent.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use gateway_contract::HttpResponse;
use hotbay::{Error, ErrorKind};

/// Returns a response with the name of its status as the body.
pub(crate) fn plain(status: StatusCode) -> Response {
    (status, format!("{status}\n")).into_response()
}

/// Headers that describe the connection, which the server sets itself.
const OF_CONNECTION: [HeaderName; 3] = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Returns the response of a plugin, or 502 if it is not valid.
pub(crate) fn response_of_plugin(response: HttpResponse) -> Response {
    let status = StatusCode::from_u16(response.status).ok();
    let status = status.filter(|status| (200..600).contains(&status.as_u16()));
    let header = |(name, value): (String, String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    let headers = response.headers.into_iter().map(header).collect::<Option<Vec<_>>>();
    match (status, headers) {
        (Some(status), Some(headers)) => {
            let of_plugin = |(name, _): &_| !OF_CONNECTION.contains(name);
            let headers: HeaderMap = headers.into_iter().filter(of_plugin).collect();
            (status, headers, Body::from(response.body)).into_response()
        }
        _ => {
            tracing::warn!("a plugin returned an invalid response");
            plain(StatusCode::BAD_GATEWAY)
        }
    }
}

/// Returns the response for a call that failed.
pub(crate) fn response_of_error(error: Error) -> Response {
    let status = status_of(&error);
    tracing::warn!(status = status.as_u16(), "{}", error.full_message());
    let mut response = match error.plugin_error() {
        Some(own) if own.code() == i32::from(status.as_u16()) => {
            (status, format!("{}\n", own.message())).into_response()
        }
        _ => plain(status),
    };
    if let Some(wait) = error.retry_after() {
        // At least 1, since a client may not wait at all for 0.
        let seconds = (wait.as_millis().div_ceil(1000) as u64).max(1);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn status_of(error: &Error) -> StatusCode {
    match error.kind() {
        ErrorKind::Plugin => {
            let code = error.plugin_error().and_then(|own| u16::try_from(own.code()).ok());
            let status = code.filter(|code| (400..600).contains(code));
            let status = status.and_then(|code| StatusCode::from_u16(code).ok());
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        ErrorKind::Panicked
        | ErrorKind::Disconnected
        | ErrorKind::Protocol
        | ErrorKind::InvalidOutput => StatusCode::BAD_GATEWAY,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::Circular => StatusCode::LOOP_DETECTED,
        ErrorKind::NotFound
        | ErrorKind::NotProvided
        | ErrorKind::Overloaded
        | ErrorKind::Quarantined
        | ErrorKind::Retired
        | ErrorKind::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
