//! What came of a request: an answer, or why there is none and whether it may have run.

use std::fmt;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName};

/// What a child answered.
#[derive(Debug)]
pub(in crate::supervisor) struct Answer {
    pub(in crate::supervisor) status: StatusCode,
    pub(in crate::supervisor) headers: HeaderMap,
    pub(in crate::supervisor) body: Vec<u8>,
}

impl Answer {
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
pub(in crate::supervisor) enum Ran {
    /// Surely not.
    No,
    /// Perhaps.
    Perhaps,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Why {
    /// The connection could not be had, or was closed.
    Disconnected,
    /// What came is not the protocol.
    Protocol,
    /// The answer is larger than it may be.
    TooLarge,
}

/// Why a request was not answered.
#[derive(Debug)]
pub(in crate::supervisor) struct Broken {
    pub(in crate::supervisor) ran: Ran,
    pub(in crate::supervisor) why: Why,
    /// Whether any byte of a response came.
    pub(in crate::supervisor) has_response: bool,
    pub(in crate::supervisor) message: String,
}

impl Broken {
    /// It could not be sent.
    pub(super) fn unsent(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self { ran: Ran::No, why: Why::Disconnected, has_response: false, message }
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
            return Self { ran: Ran::Perhaps, why: Why::Protocol, has_response: true, message };
        }
        let message = format!("the connection ended before the answer was there: {message}");
        Self { ran: Ran::Perhaps, why: Why::Disconnected, has_response: true, message }
    }

    /// Heads without end came instead of an answer.
    pub(super) fn endless_heads(bytes_max: u64) -> Self {
        let message = format!(
            "invalid HTTP/1.1 response: more than {bytes_max} bytes of headers and informational \
             responses (1xx) came before the response itself"
        );
        Self { ran: Ran::Perhaps, why: Why::Protocol, has_response: true, message }
    }

    /// The answer is larger than it may be.
    pub(super) fn too_large(bytes_max: u64) -> Self {
        let message = format!(
            "its answer is larger than {bytes_max} bytes, which is the most \
                               (`limits.output_bytes`, or the host's `output_bytes_max`; of a \
                               state the host's `snapshot_bytes_max`)"
        );
        Self { ran: Ran::Perhaps, why: Why::TooLarge, has_response: true, message }
    }
}
