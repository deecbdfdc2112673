//! One call of the plugin: its headers, and the bounds that they put on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotbay_protocol::{header, parse_traceparent};
use hyper::header::{HeaderMap, HeaderName};

use super::connections::Connection;
use super::instance::{AccessError, Instance};
use crate::context::{Bounds, CallContext, RawContext, in_context};
use crate::export::panics::{Failure, guard};
use crate::{Output, Payload, Plugin, PluginError, TraceContext};

static CALL_ID: HeaderName = HeaderName::from_static(header::CALL_ID);
/// The hash of the signature of a method.
pub(super) static CONTRACT_HASH: HeaderName = HeaderName::from_static(header::CONTRACT_HASH);
static DEADLINE_MS: HeaderName = HeaderName::from_static(header::DEADLINE_MS);
static TRACEPARENT: HeaderName = HeaderName::from_static(header::TRACEPARENT);

/// A function that handles calls, with the signature of [`Plugin::execute`].
pub type Endpoint<T> = fn(&T, &CallContext<'_>, Payload<'_>) -> Result<Output, PluginError>;

/// The reason a call returned no output.
pub(super) enum CallError {
    Failed(Failure),
    Rejected(AccessError),
}

/// Runs one call on the current thread.
pub(super) fn call<T: Plugin, A>(
    instance: &Instance<T>,
    connection: &Connection,
    call_headers: &CallHeaders,
    run: impl FnOnce(&T, &RawContext<'_>) -> Result<A, PluginError>,
) -> Result<A, CallError> {
    let plugin = instance.for_call().map_err(CallError::Rejected)?;
    let bounds = CallBounds { connection, deadline: call_headers.deadline };
    let context = call_headers.context().with_bounds(&bounds);
    run_plugin(|| in_context(&context, || run(plugin, &context))).map_err(CallError::Failed)
}

/// Runs code of the plugin; converts a panic into a failure.
pub(super) fn run_plugin<A>(body: impl FnOnce() -> Result<A, PluginError>) -> Result<A, Failure> {
    let mut output = None;
    guard::<true>(|| {
        output = Some(body()?);
        Ok(())
    })?;
    Ok(output.expect("set by the closure, since it did not fail"))
}

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
        Ok(Self { call_id, trace: text(&TRACEPARENT).and_then(parse_trace), deadline })
    }

    /// Returns the context of the call, without bounds.
    pub(super) fn context(&self) -> RawContext<'_> {
        RawContext::new(self.call_id).with_trace(self.trace.as_ref())
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
fn parse_trace(text: &str) -> Option<TraceContext> {
    let (trace_id, span_id, flags) = parse_traceparent(text)?;
    Some(TraceContext { trace_id, span_id, flags })
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
