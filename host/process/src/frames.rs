//! Connections that carry frames instead of HTTP, of programs that serve them: one call of the
//! system sends a call, and one receives its reply.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hotbay_protocol::frame::{
    self, FrameBuffer, MAX_KEPT_BYTES, MAX_REQUEST_BYTES, ReplyHead, RequestHead,
};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::rt::{Read, ReadBuf, Write};

use crate::http::{HttpResponse, RequestError};
use crate::sharing::Open;
use crate::sync::lock;

/// Bytes of a request besides its body and names.
const MAX_FIXED_BYTES: usize = 128;

/// Bytes of the head of a reply.
const MAX_REPLY_HEAD_BYTES: u64 = 64 << 10;

/// With less time before the deadline, no read may block.
const MIN_BLOCKING_MS: u64 = 20;

/// The number of replies to earlier calls that are discarded for one call.
const MAX_STALE: u32 = 16;

/// Returns whether a request fits into a frame.
pub(crate) fn fits(head: &RequestHead<'_>, body: &[u8]) -> bool {
    let names = head.endpoint.len() + head.content_type.len();
    body.len() + names + MAX_FIXED_BYTES <= MAX_REQUEST_BYTES
}

/// A connection with at most one call in flight.
pub(crate) struct FrameConnection<I> {
    /// Dropped first: once the socket is closed, another connection may be opened.
    _open: Open,
    io: I,
    /// The request that is written.
    request: Vec<u8>,
    received: FrameBuffer,
    _permit: FramePermit,
}

impl<I: Read + Write + Unpin + Send + 'static> FrameConnection<I> {
    /// Wraps a socket that carries frames.
    pub(crate) fn new(io: I, open: Open, permit: FramePermit) -> Self {
        let received = FrameBuffer::default();
        Self { _open: open, io, request: Vec::new(), received, _permit: permit }
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
        for _ in 0..MAX_STALE {
            self.receive(max_response_bytes).await?;
            let response =
                response_of(self.received.take_frame(), head.call_id, max_response_bytes);
            // The program has answered an earlier call again.
            let Some(response) = response.transpose() else { continue };
            self.received.release();
            self.request.clear();
            self.request.shrink_to(MAX_KEPT_BYTES);
            if !self.received.is_empty() {
                return Err(RequestError::invalid_frame("more than one reply to a request"));
            }
            return response;
        }
        Err(RequestError::invalid_frame("only replies to other calls"))
    }

    /// Receives the next frame.
    async fn receive(&mut self, max_response_bytes: u64) -> Result<(), RequestError> {
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
        Ok(())
    }
}

/// Parses a reply; `None` if it is that of another call.
fn response_of(
    reply: &[u8],
    call_id: u64,
    max_response_bytes: u64,
) -> Result<Option<HttpResponse>, RequestError> {
    let Some((head, body)) = frame::split::<ReplyHead<'_>>(reply) else {
        return Err(RequestError::invalid_frame("invalid head"));
    };
    if head.call_id != call_id {
        return Ok(None);
    }
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
    Ok(Some(HttpResponse { status, headers, body: body.to_vec() }))
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

    /// Permits another connection, of at most `max` that are open.
    pub(crate) fn permit(&self, max: usize) -> Option<FramePermit> {
        let permit = FramePermit(Arc::clone(&self.open));
        (self.open.fetch_add(1, Ordering::Relaxed) < max).then_some(permit)
    }

    /// Closes every kept connection.
    pub(crate) fn clear(&self) {
        let kept = std::mem::take(&mut *lock(&self.kept));
        drop(kept);
    }
}

/// Counts a connection of a pool, open or about to be opened.
pub(crate) struct FramePermit(Arc<AtomicUsize>);

