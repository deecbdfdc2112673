//! Requests to a process and their results: a response, or an error that states whether the request
//! may have run, which decides about retries.

use std::fmt;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use hotbay_protocol::{endpoint, frame, header, millis_rounded_up};
use http_body_util::Full;
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE,
};
use hyper::http::uri::InvalidUri;
use hyper::{Method, StatusCode, Uri};

use crate::location::Location;

/// Milliseconds until the deadline.
const DEADLINE: HeaderName = HeaderName::from_static(header::DEADLINE_MS);
/// The token that authenticates the host.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static(header::TOKEN);
/// The version of a state.
pub const SNAPSHOT_VERSION: HeaderName = HeaderName::from_static(header::SNAPSHOT_VERSION);

/// A request to a child.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Without the leading slash.
    pub endpoint: String,
    /// The media type of the body.
    pub content_type: HeaderValue,
    /// The body.
    pub body: Bytes,
    /// Deadline for the response; passed to the child, and enforced by the caller's wait.
    pub deadline: Option<Instant>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The limit of the response's body.
    pub max_response_bytes: u64,
}

impl HttpRequest {
    /// Limit of a response to `/healthz`.
    const MAX_HEALTH_BYTES: u64 = 64 << 10;

    /// Returns a health request.
    pub(crate) fn health() -> Self {
        Self {
            method: Method::GET,
            endpoint: endpoint::HEALTH.to_owned(),
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::new(),
            deadline: None,
            headers: Vec::new(),
            max_response_bytes: Self::MAX_HEALTH_BYTES,
        }
    }

    /// Builds the HTTP message that asks for frames.
    pub(crate) fn upgrade_to_frames(
        token: Option<&HeaderValue>,
    ) -> Result<hyper::Request<Full<Bytes>>, RequestError> {
        let mut request = Self::health().to_message(token)?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(frame::UPGRADE));
        Ok(request)
    }

    /// Builds the HTTP message.
    pub(crate) fn to_message(
        &self,
        token: Option<&HeaderValue>,
    ) -> Result<hyper::Request<Full<Bytes>>, RequestError> {
        let uri = uri(&self.endpoint).map_err(|error| {
            RequestError::unsent(format!("`{}` is not a valid endpoint: {error}", self.endpoint))
        })?;
        let mut request = hyper::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(8);
        headers.insert(HOST, HeaderValue::from_static("unix"));
        // Without a body, a content type makes no sense.
        let is_bodiless = matches!(self.method, Method::GET | Method::HEAD) && self.body.is_empty();
        if !is_bodiless {
            headers.insert(CONTENT_TYPE, self.content_type.clone());
        }
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let Some(token) = token {
            headers.insert(TOKEN, token.clone());
        }
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            headers.insert(DEADLINE, HeaderValue::from(millis_rounded_up(left)));
        }
        for (at, (name, value)) in self.headers.iter().enumerate() {
            // The first one replaces a default, such as `Accept`.
            if self.headers[..at].iter().any(|(before, _)| before == name) {
                headers.append(name.clone(), value.clone());
            } else {
                headers.insert(name.clone(), value.clone());
            }
        }
        Ok(request)
    }
}

/// Returns whether the bytes of a body violate HTTP, as in an invalid chunk or too many trailers.
fn is_invalid_body(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &io::Error| {
        matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
    })
}

/// Returns whether a request can be sent to an endpoint of this name.
pub(crate) fn is_endpoint(endpoint: &str) -> bool {
    uri(endpoint).is_ok()
}

fn uri(endpoint: &str) -> Result<Uri, InvalidUri> {
    let mut path = String::with_capacity(endpoint.len() + 1);
    path.push('/');
    path.push_str(endpoint.trim_start_matches('/'));
    Uri::try_from(path)
}

/// A response of a child.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// Returns the media type; that of any bytes if it is missing.
    pub fn content_type(&self) -> &str {
        self.header(&CONTENT_TYPE).unwrap_or("application/octet-stream")
    }

    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Whether an unanswered request may have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Certainly not.
    NotSent,
    /// Possibly.
    MaybeSent,
}

/// The kind of a request error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestErrorKind {
    /// The connection failed or was closed.
    Disconnected,
    /// The response is not valid HTTP.
    Protocol,
    /// The response exceeds its limit.
    TooLarge,
}

/// The error of a request without a valid response.
#[derive(Debug)]
pub struct RequestError {
    pub(crate) delivery: Delivery,
    pub(crate) kind: RequestErrorKind,
    /// Whether any byte of a response arrived.
    pub(crate) has_response: bool,
    /// Why it failed.
    pub message: String,
}

impl RequestError {
    /// Returns the error of a request that was not sent.
    pub(crate) fn unsent(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self {
            delivery: Delivery::NotSent,
            kind: RequestErrorKind::Disconnected,
            has_response: false,
            message,
        }
    }

    /// Returns the error of a connection that could not be opened.
    pub(crate) fn no_connection(location: &Location, error: &io::Error) -> Self {
        Self::unsent(format!("no connection to {location}: {error}"))
    }

    /// Converts an error of hyper for a request that may have been sent.
    pub(crate) fn of(error: &hyper::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            message = format!("{message}: {source}");
            cause = source.source();
        }
        if error.is_parse() || error.is_user() || is_invalid_body(error) {
            let message = format!("invalid HTTP/1.1 response: {message}");
            return Self {
                delivery: Delivery::MaybeSent,
                kind: RequestErrorKind::Protocol,
                has_response: true,
                message,
            };
        }
        let message = format!("the connection closed before the response arrived: {message}");
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::Disconnected,
            has_response: true,
            message,
        }
    }

    /// Returns the error of a connection that closed before the reply in a frame.
    pub(crate) fn unanswered(why: &str, has_response: bool) -> Self {
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::Disconnected,
            has_response,
            message: format!("the connection closed before the response arrived: {why}"),
        }
    }

    /// Returns the error of an upgrade to frames that failed, before any call was sent.
    pub(crate) fn of_upgrade(error: Self) -> Self {
        let message =
            format!("cannot upgrade a connection to `{}`: {}", frame::UPGRADE, error.message);
        Self { delivery: Delivery::NotSent, message, ..error }
    }

    /// Returns the error for a reply that is not a valid frame.
    pub(crate) fn invalid_frame(why: &str) -> Self {
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::Protocol,
            has_response: true,
            message: format!("invalid frame: {why}"),
        }
    }

    /// Returns the error for heads without end.
    pub(crate) fn endless_heads(max_bytes: u64) -> Self {
        let message = format!(
            "invalid HTTP/1.1 response: more than {max_bytes} bytes of headers and informational \
             responses (1xx) before the final response"
        );
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::Protocol,
            has_response: true,
            message,
        }
    }

    /// Returns the error for a response that exceeds its limit.
    pub(crate) fn too_large(max_bytes: u64) -> Self {
        let message = format!(
            "its response is larger than {max_bytes} bytes, the limit (`limits.output_bytes`, or \
             the host's `max_output_bytes`; for a state the host's `max_snapshot_bytes`)"
        );
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::TooLarge,
            has_response: true,
            message,
        }
    }
}
