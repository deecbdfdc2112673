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

use super::answer::{Answer, Broken};
use super::counted::{Counted, Written};
use super::pool::Pool;
use super::{Client, Location};

type Request = hyper::Request<Full<Bytes>>;

/// Between two attempts to connect to a child that has no room.
const CONNECT_PAUSE: Duration = Duration::from_millis(1);

/// How whoever waits for an answer waits.
pub(in crate::supervisor) trait Way: Sized + 'static {
    type Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static;

    fn open(location: &Location) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// What `future` answers by then.
    fn by<F: Future + Send>(
        until: Instant,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send;

    /// The connections that are kept for this way.
    fn pool(client: &Client) -> &Pool<Self>;

    /// Connects.
    fn connect(
        location: &Location,
    ) -> impl Future<Output = Result<Connection<Self::Io>, Broken>> + Send {
        async move {
            let io = Self::open(location).await;
            let io = io
                .map_err(|error| Broken::unsent(format!("no connection to {location}: {error}")))?;
            Connection::over(io).await
        }
    }
}

/// In the thread that runs [`wire::block_on`].
pub(in crate::supervisor) struct Here;

/// As a task of the host's runtime.
pub(in crate::supervisor) struct OnTasks;

impl Way for Here {
    type Io = wire::Stream;

    async fn open(location: &Location) -> io::Result<wire::Stream> {
        match location {
            Location::Unix(path) => wire::Stream::connect_unix(path).await,
            Location::Tcp(address) => wire::Stream::connect_tcp(*address),
        }
    }

    /// Blocks, as everything here does: no runtime's timer is wanted.
    async fn by<F: Future + Send>(until: Instant, future: F) -> Option<F::Output> {
        wire::block_on(Some(until), future)
    }

    fn pool(client: &Client) -> &Pool<Self> {
        &client.here
    }
}

impl Way for OnTasks {
    type Io = TokioIo<Socket>;

    async fn open(location: &Location) -> io::Result<Self::Io> {
        let socket: Socket = match location {
            Location::Unix(path) => Box::pin(connect_unix(path).await?),
            Location::Tcp(address) => {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                Box::pin(socket)
            }
        };
        Ok(TokioIo::new(socket))
    }

    async fn by<F: Future + Send>(until: Instant, future: F) -> Option<F::Output> {
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

/// Either kind of socket.
type Socket = Pin<Box<dyn Io>>;

pub(in crate::supervisor) trait Io:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Send
{
}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send> Io for T {}

/// A connection on which one request at a time is under way.
pub(in crate::supervisor) struct Connection<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver<I>,
    written: Written,
}

struct Driver<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    connection: http1::Connection<Counted<I>, Full<Bytes>>,
    /// It has ended; it must not be polled again.
    has_ended: bool,
}

impl<I> Driver<I>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn go_on(&mut self, context: &mut Context<'_>) {
        if !self.has_ended {
            // How it ended, whoever waits for an answer hears.
            self.has_ended = Pin::new(&mut self.connection).poll(context).is_ready();
        }
    }

    /// Runs `future`, which waits for this connection.
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.go_on(context);
            future.as_mut().poll(context)
        })
        .await
    }
}

impl<I> Connection<I>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    async fn over(io: I) -> Result<Self, Broken> {
        let (io, written) = Counted::new(io);
        let (sender, connection) = http1::handshake(io).await.map_err(Broken::unsent)?;
        Ok(Self { sender, driver: Driver { connection, has_ended: false }, written })
    }

    /// Whether another request can be sent on it.
    pub(super) fn is_usable(&mut self) -> bool {
        self.driver.go_on(&mut Context::from_waker(Waker::noop()));
        !self.driver.has_ended && self.sender.is_ready()
    }

    /// Sends a request and waits for the whole answer.
    pub(in crate::supervisor) async fn exchange(
        &mut self,
        request: Request,
        bytes_max: u64,
    ) -> Result<Answer, Broken> {
        let Self { sender, driver, written } = self;
        let before = written.bytes();
        let sent = sender.try_send_request(request);
        let response = match driver.drive(sent).await {
            Ok(response) => response,
            Err(mut failed) => {
                // A child that is about to leave may have closed its end a moment ago.
                let was_sent = failed.take_message().is_none() && written.bytes() > before;
                let error = failed.into_error();
                return Err(if was_sent { Broken::of(&error) } else { Broken::unsent(error) });
            }
        };
        let (parts, body) = response.into_parts();
        let body = driver.drive(collect(body, bytes_max)).await?;
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

/// Reads a body as it comes, to its end or to where it is too large.
async fn collect(mut body: Incoming, bytes_max: u64) -> Result<Vec<u8>, Broken> {
    let expected = body.size_hint().exact();
    if expected.is_some_and(|expected| expected > bytes_max) {
        return Err(Broken::too_large(bytes_max));
    }
    // What is promised is not believed before it comes.
    const PROMISE_BYTES_MAX: u64 = 1 << 20;
    let room = expected.unwrap_or(0).min(PROMISE_BYTES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
    while let Some(frame) = poll_fn(|context| next_frame(&mut body, context)).await {
        let frame = frame.map_err(|error| Broken::of(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > bytes_max {
            return Err(Broken::too_large(bytes_max));
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
    use crate::supervisor::http::Ran;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_request_of_which_no_byte_left_surely_did_not_run() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let io = wire::Stream::try_from(near).expect("a stream");
        let mut connection =
            wire::block_on(None, Connection::over(io)).expect("no end").expect("a connection");
        // As a child does that leaves: what it sent can be read, and nothing can be written.
        far.shutdown(Shutdown::Read).expect("it can be shut down");
        assert!(connection.is_usable(), "nothing shows yet");
        let request = hyper::Request::new(Full::new(Bytes::new()));
        let exchanged = wire::block_on(None, connection.exchange(request, 1));
        let broken = exchanged.expect("no end").expect_err("nobody answers");
        assert_eq!(broken.ran, Ran::No, "{broken:?}");
    }
}
