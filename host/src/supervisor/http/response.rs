//! The result of a request: a response, or an error that states whether the request may have run.

use std::fmt;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName};

/// A response of a child.
#[derive(Debug)]
pub(in crate::supervisor) struct HttpResponse {
    pub(in crate::supervisor) status: StatusCode,
    pub(in crate::supervisor) headers: HeaderMap,
    pub(in crate::supervisor) body: Vec<u8>,
}

impl HttpResponse {
    /// Returns the media type; that of any bytes if it is missing.
    pub(in crate::supervisor) fn content_type(&self) -> &str {
        self.header(&CONTENT_TYPE).unwrap_or("application/octet-stream")
    }

    pub(in crate::supervisor) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Whether an unanswered request may have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Delivery {
    /// Certainly not.
    NotSent,
    /// Possibly.
    MaybeSent,
}

/// The kind of a request error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum RequestErrorKind {
    /// The connection failed or was closed.
    Disconnected,
    /// The response is not valid HTTP.
    Protocol,
    /// The response exceeds its limit.
    TooLarge,
}

/// The error of a request without a valid response.
#[derive(Debug)]
pub(in crate::supervisor) struct RequestError {
    pub(in crate::supervisor) delivery: Delivery,
    pub(in crate::supervisor) kind: RequestErrorKind,
    /// Whether any byte of a response arrived.
    pub(in crate::supervisor) has_response: bool,
    pub(in crate::supervisor) message: String,
}

impl RequestError {
    /// Returns the error of a request that was not sent.
    pub(super) fn unsent(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self {
            delivery: Delivery::NotSent,
            kind: RequestErrorKind::Disconnected,
            has_response: false,
            message,
        }
    }

    /// Converts an error of hyper for a request that may have been sent.
    pub(super) fn of(error: &hyper::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            message = format!("{message}: {source}");
            cause = source.source();
        }
        if error.is_parse() || error.is_parse_too_large() || error.is_user() {
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

    /// Returns the error for heads without end.
    pub(super) fn endless_heads(max_bytes: u64) -> Self {
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
    pub(super) fn too_large(max_bytes: u64) -> Self {
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
