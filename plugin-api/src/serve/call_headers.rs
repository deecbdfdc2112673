//! Call headers, and the bounds that they put on a call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::header::{HeaderMap, HeaderName};

use super::connections::Connection;
use crate::TraceContext;
use crate::context::Bounds;

static CALL_ID: HeaderName = HeaderName::from_static("hotbay-call-id");
static DEADLINE_MS: HeaderName = HeaderName::from_static("hotbay-deadline-ms");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The headers of a request that describe a call.
#[derive(Debug)]
pub(super) struct CallHeaders {
    pub(super) call_id: u64,
    pub(super) trace: Option<TraceContext>,
    pub(super) deadline: Option<Instant>,
}

impl CallHeaders {
    /// Parses the headers of a request that has just arrived.
    ///
    /// # Errors
    ///
    /// A message for people that names the invalid header.
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, String> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let call_id = match text(&CALL_ID) {
            Some(id) => id
                .parse()
                .map_err(|_| format!("invalid Hotbay-Call-Id: expected a number, found `{id}`"))?,
            None => next_id(),
        };
        let deadline = match text(&DEADLINE_MS) {
            Some(ms) => Instant::now().checked_add(parse_deadline(ms)?),
            None => None,
        };
        Ok(Self { call_id, trace: text(&TRACEPARENT).and_then(parse_traceparent), deadline })
    }
}

/// Returns the next id for calls that the host does not number.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn parse_deadline(ms: &str) -> Result<Duration, String> {
    let invalid =
        |_| format!("invalid Hotbay-Deadline-Ms: expected whole milliseconds, found `{ms}`");
    ms.parse().map(Duration::from_millis).map_err(invalid)
}

/// Parses a `traceparent`; ignores an invalid one, as the standard requires.
fn parse_traceparent(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let version = parts.next()?;
    let trace_id: [u8; 16] = hex(parts.next()?)?;
    let span_id: [u8; 8] = hex(parts.next()?)?;
    let [flags] = hex::<1>(parts.next()?)?;
    let is_known = version == "00" && parts.next().is_none();
    let is_newer = hex::<1>(version)? != [0] && version != "ff";
    let is_valid = trace_id != [0; 16] && span_id != [0; 8];
    ((is_known || is_newer) && is_valid).then_some(TraceContext { trace_id, span_id, flags })
}

fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Bounds of a call: its deadline, and whether the host still holds the connection.
#[derive(Debug)]
pub(super) struct CallBounds<'a> {
    pub(super) connection: &'a Connection,
    pub(super) deadline: Option<Instant>,
}

impl Bounds for CallBounds<'_> {
    fn is_cancelled(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
            || self.connection.is_closed_by_peer()
    }

    fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn traceparent_is_parsed_as_in_the_standard() {
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let trace = parse_traceparent(&format!("00-{ids}-01")).unwrap();
        assert_eq!((trace.trace_id[0], trace.trace_id[15]), (0x0a, 0x9c));
        assert_eq!((trace.span_id[0], trace.span_id[7], trace.flags), (0xb7, 0x31, 1));
        assert_eq!(parse_traceparent(&format!("01-{ids}-01-more")), Some(trace));
        for invalid in [
            format!("00-{ids}"),
            format!("00-{ids}-01-more"),
            format!("ff-{ids}-01"),
            format!("0-{ids}-01"),
            format!("00-{}-01", ids.to_uppercase()),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            String::new(),
        ] {
            assert_eq!(parse_traceparent(&invalid), None, "{invalid}");
        }
    }

    #[test]
    fn call_headers_are_optional_and_invalid_ones_are_reported() {
        let call_headers = CallHeaders::parse(&HeaderMap::new()).unwrap();
        assert!(call_headers.deadline.is_none() && call_headers.trace.is_none());
        let mut headers = HeaderMap::new();
        headers.insert(&CALL_ID, HeaderValue::from_static("77"));
        headers.insert(&DEADLINE_MS, HeaderValue::from_static("1000"));
        let call_headers = CallHeaders::parse(&headers).unwrap();
        assert_eq!(call_headers.call_id, 77);
        assert!(call_headers.deadline.is_some());
        headers.insert(&DEADLINE_MS, HeaderValue::from_static("1.5"));
        let error = CallHeaders::parse(&headers).unwrap_err();
        assert!(error.contains("invalid Hotbay-Deadline-Ms: "), "{error}");
    }
}
