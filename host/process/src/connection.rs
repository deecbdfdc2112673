//! One HTTP connection, and the kept ones. The future that waits for a response also drives the
//! connection, so that no other task or thread must be woken.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hotbay_plugin::wire;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HeaderMap, HeaderName};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Handle, Id};

use crate::frames::FramePool;
use crate::http::{HttpResponse, RequestError};
use crate::location::Location;
use crate::peer::Peer;
use crate::sharing::{Open, Sharing};
use crate::socket::{Counts, Socket, Stream};
use crate::sync::lock;

type Request = hyper::Request<Full<Bytes>>;

/// Delay between two attempts to connect to a child whose backlog is full.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(1);

/// Bytes per read, and the limit of one head.
const MAX_BUFFER_BYTES: usize = 64 << 10;

/// Limit of all heads before the body, including informational responses (1xx).
const MAX_HEADS_BYTES: u64 = 128 << 10;

/// A way to do I/O and wait: blocking or async.
pub(crate) trait Transport: Sized + 'static {
    type Io: Read + Write + Unpin + Send + 'static;

    /// Opens a socket to a location, which must belong to `peer`.
    fn open(
        location: &Location,
        peer: &Peer,
        counts: &Counts,
        timers: &Handle,
    ) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// Returns the output of `future`, or `None` at `until`; waits on the runtime `timers`.
    fn timeout_at<F: Future + Send>(
        timers: &Handle,
        until: Instant,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send;

    /// Returns the runtime that polls connections of this transport on this thread.
    fn runtime() -> Option<Id>;

    /// Returns the kept connections of this transport.
    fn pool(pools: &Pools) -> &Pool<Self>;

    /// The largest number of connections that carry frames. Each occupies a thread of the program;
    /// further calls at the same time are sent over HTTP, which few threads serve.
    const MAX_FRAME_CONNECTIONS: usize;

    /// Returns the kept connections of this transport that carry frames.
    fn frame_pool(pools: &Pools) -> &FramePool<Self::Io>;

    /// Prepares a socket for replies that arrive soon.
    fn expect_replies(io: &mut Self::Io) -> io::Result<()>;

    /// Notes that a reply is expected, for which a read may block this thread for some milliseconds
    /// if `may_block`.
    fn expect_reply(io: &mut Self::Io, may_block: bool);

    /// Opens a connection.
    fn connect(
        location: &Location,
        peer: &Peer,
        sharing: &Sharing,
        timers: &Handle,
    ) -> impl Future<Output = Result<Connection<Self::Io>, RequestError>> + Send {
        async move {
            let counts = Counts::default();
            let io = Self::open(location, peer, &counts, timers).await;
            let io = io.map_err(|error| RequestError::no_connection(location, &error))?;
            Connection::over(io, counts, sharing.opened()).await
        }
    }
}

/// I/O on the thread that runs [`wire::block_on`].
pub(crate) struct Blocking;

/// I/O in a task of a runtime: the host's, or the caller's.
pub(crate) struct Async;

impl Transport for Blocking {
    type Io = wire::Stream;

    const MAX_FRAME_CONNECTIONS: usize = 8;

    async fn open(
        location: &Location,
        peer: &Peer,
        counts: &Counts,
        _: &Handle,
    ) -> io::Result<wire::Stream> {
        let stream = match location {
            Location::Unix(path) => {
                let stream = wire::Stream::connect_unix(path).await?;
                peer.check(&stream)?;
                stream
            }
            Location::Tcp(address) => {
                let stream = wire::Stream::connect_tcp(*address)?;
                peer.check_port(*address)?;
                stream
            }
        };
        Ok(stream.count_reads(counts.reads()))
    }

