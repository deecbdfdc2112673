//! A response that is read while the program makes it: the items of a stream, a line each. The bytes
//! are read only when an item is wanted, so a caller that stops reading stops the program.

use std::fmt;

use hotbay_protocol::{MAX_LINE_OVERHEAD_BYTES, STREAM_CONTENT_TYPE, StreamLine};
use hyper::StatusCode;
use tokio::runtime::Handle;

use crate::call::{failure_of_stream, method_failure};
use crate::connection::{Async, ResponseBody, Transport};
use crate::error::{Error, ErrorKind, Failure};
use crate::http::{HttpResponse, RequestError, RequestErrorKind};

/// A response whose head was read.
pub(crate) struct OpenResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: ResponseBody<<Async as Transport>::Io>,
}

/// The items of a program's stream, as JSON. Dropping it closes the connection, which ends the
/// program's stream.
pub struct ItemLines {
    body: ResponseBody<<Async as Transport>::Io>,
    /// Bytes that were read, from the first line that was not parsed.
    buffer: Vec<u8>,
    /// The bytes of `buffer` that were returned, and those without a line end.
    parsed: usize,
    searched: usize,
    max_item_bytes: u64,
    is_finished: bool,
    /// The runtime of the socket.
    runtime: Handle,
}

impl OpenResponse {
    /// Returns the items, or the failure if the response has none.
    pub(crate) async fn into_items(
        mut self,
        max_item_bytes: u64,
        runtime: Handle,
    ) -> Result<ItemLines, Failure> {
        if self.status != StatusCode::OK {
            let body = self.body.collect(max_item_bytes).await.map_err(|error| lost(&error))?;
            let response = HttpResponse { status: self.status, headers: self.headers, body };
            return Err(method_failure(&response));
        }
        let empty = HttpResponse { status: self.status, headers: self.headers, body: Vec::new() };
        let found = empty.content_type();
        let media_type = found.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case(STREAM_CONTENT_TYPE) {
            let found = hotbay_plugin::text::cut(found, 80);
            let found = found.escape_debug();
            let message = format!(
                "returned a stream of the type `{found}`; expected `{STREAM_CONTENT_TYPE}`"
            );
            return Err(Error::new(ErrorKind::InvalidOutput, message).into());
        }
        Ok(ItemLines {
            body: self.body,
            buffer: Vec::new(),
            parsed: 0,
            searched: 0,
            max_item_bytes,
            is_finished: false,
            runtime,
        })
    }
}

impl ItemLines {
    /// Returns the runtime in which [`next`](Self::next) must be polled.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Reads the next item; `None` after the last one.
    ///
    /// # Errors
    ///
    /// The failure of the plugin, or of the connection. Nothing follows it.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if self.is_finished {
            return Ok(None);
        }
        let item = self.read_item().await;
        self.is_finished = !matches!(item, Ok(Some(_)));
        item
    }

    async fn read_item(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            while let Some(length) =
                self.buffer[self.searched..].iter().position(|byte| *byte == b'\n')
            {
                let line = self.parsed..self.searched + length;
                (self.parsed, self.searched) = (line.end + 1, line.end + 1);
                match StreamLine::parse(&self.buffer[line]) {
                    Ok(None) => {}
                    Ok(Some(StreamLine::Item(item))) => return Ok(Some(item.as_bytes().to_vec())),
                    Ok(Some(StreamLine::End)) => return Ok(None),
                    Ok(Some(StreamLine::Error(error))) => return Err(failure_of_stream(*error)),
                    Err(error) => {
                        let message = "returned an invalid line of a stream";
                        let error =
                            Error::new(ErrorKind::Protocol, message).caused_by(error.to_string());
                        return Err(error.into());
                    }
                }
            }
            self.buffer.drain(..self.parsed);
            (self.parsed, self.searched) = (0, self.buffer.len());
            let max_bytes = self.max_item_bytes.saturating_add(MAX_LINE_OVERHEAD_BYTES);
            if self.buffer.len() as u64 > max_bytes {
                let message = format!(
                    "returned an item of more than {} bytes, the limit (`limits.output_bytes`, or \
                     the host's `max_output_bytes`)",
                    self.max_item_bytes
                );
                return Err(Error::new(ErrorKind::InvalidOutput, message).into());
            }
            match self.body.next_part().await {
                Ok(Some(part)) => self.buffer.extend_from_slice(&part),
                Ok(None) => {
                    let message = "was called, but its stream ended without a last line";
                    return Err(Error::new(ErrorKind::Disconnected, message).into());
                }
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}

/// Returns the error of a stream whose connection failed.
fn lost(error: &RequestError) -> Failure {
    let (kind, message) = match error.kind {
        RequestErrorKind::Disconnected => {
            (ErrorKind::Disconnected, "was called, but its stream was interrupted")
        }
        RequestErrorKind::Protocol => {
            (ErrorKind::Protocol, "was called, but its stream was rejected")
        }
        RequestErrorKind::TooLarge => {
            (ErrorKind::InvalidOutput, "was called, but its response was rejected")
        }
    };
    Error::new(kind, message).caused_by(error.message.clone()).into()
}

impl fmt::Debug for ItemLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemLines").field("is_finished", &self.is_finished).finish_non_exhaustive()
    }
}
