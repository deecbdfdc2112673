//! One connection, with whoever drives it: the future that waits for an answer polls it along,
//! so that no other task or thread has to be woken.

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

/// Between two attempts to connect to a child that has no room.
const CONNECT_PAUSE: Duration = Duration::from_millis(1);

/// Bytes that are read at once, and the most of one head.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Bytes of all heads that come before the body: informational responses (1xx) count too.
const HEADS_BYTES_MAX: u64 = 128 << 10;

/// How whoever waits for an answer waits.
pub(in crate::supervisor) trait Transport: Sized + 'static {
    type Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static;

    fn open(
        location: &Location,
        counts: &Counts,
    ) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// What `future` answers by then.
    fn timeout_at<F: Future + Send>(
        until: Instant,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send;

    /// The connections that are kept for this way.
    fn pool(client: &Client) -> &Pool<Self>;

    /// Connects.
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

/// In the thread that runs [`wire::block_on`].
pub(in crate::supervisor) struct Blocking;

/// As a task of the host's runtime.
pub(in crate::supervisor) struct Async;

impl Transport for Blocking {
    type Io = wire::Stream;

    async fn open(location: &Location, counts: &Counts) -> io::Result<wire::Stream> {
        let stream = match location {
            Location::Unix(path) => wire::Stream::connect_unix(path).await,
            Location::Tcp(address) => wire::Stream::connect_tcp(*address),
        };
        Ok(stream?.counting(counts.reads()))
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

/// Connects, also where more connections wait to be accepted than the child has room for: Linux
/// then says that it would block, and nothing tells when there is room.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(CONNECT_PAUSE).await;
            }
            connected => return connected,
        }
    }
}

/// A connection on which one request at a time is under way.
pub(in crate::supervisor) struct Connection<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    /// Dropped first: once the socket is closed, another connection may take its place.
    open: Open,
    sender: SendRequest<Full<Bytes>>,
    driver: Driver<I>,
    /// What the last response said.
    keep: Keep,
}

struct Driver<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    /// `None` once it has ended. It is dropped then, since a request that it had not taken yet
    /// fails by that, and would wait forever otherwise.
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
            // How it ended is known to the request that waits for a response.
            if Pin::new(connection).poll(context).is_ready() {
                self.connection = None;
            }
        }
    }

    /// Runs `future`, which waits for this connection; `None` if more than `bytes_max` came
    /// before it was done.
    async fn drive<F: Future>(&mut self, bytes_max: u64, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let before = self.counts.read();
        poll_fn(|context| {
            self.poll_io(context);
            match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.counts.read() - before > bytes_max => Poll::Ready(None),
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
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(io)
            .await
            .map_err(RequestError::unsent)?;
        let driver = Driver { connection: Some(connection), counts };
        Ok(Self { open, sender, driver, keep: Keep::Open })
    }

    /// How long it may be kept for another request.
    pub(super) fn keep(&self) -> Keep {
        self.keep
    }

    /// Whether another request can be sent on it.
    pub(super) fn is_usable(&mut self) -> bool {
        self.driver.poll_io(&mut Context::from_waker(Waker::noop()));
        self.driver.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the whole answer.
    pub(in crate::supervisor) async fn exchange(
        &mut self,
        request: Request,
        bytes_max: u64,
    ) -> Result<HttpResponse, RequestError> {
        let Self { open, sender, driver, keep } = self;
        let counts = driver.counts.clone();
        let (written, read) = (counts.written(), counts.read());
        let has_response = || counts.read() > read;
        let sent = sender.try_send_request(request);
        let response = match driver.drive(HEADS_BYTES_MAX, sent).await {
            Some(Ok(response)) => response,
            None => return Err(RequestError::endless_heads(HEADS_BYTES_MAX)),
            Some(Err(mut failed)) => {
                // A child that is about to leave may have closed its end a moment ago.
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
        let body = driver.drive(u64::MAX, collect(body, bytes_max)).await;
        // Without a limit it ends with the body.
        let body = body.unwrap_or_else(|| Err(RequestError::too_large(bytes_max)))?;
        open.served();
        *keep = kept::keep(parts.version, &parts.headers, Instant::now);
        Ok(HttpResponse { status: parts.status, headers: parts.headers, body })
    }
}

/// Reads a body as it comes, to its end or to where it is too large.
async fn collect(mut body: Incoming, bytes_max: u64) -> Result<Vec<u8>, RequestError> {
    let expected = body.size_hint().exact();
    if expected.is_some_and(|expected| expected > bytes_max) {
        return Err(RequestError::too_large(bytes_max));
    }
    // What is promised is not believed before it comes.
    const PROMISE_BYTES_MAX: u64 = 1 << 20;
    let room = expected.unwrap_or(0).min(PROMISE_BYTES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
    while let Some(frame) = poll_fn(|context| next_frame(&mut body, context)).await {
        let frame = frame.map_err(|error| RequestError::of(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > bytes_max {
            return Err(RequestError::too_large(bytes_max));
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

    /// A connection, and the other side of its socket.
    fn connected() -> (Connection<wire::Stream>, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a pair");
        let io = wire::Stream::try_from(near).expect("a stream");
        let over = Connection::over(io, Counts::default(), Sharing::new().opened());
        let connection = wire::block_on(None, over).expect("no end").expect("a connection");
        (connection, far)
    }

    #[test]
    fn request_on_a_connection_that_was_just_closed_fails_unsent() {
        let (mut connection, far) = connected();
        assert!(connection.is_usable());
        drop(far);
        // It is sent before anything was read of the end.
        let request = hyper::Request::new(Full::new(Bytes::new()));
        let exchanged = wire::block_on(
            Some(Instant::now() + Duration::from_secs(60)),
            connection.exchange(request, 1),
        );
        let broken = exchanged.expect("it ends").expect_err("nobody answers");
        assert_eq!(broken.delivery, Delivery::NotSent, "{broken:?}");
        assert!(!connection.is_usable());
    }

    #[test]
    fn a_request_of_which_no_byte_left_surely_did_not_run() {
        let (mut connection, far) = connected();
        // As a child does that leaves: what it sent can be read, and nothing can be written.
        far.shutdown(Shutdown::Read).expect("it can be shut down");
        assert!(connection.is_usable(), "nothing shows yet");
        let request = hyper::Request::new(Full::new(Bytes::new()));
        let exchanged = wire::block_on(None, connection.exchange(request, 1));
        let broken = exchanged.expect("no end").expect_err("nobody answers");
        assert_eq!(broken.delivery, Delivery::NotSent, "{broken:?}");
    }
}
