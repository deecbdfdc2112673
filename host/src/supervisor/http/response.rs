//! What came of a request: an answer, or why there is none and whether it may have run.

use std::fmt;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName};

/// What a child answered.
#[derive(Debug)]
pub(in crate::supervisor) struct HttpResponse {
    pub(in crate::supervisor) status: StatusCode,
    pub(in crate::supervisor) headers: HeaderMap,
    pub(in crate::supervisor) body: Vec<u8>,
}

impl HttpResponse {
    /// The media type; that of any bytes where none is named.
    pub(in crate::supervisor) fn content_type(&self) -> &str {
        self.header(&CONTENT_TYPE).unwrap_or("application/octet-stream")
    }

    pub(in crate::supervisor) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Whether a request that was not answered ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Delivery {
    /// Surely not.
    NotSent,
    /// Perhaps.
    MaybeSent,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum RequestErrorKind {
    /// The connection could not be had, or was closed.
    Disconnected,
    /// What came is not the protocol.
    Protocol,
    /// The answer is larger than it may be.
    TooLarge,
}

/// Why a request was not answered.
#[derive(Debug)]
pub(in crate::supervisor) struct RequestError {
    pub(in crate::supervisor) delivery: Delivery,
    pub(in crate::supervisor) kind: RequestErrorKind,
    /// Whether any byte of a response came.
    pub(in crate::supervisor) has_response: bool,
    pub(in crate::supervisor) message: String,
}

impl RequestError {
    /// It could not be sent.
    pub(super) fn unsent(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self {
            delivery: Delivery::NotSent,
            kind: RequestErrorKind::Disconnected,
            has_response: false,
            message,
        }
    }

    /// What hyper says of a request that may have been sent.
    pub(super) fn of(error: &hyper::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            message = format!("{message}: {source}");
            cause = source.source();
        }
        if error.is_parse() || error.is_parse_too_large() || error.is_user() {
            let message = format!("what it answered is no HTTP/1.1: {message}");
            return Self {
                delivery: Delivery::MaybeSent,
                kind: RequestErrorKind::Protocol,
                has_response: true,
                message,
            };
        }
        let message = format!("the connection ended before the answer was there: {message}");
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::Disconnected,
            has_response: true,
            message,
        }
    }

    /// Heads without end came instead of an answer.
    pub(super) fn endless_heads(bytes_max: u64) -> Self {
        let message = format!(
            "invalid HTTP/1.1 response: more than {bytes_max} bytes of headers and informational \
             responses (1xx) came before the response itself"
        );
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::Protocol,
            has_response: true,
            message,
        }
    }

    /// The answer is larger than it may be.
    pub(super) fn too_large(bytes_max: u64) -> Self {
        let message = format!(
            "its answer is larger than {bytes_max} bytes, which is the most \
                               (`limits.output_bytes`, or the host's `max_output_bytes`; of a \
                               state the host's `max_snapshot_bytes`)"
        );
        Self {
            delivery: Delivery::MaybeSent,
            kind: RequestErrorKind::TooLarge,
            has_response: true,
            message,
        }
    }
}