    async fn timeout_at<F: Future + Send>(
        _: &Handle,
        until: Instant,
        future: F,
    ) -> Option<F::Output> {
        let (mut future, mut alarm) = (pin!(future), pin!(wire::sleep_until(until)));
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    fn runtime() -> Option<Id> {
        None
    }

    fn pool(pools: &Pools) -> &Pool<Self> {
        &pools.blocking
    }

    fn frame_pool(pools: &Pools) -> &FramePool<Self::Io> {
        &pools.blocking_frames
    }

    fn expect_replies(io: &mut Self::Io) -> io::Result<()> {
        io.wait_in_reads()
    }

    fn expect_reply(io: &mut Self::Io, may_block: bool) {
        io.expect_reply(may_block);
    }
}

impl Transport for Async {
    type Io = TokioIo<Socket>;

    // Calls of tasks at once are served faster over HTTP.
    const MAX_FRAME_CONNECTIONS: usize = 1;

    async fn open(
        location: &Location,
        peer: &Peer,
        counts: &Counts,
        timers: &Handle,
    ) -> io::Result<Self::Io> {
        let stream = match location {
            Location::Unix(path) => {
                let stream = connect_unix(path, timers).await?;
                peer.check(&stream)?;
                Stream::Unix(stream)
            }
            Location::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                if matches!(peer, Peer::Program { .. }) {
                    let (peer, address) = (peer.clone(), *address);
                    let check = timers.spawn_blocking(move || peer.check_port(address));
                    check.await.map_err(io::Error::other)??;
                }
                Stream::Tcp(stream)
            }
        };
        Ok(TokioIo::new(Socket::new(stream, counts.clone())))
    }

    /// The timer is one of the host's runtime: the caller's may have none, or pause its clock.
    async fn timeout_at<F: Future + Send>(
        timers: &Handle,
        until: Instant,
        future: F,
    ) -> Option<F::Output> {
        let timeout = {
            let _inside = timers.enter();
            tokio::time::timeout_at(until.into(), future)
        };
        timeout.await.ok()
    }

    fn runtime() -> Option<Id> {
        Handle::try_current().ok().map(|current| current.id())
    }

    fn pool(pools: &Pools) -> &Pool<Self> {
        &pools.tasks
    }

    fn frame_pool(pools: &Pools) -> &FramePool<Self::Io> {
        &pools.task_frames
    }

    fn expect_replies(_: &mut Self::Io) -> io::Result<()> {
        Ok(())
    }

    // The runtime waits, and knows which sockets have data.
    fn expect_reply(_: &mut Self::Io, _: bool) {}
}

/// Connects, even if the child's backlog is full: Linux then returns `WouldBlock`, and does not
/// notify when there is space.
async fn connect_unix(path: &Path, timers: &Handle) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let until = Instant::now() + CONNECT_RETRY_DELAY;
                let _ = Async::timeout_at(timers, until, std::future::pending::<()>()).await;
            }
            connected => return connected,
        }
    }
}

/// A connection with at most one request in flight.
pub(crate) struct Connection<I: Read + Write + Unpin> {
    /// Dropped first: once the socket is closed, another connection may be opened.
    open: Open,
    sender: SendRequest<Full<Bytes>>,
    driver: Driver<I>,
    /// The keep-alive limit of the last response.
    keep: Keep,
}

struct Driver<I: Read + Write + Unpin> {
    /// `None` once it has ended. It is dropped then, so that a request it had not taken yet fails
    /// instead of waiting forever.
    connection: Option<http1::Connection<Counted<I>, Full<Bytes>>>,
    counts: Counts,
}

