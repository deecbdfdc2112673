//! Responds with the items of a stream: a line for each, which is made when the connection accepts it.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use hotbay_protocol::{ErrorBody, STREAM_CONTENT_TYPE, StreamLine};
use hyper::Response;

use super::body::{Lines, OutgoingBody};
use super::call::{CallBounds, CallHeaders, run_plugin};
use super::connections::Connection;
use super::host_client::report_thread_panic;
use super::responses;
use crate::contract::internal::{Failed, ServedItems};
use crate::export::Failure;

/// Returns the response with the items of a stream.
///
/// `activity` is dropped after the last line was written.
pub(super) fn respond(
    connection: &Arc<Connection>,
    call_headers: CallHeaders,
    items: Box<dyn ServedItems>,
    activity: impl Send + 'static,
) -> Response<OutgoingBody> {
    let lines = StreamLines {
        items: Some(items),
        _activity: activity,
        connection: Arc::clone(connection),
        call_headers,
        is_flushing: false,
    };
    responses::body(OutgoingBody::of_lines(lines), STREAM_CONTENT_TYPE)
}

/// The lines of a stream.
struct StreamLines<A> {
    /// `None` after the last line.
    items: Option<Box<dyn ServedItems>>,
    _activity: A,
    connection: Arc<Connection>,
    call_headers: CallHeaders,
    /// Whether the last line may still be in the buffer of the connection.
    is_flushing: bool,
}

impl<A: Send> Lines for StreamLines<A> {
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        // An iterator may block, so the connection writes each line before the next is made.
        if std::mem::take(&mut self.is_flushing) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(items) = &mut self.items else { return Poll::Ready(None) };
        let CallHeaders { deadline, .. } = self.call_headers;
        let bounds = CallBounds { connection: &self.connection, deadline };
        let context = self.call_headers.context().with_bounds(&bounds);
        let failure = match run_plugin(|| Ok(items.poll_next(&context, cx))) {
            // The end of a connection is an event, so it is polled again.
            Ok(Poll::Pending) if !self.connection.is_closed_by_peer() => return Poll::Pending,
            Ok(Poll::Pending) => {
                self.drop_items();
                return Poll::Ready(None);
            }
            Ok(Poll::Ready(Some(Ok(item)))) => {
                self.is_flushing = true;
                // It was serialized as JSON, which is text.
                let item = StreamLine::Item(item.as_text().unwrap_or("null"));
                return Poll::Ready(Some(item.to_bytes()));
            }
            Ok(Poll::Ready(None)) => None,
            Ok(Poll::Ready(Some(Err((part, error))))) => Some((part, Failure::Error(error))),
            Err(failure) => Some((Failed::Method, failure)),
        };
        let last = match &failure {
            None => StreamLine::End,
            Some((Failed::Method, failure)) => {
                StreamLine::Error(Box::new(responses::failure_body(failure)))
            }
            Some((_, failure)) => {
                let reason = match failure {
                    Failure::Error(error) => error.message(),
                    Failure::Panic(fault) => fault.message(),
                };
                let message = format!("an item cannot be serialized: {reason}");
                StreamLine::Error(Box::new(ErrorBody::rejected(500, message)))
            }
        };
        let bytes = last.to_bytes();
        self.drop_items();
        Poll::Ready(Some(bytes))
    }
}

impl<A> StreamLines<A> {
    fn drop_items(&mut self) {
        let items = self.items.take();
        let dropped = run_plugin(|| {
            drop(items);
            Ok(())
        });
        // Its caller has all items, or is gone.
        if let Err(Failure::Panic(fault)) = dropped {
            report_thread_panic(fault.message(), fault.location().unwrap_or_default());
        }
    }
}

impl<A> Drop for StreamLines<A> {
    fn drop(&mut self) {
        self.drop_items();
    }
}

impl<A> fmt::Debug for StreamLines<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLines").field("items", &self.items).finish_non_exhaustive()
    }
}
