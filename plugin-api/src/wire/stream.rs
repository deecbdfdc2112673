//! A non-blocking socket for hyper, which registers its interests with the current thread.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::ReadBufCursor;
use rustix::event::PollFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::block_on::{block_on, register_interest, round};
use super::spin::Spin;

/// Maximum number of bytes of one read.
const MAX_READ_BYTES: usize = 16 << 10;

/// Time limit of a TCP connect, which is always to this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time that a read waits itself. The system may round it up to 10 ms.
const MAX_READ_WAIT: Duration = Duration::from_millis(1);

/// Neither waits, nor signals that the peer has closed the connection.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
// The standard library disables that signal for its sockets.
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::DONTWAIT;

/// Pause between two attempts to connect while the listener's queue is full.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(1);

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// A connection over a local socket, for futures that [`block_on()`](super::block_on()) runs.
#[derive(Debug)]
pub struct Stream {
    socket: Arc<Socket>,
    /// Counter of bytes read, if any.
    read_bytes: Option<Arc<AtomicU64>>,
    /// The round in which a read found no further data.
    drained_in: Option<u64>,
    /// Whether the socket itself waits, so that each operation states whether it does.
    is_blocking: bool,
    /// Whether the next read waits briefly.
    waits: bool,
    spin: Spin,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    /// Connects to a Unix socket; retries while the listener's queue is full. A blocking connect
    /// could wait forever in that case.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        loop {
            match Self::try_connect_unix(path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => yield_for_retry().await,
                connected => return connected,
            }
        }
    }

    /// Connects to a Unix socket; returns `WouldBlock` if the listener's queue is full.
    pub(crate) fn try_connect_unix(path: &Path) -> io::Result<Self> {
        Self::try_from(connect_nonblocking(path)?)
    }

    /// Connects over TCP within 5 s.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        Self::try_from(TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?)
    }

    /// Adds the number of bytes read from now on to `read_bytes`.
    #[must_use]
    pub fn count_reads(self, read_bytes: Arc<AtomicU64>) -> Self {
        Self { read_bytes: Some(read_bytes), ..self }
    }

    /// Lets a read after [`expect_reply`](Self::expect_reply) wait in the read itself.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub fn wait_in_reads(&mut self) -> io::Result<()> {
        set_socket_timeout(&*self.socket, Timeout::Recv, Some(MAX_READ_WAIT))?;
        rustix::io::ioctl_fionbio(&*self.socket, false)?;
        self.is_blocking = true;
        Ok(())
    }

    /// Lets the next read wait for data: in the read itself if that `may_block` this thread for some
    /// milliseconds, which saves a call of the system, and else without an attempt to read.
    pub fn expect_reply(&mut self, may_block: bool) {
        self.waits = self.is_blocking && may_block;
        self.drained_in = (!self.waits).then(round);
    }

    fn of(socket: Socket) -> Self {
        Self {
            socket: Arc::new(socket),
            read_bytes: None,
            drained_in: None,
            is_blocking: false,
            waits: false,
            spin: Spin::default(),
        }
    }

    /// Runs `operation`; registers an interest and returns `Pending` if it would block.
    fn poll_io<T>(
        &self,
        flags: PollFlags,
        mut operation: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match operation(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    register_interest(Arc::<Socket>::clone(&self.socket), flags);
                    return Poll::Pending;
                }
                result => return Poll::Ready(result),
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Connects; returns `WouldBlock` if the listener's queue is full.
#[cfg(target_os = "linux")]
fn connect_nonblocking(path: &Path) -> io::Result<UnixStream> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket.into())
}

/// Connects; other systems refuse a connection if the listener's queue is full.
#[cfg(not(target_os = "linux"))]
fn connect_nonblocking(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

/// Sleeps for the retry delay, then yields once, so that the executor checks its deadline.
async fn yield_for_retry() {
    block_on(Some(Instant::now() + CONNECT_RETRY_DELAY), std::future::pending::<()>());
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `read` with a buffer of this thread, of at most `len` bytes. It is initialized once, not for
/// each read.
pub(crate) fn with_read_buffer<T>(len: usize, read: impl FnOnce(&mut [u8]) -> T) -> T {
    READ_BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(MAX_READ_BYTES, 0);
        read(&mut buffer[..len.min(MAX_READ_BYTES)])
    })
}

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::of(Socket::Unix(socket)))
    }
}

impl TryFrom<TcpStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self::of(Socket::Tcp(socket)))
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let round = round();
        if self.drained_in == Some(round) {
            register_interest(Arc::<Socket>::clone(&self.socket), PollFlags::IN);
            return Poll::Pending;
        }
        with_read_buffer(cursor.remaining(), |buffer| {
            let waits = std::mem::take(&mut self.waits);
            let flags = if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            let mut recv = |socket: &Socket, flags| {
                Ok(rustix::net::recv(socket, &mut *buffer, flags).map(|(count, _)| count)?)
            };
            let Self { socket, spin, .. } = &mut *self;
            let soon = match waits {
                true => spin.wait(|| match recv(socket, RecvFlags::DONTWAIT) {
                    Err(error) if is_transient(&error) => None,
                    received => Some(received),
                }),
                false => None,
            };
            let read = match soon {
                Some(received) => Poll::Ready(received),
                None => self.poll_io(PollFlags::IN, |socket| match recv(socket, flags) {
                    // A signal does not prolong the wait.
                    Err(error) if waits && is_transient(&error) => {
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                    received => received,
                }),
            };
            if let (Some(total), Poll::Ready(Ok(count))) = (&self.read_bytes, &read) {
                total.fetch_add(*count as u64, Ordering::Relaxed);
            }
            let is_drained = match &read {
                // As in tokio: a read that does not fill the buffer leaves no data behind.
                Poll::Ready(Ok(count)) => *count > 0 && *count < buffer.len(),
                Poll::Pending => true,
                Poll::Ready(Err(_)) => false,
            };
            self.drained_in = is_drained.then_some(round);
            read.map_ok(|count| cursor.put_slice(&buffer[..count]))
        })
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(PollFlags::OUT, |socket| Ok(rustix::net::send(socket, bytes, SEND)?))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut control = SendAncillaryBuffer::default();
        self.poll_io(PollFlags::OUT, |socket| {
            Ok(rustix::net::sendmsg(socket, parts, &mut control, SEND)?)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &*self.socket {
            Socket::Unix(socket) => socket.shutdown(std::net::Shutdown::Write),
            Socket::Tcp(socket) => socket.shutdown(std::net::Shutdown::Write),
        };
        Poll::Ready(done)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn connect_to_full_listener_times_out() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("full.socket");
        let listener = UnixListener::bind(&path).expect("bound socket");
        rustix::net::listen(&listener, 0).expect("queue of one connection");
        let connect = || {
            let deadline = Instant::now() + Duration::from_millis(20);
            block_on(Some(deadline), Stream::connect_unix(&path))
        };
        let first = connect().expect("in time").expect("connection");
        assert!(connect().is_none(), "the queue is full");
        drop((first, listener.accept().expect("first connection")));
        assert!(connect().expect("in time").is_ok());
    }
}
