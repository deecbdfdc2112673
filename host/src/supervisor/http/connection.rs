//! One HTTP connection. The future that waits for a response also drives the connection, so that no
//! other task or thread must be woken.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hotbay_plugin::wire;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::counted::{Counted, Counts};
use super::kept::{self, Keep};
use super::pool::Pool;
use super::response::{HttpResponse, RequestError};
use super::sharing::{Open, Sharing};
use super::socket::Socket;
use super::{Client, Location};

type Request = hyper::Request<Full<Bytes>>;

/// Delay between two attempts to connect to a child whose backlog is full.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(1);

/// Bytes per read, and the limit of one head.
const MAX_BUFFER_BYTES: usize = 64 << 10;

/// Limit of all heads before the body, including informational responses (1xx).
const MAX_HEADS_BYTES: u64 = 128 << 10;

/// A way to do I/O and wait: blocking or async.
pub(in crate::supervisor) trait Transport: Sized + 'static {
    type Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static;

    fn open(
        location: &Location,
        counts: &Counts,
    ) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// Returns the output of `future`, or `None` at `until`.
    fn timeout_at<F: Future + Send>(
        until: Instant,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send;

    /// Returns the kept connections of this transport.
    fn pool(client: &Client) -> &Pool<Self>;

    /// Opens a connection.
    fn connect(
        location: &Location,
        sharing: &Sharing,
    ) -> impl Future<Output = Result<Connection<Self::Io>, RequestError>> + Send {
        async move {
            let counts = Counts::default();
            let io = Self::open(location, &counts).await;
            let io = io.map_err(|error| {
                RequestError::unsent(format!("no connection to {location}: {error}"))
            })?;
            Connection::over(io, counts, sharing.opened()).await
        }
    }
}

/// I/O on the thread that runs [`wire::block_on`].
pub(in crate::supervisor) struct Blocking;

/// I/O in a task of the host's runtime.
pub(in crate::supervisor) struct Async;

impl Transport for Blocking {
    type Io = wire::Stream;

    async fn open(location: &Location, counts: &Counts) -> io::Result<wire::Stream> {
        let stream = match location {
            Location::Unix(path) => wire::Stream::connect_unix(path).await,
            Location::Tcp(address) => wire::Stream::connect_tcp(*address),
        };
        Ok(stream?.count_reads(counts.reads()))
    }

    async fn timeout_at<F: Future + Send>(until: Instant, future: F) -> Option<F::Output> {
        let (mut future, mut alarm) = (pin!(future), pin!(wire::sleep_until(until)));
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    fn pool(client: &Client) -> &Pool<Self> {
        &client.blocking
    }
}

impl Transport for Async {
    type Io = TokioIo<Socket>;

    async fn open(location: &Location, counts: &Counts) -> io::Result<Self::Io> {
        let socket = match location {
            Location::Unix(path) => Socket::new(connect_unix(path).await?, counts.reads()),
            Location::Tcp(address) => {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                Socket::new(socket, counts.reads())
            }
        };
        Ok(TokioIo::new(socket))
    }

    async fn timeout_at<F: Future + Send>(until: Instant, future: F) -> Option<F::Output> {
        tokio::time::timeout_at(until.into(), future).await.ok()
    }

    fn pool(client: &Client) -> &Pool<Self> {
        &client.tasks
    }
}

/// Connects, even if the child's backlog is full: Linux then returns `WouldBlock`, and does not
/// notify when there is space.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(CONNECT_RETRY_DELAY).await;
            }
            connected => return connected,
        }
    }
}

/// A connection with at most one request in flight.
pub(in crate::supervisor) struct Connection<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    /// Dropped first: once the socket is closed, another connection may be opened.
    open: Open,
    sender: SendRequest<Full<Bytes>>,
    driver: Driver<I>,
    /// The keep-alive limit of the last response.
    keep: Keep,
}

struct Driver<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    /// `None` once it has ended. It is dropped then, so that a request it had not taken yet fails
    /// instead of waiting forever.
    connection: Option<http1::Connection<Counted<I>, Full<Bytes>>>,
    counts: Counts,
}

impl<I> Driver<I>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
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
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
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
    pub(super) fn keep(&self) -> Keep {
        self.keep
    }

    /// Returns whether another request can be sent.
    pub(super) fn is_usable(&mut self) -> bool {
        self.driver.poll_io(&mut Context::from_waker(Waker::noop()));
        self.driver.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the whole response.
    pub(in crate::supervisor) async fn exchange(
        &mut self,
        request: Request,
        max_bytes: u64,
    ) -> Result<HttpResponse, RequestError> {
        let Self { open, sender, driver, keep } = self;
        let counts = driver.counts.clone();
        let (written, read) = (counts.written(), counts.read());
        let has_response = || counts.read() > read;
        let sent = sender.try_send_request(request);
        let response = match driver.drive(MAX_HEADS_BYTES, sent).await {
            Some(Ok(response)) => response,
            None => return Err(RequestError::endless_heads(MAX_HEADS_BYTES)),
            Some(Err(mut failed)) => {
                // A child that is exiting may have closed its end just now.
                let was_sent = failed.take_message().is_none() && counts.written() > written;
                let error = failed.into_error();
                if !was_sent {
                    return Err(RequestError::unsent(error));
                }
                return Err(RequestError {
                    has_response: has_response(),
                    ..RequestError::of(&error)
                });
            }
        };
        let (parts, body) = response.into_parts();
        let body = driver.drive(u64::MAX, collect(body, max_bytes)).await;
        // Without a limit it ends with the body.
        let body = body.unwrap_or_else(|| Err(RequestError::too_large(max_bytes)))?;
        open.served();
        *keep = kept::keep(parts.version, &parts.headers, Instant::now);
        Ok(HttpResponse { status: parts.status, headers: parts.headers, body })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::http::Delivery;
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
        drop(far);
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
}