impl Drop for FramePermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use hotbay_plugin::wire;
    use hotbay_protocol::frame::write_head;

    use super::*;
    use crate::http::{Delivery, RequestErrorKind};
    use crate::sharing::Sharing;

    const HEAD: RequestHead<'_> = RequestHead {
        call_id: 7,
        deadline_ms: None,
        trace: None,
        contract_hash: None,
        endpoint: "execute",
        content_type: "text/plain",
    };

    fn reply(call_id: u64, status: u16, content_type: &str, body: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        let head = ReplyHead { call_id, status, content_type };
        write_head(&mut frame, &head, body.len()).expect("it is short");
        [&frame[..], body.as_bytes()].concat()
    }

    /// Sends a call to a program that answers with these bytes and closes its end.
    fn exchange(answer: &[u8]) -> Result<HttpResponse, RequestError> {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        far.write_all(answer).expect("it fits into the buffer");
        far.shutdown(Shutdown::Write).expect("shutdown succeeds");
        let mut connection = connection(near);
        let response = call(&mut connection);
        let mut request = Vec::new();
        drop(connection);
        far.read_to_end(&mut request).expect("the request");
        assert!(request.ends_with(b"input"));
        response
    }

    fn connection(near: UnixStream) -> FrameConnection<wire::Stream> {
        let io = wire::Stream::try_from(near).expect("a stream");
        let permit = FramePool::<wire::Stream>::default().permit(1).expect("none is open");
        FrameConnection::new(io, Sharing::new().opened(), permit)
    }

    fn call(connection: &mut FrameConnection<wire::Stream>) -> Result<HttpResponse, RequestError> {
        let exchange = connection.exchange(&HEAD, b"input", 16, wire::Stream::expect_reply);
        wire::block_on(None, exchange).expect("without a deadline")
    }

    #[test]
    fn reply_is_a_response() {
        let response = exchange(&reply(7, 422, "application/json", "{}")).expect("a response");
        assert_eq!((response.status.as_u16(), &response.body[..]), (422, &b"{}"[..]));
        assert_eq!(response.content_type(), "application/json");
        let later = [reply(6, 200, "", "no"), reply(7, 200, "", "")].concat();
        let response = exchange(&later).expect("a response");
        assert!(response.headers.is_empty());
    }

    #[test]
    fn invalid_replies_are_errors() {
        let valid = reply(7, 200, "text/plain", "output");
        let cut = &valid[..valid.len() - 1];
        let two = [&valid[..], &valid].concat();
        for (answer, kind, expected) in [
            (&b""[..], RequestErrorKind::Disconnected, "end of the stream"),
            (&valid[..2], RequestErrorKind::Disconnected, "end of the stream"),
            (cut, RequestErrorKind::Disconnected, "end of the stream"),
            (&[1, 0, 0, 0, 0xff], RequestErrorKind::Protocol, "invalid head"),
            (&[0; 4], RequestErrorKind::Protocol, "invalid head"),
            (&[0xff; 64], RequestErrorKind::TooLarge, "larger than 16 bytes"),
            (b"HTTP/1.1 200 OK\r\n\r\n", RequestErrorKind::TooLarge, "larger than 16 bytes"),
            (
                &reply(6, 200, "", "").repeat(16),
                RequestErrorKind::Protocol,
                "replies to other calls",
            ),
            (&reply(7, 99, "", ""), RequestErrorKind::Protocol, "invalid status"),
            (&reply(7, 200, "a\nb", ""), RequestErrorKind::Protocol, "invalid content type"),
            (&reply(7, 200, "", "seventeen letters"), RequestErrorKind::TooLarge, "larger than 16"),
            (&two, RequestErrorKind::Protocol, "more than one reply"),
        ] {
            let error = exchange(answer).expect_err(expected);
            assert!(error.message.contains(expected), "{error:?}");
            assert_eq!((error.kind, error.delivery), (kind, Delivery::MaybeSent), "{error:?}");
            assert_eq!(error.has_response, !answer.is_empty(), "{error:?}");
        }
    }

    #[test]
    fn call_on_a_closed_connection_is_not_sent() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let mut connection = connection(near);
        // As a program does that stops, or was idle.
        far.shutdown(Shutdown::Read).expect("shutdown succeeds");
        assert_eq!(call(&mut connection).expect_err("closed").delivery, Delivery::NotSent);
    }

    #[test]
    fn large_calls_leave_no_memory_and_open_connections_are_limited() {
        let pool = FramePool::<wire::Stream>::default();
        let permits: Vec<_> = (0..2).map(|_| pool.permit(2).expect("permitted")).collect();
        assert!(pool.permit(2).is_none());
        drop(permits);
        assert!(pool.permit(2).is_some());
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let output = "x".repeat(100_000);
        let answer = reply(7, 200, "", &output);
        let writing = std::thread::spawn(move || far.write_all(&answer).map(|()| far));
        let mut connection = connection(near);
        let input = vec![1; 100_000];
        let exchange = connection.exchange(&HEAD, &input, 1 << 20, wire::Stream::expect_reply);
        let reading = wire::block_on(None, exchange);
        assert!(reading.is_some_and(|response| response.is_ok_and(|it| it.body.len() == 100_000)));
        assert!(connection.request.capacity() <= MAX_KEPT_BYTES);
        drop(writing);
    }
}
