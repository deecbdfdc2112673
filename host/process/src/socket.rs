//! The socket of a connection in a task, and the bytes that pass it. A connection that was idle may
//! be used by a task of another runtime: the socket then registers with that one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Handle, Id};

use crate::runtime::waits_for_sockets;

/// Bytes after which a poll stops reading.
const MAX_POLL_BYTES: u64 = 32 << 10;

/// Bytes that an idle connection reads at once; it should read none.
const IDLE_READ_BYTES: usize = 256;

/// Bytes written to and read from a connection, shared by its user and its socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    written: AtomicU64,
    read: Arc<AtomicU64>,
    /// The value of `read` at which this poll stops.
    read_until: AtomicU64,
    /// Whether the connection is polled only to find out whether it is closed.
    is_idle: AtomicBool,
}

// Relaxed everywhere: one thread at a time polls a connection, and a lock synchronizes the
// transfer.
impl Counts {
    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self) -> u64 {
        self.shared.read.load(Ordering::Relaxed)
    }

    /// Returns the counter of bytes read, which the socket increments.
    pub(crate) fn reads(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.read)
    }

    /// Starts a new poll with its own limit.
    pub(crate) fn begin_poll(&self) {
        self.shared.read_until.store(self.read() + MAX_POLL_BYTES, Ordering::Relaxed);
    }

    pub(crate) fn has_read_enough(&self) -> bool {
        self.read() >= self.shared.read_until.load(Ordering::Relaxed)
    }

    pub(crate) fn add_written(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.shared.written.fetch_add(*count as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_idle(&self, is_idle: bool) {
        self.shared.is_idle.store(is_idle, Ordering::Relaxed);
    }
}

/// A Unix or TCP socket.
pub(crate) struct Socket {
    stream: Stream,
    /// The runtime with which it is registered; `None` if that is unknown.
    runtime: Option<Id>,
    counts: Counts,
}

/// A socket of tokio.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    /// It could not be registered with another runtime.
    Lost,
}

impl Socket {
    /// Wraps a socket that is registered with the current runtime.
    pub(crate) fn new(stream: Stream, counts: Counts) -> Self {
        let runtime = Handle::try_current().ok().map(|current| current.id());
        Self { stream, runtime, counts }
    }

    /// Registers the socket with the current runtime, unless it is already, or cannot be.
    fn follow(&mut self) -> io::Result<()> {
        let Ok(current) = Handle::try_current() else { return Ok(()) };
        let id = current.id();
        if self.runtime == Some(id) || !waits_for_sockets(id) {
            return Ok(());
        }
        self.stream = std::mem::replace(&mut self.stream, Stream::Lost).moved()?;
        self.runtime = Some(id);
        Ok(())
    }

    /// Reads what has arrived, whatever the runtime noticed: one that runs nothing notices nothing.
    /// No waker is notified later.
    fn read_idle(&self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; IDLE_READ_BYTES];
        let length = bytes.len().min(buffer.remaining());
        match rustix::io::read(self.stream.as_fd()?, &mut bytes[..length]) {
            Ok(count) => {
                buffer.put_slice(&bytes[..count]);
                Poll::Ready(Ok(()))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Stream {
    /// Moves it to the current runtime.
    fn moved(self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => UnixStream::from_std(stream.into_std()?).map(Self::Unix),
            Self::Tcp(stream) => TcpStream::from_std(stream.into_std()?).map(Self::Tcp),
            Self::Lost => Err(lost()),
        }
    }

    fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Unix(stream) => Ok(stream.as_fd()),
            Self::Tcp(stream) => Ok(stream.as_fd()),
            Self::Lost => Err(lost()),
        }
    }
}

#[cold]
fn lost() -> io::Error {
    io::Error::other("the socket could not be registered with another runtime")
}

/// Polls the socket of `$socket` with `$method`, on the current runtime.
macro_rules! poll_stream {
    ($socket:ident.$method:ident($($argument:expr),*)) => {{
        let socket = $socket.get_mut();
        socket.follow()?;
        match &mut socket.stream {
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Lost => Poll::Ready(Err(lost())),
        }
    }};
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let counts = self.counts.clone();
        let polled = match counts.shared.is_idle.load(Ordering::Relaxed) {
            true => self.read_idle(buffer),
            false => poll_stream!(self.poll_read(context, buffer)),
        };
        counts.shared.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_stream!(self.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_stream!(self.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Both kinds write at once.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_stream!(self.poll_shutdown(context))
    }
}
