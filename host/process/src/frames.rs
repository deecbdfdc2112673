//! Connections that carry frames instead of HTTP, of programs that serve them: one call of the
//! system sends a call, and one receives its reply.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hotbay_protocol::frame::{
    self, FrameBuffer, MAX_KEPT_BYTES, MAX_REQUEST_BYTES, ReplyHead, RequestHead,
};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, UPGRADE};
use hyper::rt::{Read, ReadBuf, Write};
use hyper::{Request, StatusCode};

use crate::http::{HttpResponse, RequestError};
use crate::sync::lock;

/// The largest number of connections of one pool. Each occupies a thread of the program; further
/// calls at the same time are sent over HTTP.
const MAX_OPEN: usize = 32;

/// Bytes of a request besides its body and names.
const MAX_FIXED_BYTES: usize = 128;

/// Bytes of the head of a reply.
const MAX_REPLY_HEAD_BYTES: u64 = 64 << 10;

/// With less time before the deadline, no read may block.
const MIN_BLOCKING_MS: u64 = 20;

/// Returns whether a request fits into a frame.
pub(crate) fn fits(head: &RequestHead<'_>, body: &[u8]) -> bool {
    let names = head.endpoint.len() + head.content_type.len();
    body.len() + names + MAX_FIXED_BYTES <= MAX_REQUEST_BYTES
}

/// A connection with at most one call in flight.
pub(crate) struct FrameConnection<I> {
    io: I,
    /// The request that is written.
    request: Vec<u8>,
    received: FrameBuffer,
    _slot: Slot,
}

impl<I: Read + Write + Unpin + Send + 'static> FrameConnection<I> {
    /// Upgrades a connection by this request; `None` if the program refuses.
    pub(crate) async fn upgrade(
        io: I,
        slot: Slot,
        mut request: Request<Full<Bytes>>,
        expect_replies: fn(&mut I) -> io::Result<()>,
    ) -> Result<Option<Self>, RequestError> {
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(frame::UPGRADE));
        let (mut sender, mut connection) =
            http1::handshake(io).await.map_err(RequestError::unsent)?;
        let mut sent = pin!(sender.send_request(request));
        let response = poll_fn(|context| {
            // The pending request gets the result.
            let _ = connection.poll_without_shutdown(context);
            sent.as_mut().poll(context)
        });
        let status = response.await.map_err(RequestError::unsent)?.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(None);
        }
        let mut parts = connection.into_parts();
        expect_replies(&mut parts.io).map_err(RequestError::unsent)?;
        let received = FrameBuffer::new(&parts.read_buf);
        Ok(Some(Self { io: parts.io, request: Vec::new(), received, _slot: slot }))
    }

    /// Sends a call and waits for its reply. `expect_reply` is called when it was sent.
    pub(crate) async fn exchange(
        &mut self,
        head: &RequestHead<'_>,
        body: &[u8],
        max_response_bytes: u64,
        expect_reply: fn(&mut I, bool),
    ) -> Result<HttpResponse, RequestError> {
        if frame::write_head(&mut self.request, head, body.len()).is_err() {
            return Err(RequestError::unsent("the input is longer than a frame can be"));
        }
        self.request.extend_from_slice(body);
        // An incomplete request is not called.
        write_all(&mut self.io, &self.request).await.map_err(RequestError::unsent)?;
        let may_block = head.deadline_ms.is_none_or(|left_ms| left_ms >= MIN_BLOCKING_MS);
        expect_reply(&mut self.io, may_block);
        let max_bytes = max_response_bytes.saturating_add(MAX_REPLY_HEAD_BYTES);
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let too_large = |_| RequestError::too_large(max_response_bytes);
        while !self.received.has_frame(max_bytes).map_err(too_large)? {
            match read(&mut self.io, self.received.spare()).await {
                Ok(count) if count > 0 => self.received.fill(count),
                ended => {
                    let why = ended.err().map_or("end of the stream".to_owned(), |e| e.to_string());
                    return Err(RequestError::unanswered(&why, !self.received.is_empty()));
                }
            }
        }
        let reply = self.received.take_frame();
        let response = response_of(reply, max_response_bytes);
        self.received.release();
        self.request.clear();
        self.request.shrink_to(MAX_KEPT_BYTES);
        if !self.received.is_empty() {
            return Err(RequestError::invalid_frame("more than one reply to a request"));
        }
        response
    }
}

fn response_of(reply: &[u8], max_response_bytes: u64) -> Result<HttpResponse, RequestError> {
    let Some((head, body)) = frame::split::<ReplyHead<'_>>(reply) else {
        return Err(RequestError::invalid_frame("invalid head"));
    };
    if body.len() as u64 > max_response_bytes {
        return Err(RequestError::too_large(max_response_bytes));
    }
    let status = StatusCode::from_u16(head.status);
    let status = status.map_err(|_| RequestError::invalid_frame("invalid status"))?;
    let mut headers = HeaderMap::new();
    if !head.content_type.is_empty() {
        let content_type = HeaderValue::from_str(head.content_type);
        let content_type =
            content_type.map_err(|_| RequestError::invalid_frame("invalid content type"))?;
        headers.insert(CONTENT_TYPE, content_type);
    }
    Ok(HttpResponse { status, headers, body: body.to_vec() })
}

async fn write_all<I: Write + Unpin>(io: &mut I, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|context| Pin::new(&mut *io).poll_write(context, bytes)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    Ok(())
}

async fn read<I: Read + Unpin>(io: &mut I, space: &mut [u8]) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(space);
    poll_fn(|context| Pin::new(&mut *io).poll_read(context, buffer.unfilled())).await?;
    Ok(buffer.filled().len())
}

/// Kept connections. The most recently used one is taken first.
pub(crate) struct FramePool<I> {
    kept: Mutex<Vec<FrameConnection<I>>>,
    open: Arc<AtomicUsize>,
}

impl<I> Default for FramePool<I> {
    fn default() -> Self {
        Self { kept: Mutex::default(), open: Arc::default() }
    }
}

impl<I> FramePool<I> {
    pub(crate) fn take(&self) -> Option<FrameConnection<I>> {
        lock(&self.kept).pop()
    }

    pub(crate) fn put(&self, connection: FrameConnection<I>) {
        lock(&self.kept).push(connection);
    }

    /// Reserves a connection; `None` if too many are open.
    pub(crate) fn slot(&self) -> Option<Slot> {
        let slot = Slot(Arc::clone(&self.open));
        (self.open.fetch_add(1, Ordering::Relaxed) < MAX_OPEN).then_some(slot)
    }

    /// Closes every kept connection.
    pub(crate) fn clear(&self) {
        let kept = std::mem::take(&mut *lock(&self.kept));
        drop(kept);
    }
}

/// A connection of a pool, open or about to be opened.
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