impl<I> Driver<I>
where
    I: Read + Write + Unpin + Send + 'static,
{
    fn poll_io(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection {
            self.counts.begin_poll();
            // The pending request gets the result.
            if Pin::new(connection).poll(context).is_ready() {
                self.connection = None;
            }
        }
    }

    /// Runs `future`, which waits for this connection; returns `None` if more than `max_bytes`
    /// arrived before it completed.
    async fn drive<F: Future>(&mut self, max_bytes: u64, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let before = self.counts.read();
        poll_fn(|context| {
            self.poll_io(context);
            match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.counts.read() - before > max_bytes => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

impl<I> Connection<I>
where
    I: Read + Write + Unpin + Send + 'static,
{
    async fn over(io: I, counts: Counts, open: Open) -> Result<Self, RequestError> {
        let io = Counted::new(io, counts.clone());
        let mut http = http1::Builder::new();
        let (sender, connection) = http
            .max_buf_size(MAX_BUFFER_BYTES)
            .handshake(io)
            .await
            .map_err(RequestError::unsent)?;
        let driver = Driver { connection: Some(connection), counts };
        Ok(Self { open, sender, driver, keep: Keep::Open })
    }

    /// Returns how long the connection may be kept for another request.
    pub(crate) fn keep(&self) -> Keep {
        self.keep
    }

    /// Returns whether another request can be sent.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.driver.counts.set_idle(true);
        self.driver.poll_io(&mut Context::from_waker(Waker::noop()));
        self.driver.counts.set_idle(false);
        self.driver.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the whole response.
    pub(crate) async fn exchange(
        &mut self,
        request: Request,
        max_bytes: u64,
    ) -> Result<HttpResponse, RequestError> {
        let (parts, body) = self.send(request).await?.into_parts();
        let Self { open, driver, keep, .. } = self;
        let body = driver.drive(u64::MAX, collect(body, max_bytes)).await;
        // Without a limit it ends with the body.
        let body = body.unwrap_or_else(|| Err(RequestError::too_large(max_bytes)))?;
        open.served();
        *keep = Keep::of(parts.version, &parts.headers, Instant::now);
        Ok(HttpResponse { status: parts.status, headers: parts.headers, body })
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: Request,
    ) -> Result<hyper::Response<Incoming>, RequestError> {
        let Self { sender, driver, .. } = self;
        let counts = driver.counts.clone();
        let (written, read) = (counts.written(), counts.read());
        let has_response = || counts.read() > read;
        let sent = sender.try_send_request(request);
        match driver.drive(MAX_HEADS_BYTES, sent).await {
            Some(Ok(response)) => Ok(response),
            None => Err(RequestError::endless_heads(MAX_HEADS_BYTES)),
            Some(Err(mut failed)) => {
                // A child that is exiting may have closed its end just now.
                let was_sent = failed.take_message().is_none() && counts.written() > written;
                let error = failed.into_error();
                if !was_sent {
                    return Err(RequestError::unsent(error));
                }
                Err(RequestError { has_response: has_response(), ..RequestError::of(&error) })
            }
        }
    }

    /// Sends a request to upgrade the connection. Returns its socket, and what was read of the other
    /// protocol; `None` if the child refuses.
    pub(crate) async fn upgrade(
        self,
        request: Request,
    ) -> Result<Option<(I, Bytes, Open)>, RequestError> {
        let Self { mut open, mut sender, driver: Driver { connection, counts }, .. } = self;
        let mut http = connection.ok_or_else(|| RequestError::unsent("it has ended"))?;
        let (before, mut has_ended) = (counts.read(), false);
        let mut sent = pin!(sender.send_request(request));
        let response = poll_fn(|context| {
            counts.begin_poll();
            // The pending request gets the result.
            has_ended = has_ended || http.poll_without_shutdown(context).is_ready();
            match sent.as_mut().poll(context) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending if counts.read() - before > MAX_HEADS_BYTES => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let response =
            response.await.ok_or_else(|| RequestError::endless_heads(MAX_HEADS_BYTES))?;
        let response = response.map_err(|error| RequestError::of(&error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(None);
        }
        open.served();
        let parts = http.into_parts();
        Ok(Some((parts.io.io, parts.read_buf, open)))
    }

    /// Returns the body of a response to read it in parts. The connection is not kept.
    pub(crate) fn into_body(mut self, body: Incoming) -> ResponseBody<I> {
        self.open.served();
        ResponseBody { body, connection: self }
    }
}

/// The body of a response, read in parts. Dropping it closes the connection.
pub(crate) struct ResponseBody<I: Read + Write + Unpin> {
    body: Incoming,
    connection: Connection<I>,
}

impl<I> ResponseBody<I>
where
    I: Read + Write + Unpin + Send + 'static,
{
    /// Reads the next part; `None` at the end.
    pub(crate) async fn next_part(&mut self) -> Result<Option<Bytes>, RequestError> {
        let Self { body, connection } = self;
        loop {
            let frame = poll_fn(|context| next_frame(body, context));
            // Without a limit it ends with the frame.
            let Some(Some(frame)) = connection.driver.drive(u64::MAX, frame).await else {
                return Ok(None);
            };
            if let Ok(data) = frame.map_err(|error| RequestError::of(&error))?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Reads the rest.
    pub(crate) async fn collect(&mut self, max_bytes: u64) -> Result<Vec<u8>, RequestError> {
        let mut bytes = Vec::new();
        while let Some(part) = self.next_part().await? {
            if (bytes.len() + part.len()) as u64 > max_bytes {
                return Err(RequestError::too_large(max_bytes));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }
}

/// Reads a body to its end, or until it is too large.
async fn collect(mut body: Incoming, max_bytes: u64) -> Result<Vec<u8>, RequestError> {
    let expected = body.size_hint().exact();
    if expected.is_some_and(|expected| expected > max_bytes) {
        return Err(RequestError::too_large(max_bytes));
    }
    // Limits the allocation for the declared length, which may be wrong.
    const MAX_INITIAL_BYTES: u64 = 1 << 20;
    let capacity = expected.unwrap_or(0).min(MAX_INITIAL_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or(0));
    while let Some(frame) = poll_fn(|context| next_frame(&mut body, context)).await {
        let frame = frame.map_err(|error| RequestError::of(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > max_bytes {
            return Err(RequestError::too_large(max_bytes));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

type Frame = Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>;

fn next_frame(body: &mut Incoming, context: &mut Context<'_>) -> Poll<Frame> {
    Pin::new(body).poll_frame(context)
}

/// The maximum number of kept connections.
const MAX_KEPT: usize = 64;

/// The kept connections of one child.
#[derive(Default)]
pub(crate) struct Pools {
    blocking: Pool<Blocking>,
    tasks: Pool<Async>,
    blocking_frames: FramePool<<Blocking as Transport>::Io>,
    task_frames: FramePool<<Async as Transport>::Io>,
}

impl Pools {
    /// Closes those on which no further request can be sent.
    pub(crate) fn close_unusable(&self) {
        self.blocking.close_unusable();
        self.tasks.close_unusable();
    }

    /// Closes every kept connection.
    pub(crate) fn clear(&self) {
        self.blocking.clear();
        self.tasks.clear();
        self.blocking_frames.clear();
        self.task_frames.clear();
    }
}

/// Idle connections of one transport. The most recently used one is taken first, so that surplus
/// ones time out.
pub(crate) struct Pool<W: Transport> {
    kept: Mutex<Vec<IdleConnection<W::Io>>>,
}

struct IdleConnection<I: Read + Write + Unpin> {
    connection: Connection<I>,
    /// When the child may close it; `None` if unknown.
    until: Option<Instant>,
    /// The runtime that polled it last.
    runtime: Option<Id>,
}

impl<W: Transport> Default for Pool<W> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<W: Transport> Pool<W> {
    /// Takes a usable connection, one of this runtime if there is any. If one was closed by the
    /// child, the others are closed, too.
    pub(crate) fn take(&self) -> Option<Connection<W::Io>> {
        let runtime = W::runtime();
        loop {
            let mut kept = {
                let mut kept = lock(&self.kept);
                let last = kept.len().checked_sub(1)?;
                let own = kept.iter().rposition(|idle| idle.runtime == runtime);
                kept.remove(own.unwrap_or(last))
            };
            if kept.until.is_some_and(|until| until <= Instant::now()) {
                continue;
            }
            if kept.connection.is_usable() {
                return Some(kept.connection);
            }
            self.clear();
        }
    }

    /// Keeps a connection, at most until `until`.
    pub(crate) fn put(&self, connection: Connection<W::Io>, until: Option<Instant>) {
        let mut kept = lock(&self.kept);
        if kept.len() < MAX_KEPT {
            kept.push(IdleConnection { connection, until, runtime: W::runtime() });
        }
    }

    /// Closes those on which no further request can be sent.
    pub(crate) fn close_unusable(&self) {
        lock(&self.kept).retain_mut(|kept| kept.connection.is_usable());
    }

    /// Closes every kept connection.
    pub(crate) fn clear(&self) {
        let kept = std::mem::take(&mut *lock(&self.kept));
        drop(kept);
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Time before the peer's timeout from which a connection is no longer used; half the timeout if
/// that is shorter: a request sent at that moment may be lost.
const MAX_MARGIN: Duration = Duration::from_secs(1);

/// The time for which a connection may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Keep {
    /// Until it is found to be closed.
    Open,
    /// Until this instant.
    Until(Instant),
    /// Not at all.
    No,
}

impl Keep {
    /// Evaluates the headers of a response. `now` is called only if they contain a timeout.
    fn of(version: Version, headers: &HeaderMap, now: impl FnOnce() -> Instant) -> Self {
        let has_token = |word: &str| {
            let values =
                headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
            values
                .flat_map(|value| value.split(','))
                .any(|found| found.trim().eq_ignore_ascii_case(word))
        };
        if has_token("close") || (version < Version::HTTP_11 && !has_token("keep-alive")) {
            return Self::No;
        }
        let Some(stated) = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok()) else {
            return Self::Open;
        };
        let number = |name: &str| {
            stated.split(',').find_map(|part| {
                let (found, value) = part.split_once('=')?;
                let is_match = found.trim().eq_ignore_ascii_case(name);
                is_match.then(|| value.trim().trim_matches('"').parse::<u64>().ok())?
            })
        };
        if number("max") == Some(0) {
            return Self::No;
        }
        let Some(timeout_s) = number("timeout") else { return Self::Open };
        let timeout = Duration::from_secs(timeout_s);
        let usable = timeout.saturating_sub((timeout / 2).min(MAX_MARGIN));
        if usable.is_zero() {
            return Self::No;
        }
        now().checked_add(usable).map_or(Self::Open, Self::Until)
    }
}

pub(crate) struct Counted<I> {
    io: I,
    counts: Counts,
}

impl<I> Counted<I> {
    /// Wraps a socket that adds the bytes it reads to the same counts.
    pub(crate) fn new(io: I, counts: Counts) -> Self {
        Self { io, counts }
    }
}

impl<I: Read + Unpin> Read for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.counts.has_read_enough() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: Write + Unpin> Write for Counted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.counts.add_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.counts.add_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Reads `bytes` as the response to a request, for the fuzz targets.
#[cfg(feature = "fuzz")]
pub(crate) fn read_response(bytes: &[u8]) -> Option<Result<HttpResponse, RequestError>> {
    use std::io::Write as _;
    // The socket's buffer holds this much without a reader.
    let bytes = &bytes[..bytes.len().min(MAX_BUFFER_BYTES)];
    let (near, mut far) = std::os::unix::net::UnixStream::pair().ok()?;
    far.write_all(bytes).and_then(|()| far.shutdown(std::net::Shutdown::Write)).ok()?;
    let io = wire::Stream::try_from(near).ok()?;
    let exchange = async {
        let counts = Counts::default();
        let mut connection = Connection::over(io, counts, Sharing::new().opened()).await?;
        connection.exchange(hyper::Request::new(Full::new(Bytes::new())), 1 << 20).await
    };
    let until = Instant::now() + Duration::from_secs(10);
    Some(wire::block_on(Some(until), exchange).expect("every response ends with its connection"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Delivery;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    /// Returns a connection, and the other end of its socket.
    fn connected() -> (Connection<wire::Stream>, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a pair");
        let io = wire::Stream::try_from(near).expect("a stream");
        let over = Connection::over(io, Counts::default(), Sharing::new().opened());
        let connection = wire::block_on(None, over).expect("no end").expect("a connection");
        (connection, far)
    }

    #[test]
    fn request_on_a_just_closed_connection_fails_unsent() {
        let (mut connection, far) = connected();
        assert!(connection.is_usable());
        // A drop does not close it if another test starts a process at the same time: until that
        // process executes its program, it holds a copy.
        far.shutdown(Shutdown::Both).expect("shutdown succeeds");
        // The request is sent before the end of the connection was read.
        let request = hyper::Request::new(Full::new(Bytes::new()));
        let exchanged = wire::block_on(
            Some(Instant::now() + Duration::from_secs(60)),
            connection.exchange(request, 1),
        );
        let error = exchanged.expect("it completes").expect_err("no peer responds");
        assert_eq!(error.delivery, Delivery::NotSent, "{error:?}");
        assert!(!connection.is_usable());
    }

    #[test]
    fn request_without_any_byte_written_was_not_sent() {
        let (mut connection, far) = connected();
        // As an exiting child does: its output can be read, and nothing can be written.
        far.shutdown(Shutdown::Read).expect("shutdown succeeds");
        assert!(connection.is_usable(), "the shutdown is not visible yet");
        let request = hyper::Request::new(Full::new(Bytes::new()));
        let exchanged = wire::block_on(None, connection.exchange(request, 1));
        let error = exchanged.expect("no end").expect_err("no peer responds");
        assert_eq!(error.delivery, Delivery::NotSent, "{error:?}");
    }

    fn check(
        version: Version,
        headers: &[(&'static str, &str)],
        expected: impl Fn(Instant) -> Keep,
    ) {
        let now = Instant::now();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        assert_eq!(Keep::of(version, &map, || now), expected(now), "{version:?} {headers:?}");
    }

    #[test]
    fn keep_alive_header_limits_how_long_a_connection_is_kept() {
        let until = |ms: u64| move |now| Keep::Until(now + Duration::from_millis(ms));
        let has_token = |value, expected: &dyn Fn(Instant) -> Keep| {
            check(Version::HTTP_11, &[("keep-alive", value)], expected);
        };
        has_token("timeout=5", &until(4000));
        has_token("timeout=1", &until(500));
        has_token("Timeout = 2, max=100", &until(1000));
        has_token("max=3,timeout=\"60\"", &until(59_000));
        has_token("timeout=0", &|_| Keep::No);
        has_token("timeout=5, max=0", &|_| Keep::No);
        has_token("max=7", &|_| Keep::Open);
        has_token("timeout=soon", &|_| Keep::Open);
        has_token("timeout=18446744073709551615", &|_| Keep::Open);
        has_token("", &|_| Keep::Open);
    }

    #[test]
    fn connection_header_and_version_decide_whether_to_keep_it() {
        check(Version::HTTP_11, &[], |_| Keep::Open);
        check(Version::HTTP_11, &[("connection", "close")], |_| Keep::No);
        check(Version::HTTP_11, &[("connection", "x, Close")], |_| Keep::No);
        check(Version::HTTP_11, &[("connection", "x"), ("connection", "close")], |_| Keep::No);
        check(Version::HTTP_10, &[], |_| Keep::No);
        check(Version::HTTP_10, &[("connection", "Keep-Alive")], |_| Keep::Open);
    }
}
