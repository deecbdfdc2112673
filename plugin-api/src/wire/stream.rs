//! A non-blocking socket that hyper reads and writes; what it waits for is noted for the thread.

use std::io::{self, IoSlice, Read, Write};
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
use rustix::event::{PollFd, PollFlags, Timespec};

use super::block_on::{block_on, register_interest};

/// Bytes read at once.
const MAX_READ_BYTES: usize = 16 << 10;

/// How long a connection to this machine may take to be accepted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts to connect to who has no room.
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) enum Socket {
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

/// A connection over a local socket, for futures that [`block_on`](super::block_on) runs.
#[derive(Debug)]
pub struct Stream {
    socket: Arc<Socket>,
    /// What is read is added to it.
    read: Option<Arc<AtomicU64>>,
}

impl Stream {
    /// Connects to a Unix socket. Where more connections wait to be accepted than the other side
    /// has room for, the system would have the thread wait, for ever if need be; so it is tried
    /// clone_handle deadline whoever runs the future has waited long enough.
    ///
    /// # Errors
    ///
    /// The system's.
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        loop {
            match connect_nonblocking(path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => yield_for_retry().await,
                connected => return Self::try_from(connected?),
            }
        }
    }

    /// Connects over TCP, at most 5 s.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        Self::try_from(TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?)
    }

    /// The same connection, which adds the bytes that it reads to `read`.
    #[must_use]
    pub fn count_reads(self, read: Arc<AtomicU64>) -> Self {
        Self { read: Some(read), ..self }
    }

    /// Another hold on the same socket, for looking at it while the first is in use.
    #[must_use]
    pub fn clone_handle(&self) -> Self {
        Self { socket: Arc::clone(&self.socket), read: self.read.clone() }
    }

    /// Whether the other side has closed the connection; nothing is read.
    pub fn is_closed_by_peer(&self) -> bool {
        #[cfg(target_os = "linux")]
        let wanted = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let wanted = PollFlags::HUP;
        let mut fds = [PollFd::new(&*self.socket, wanted)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = rustix::event::poll(&mut fds, Some(&at_once));
        let gone = wanted | PollFlags::HUP | PollFlags::ERR;
        polled.is_ok_and(|ready| ready > 0) && fds[0].revents().intersects(gone)
    }

    /// Takes nothing more from the other side; what has arrived can still be read.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn stop_reading(&self) -> io::Result<()> {
        match &*self.socket {
            Socket::Unix(socket) => socket.shutdown(std::net::Shutdown::Read),
            Socket::Tcp(socket) => socket.shutdown(std::net::Shutdown::Read),
        }
    }

    /// Ready with what `poll_io` says, unless it would block.
    fn poll_io<T>(
        &self,
        flags: PollFlags,
        mut poll_io: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match poll_io(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    register_interest(&self.socket, flags);
                    return Poll::Pending;
                }
                answer => return Poll::Ready(answer),
            }
        }
    }
}

/// Connects, or says that it would have to wait.
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

/// Other systems refuse a connection that there is no room for.
#[cfg(not(target_os = "linux"))]
fn connect_nonblocking(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

/// Sleeps a moment, then lets whoever runs the future look at the time and at what else it waits
/// for.
async fn yield_for_retry() {
    block_on(Some(Instant::now() + CONNECT_RETRY_DELAY), std::future::pending::<()>());
    let mut paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Arc::new(Socket::Unix(socket)), read: None })
    }
}

impl TryFrom<TcpStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket: Arc::new(Socket::Tcp(socket)), read: None })
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; MAX_READ_BYTES];
        let most = cursor.remaining().min(MAX_READ_BYTES);
        let room = &mut bytes[..most];
        let read = self.poll_io(PollFlags::IN, |socket| match socket {
            Socket::Unix(socket) => (&*socket).read(room),
            Socket::Tcp(socket) => (&*socket).read(room),
        });
        if let (Some(total), Poll::Ready(Ok(count))) = (&self.read, &read) {
            total.fetch_add(*count as u64, Ordering::Relaxed);
        }
        read.map_ok(|count| cursor.put_slice(&bytes[..count]))
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(PollFlags::OUT, |socket| match socket {
            Socket::Unix(socket) => (&*socket).write(bytes),
            Socket::Tcp(socket) => (&*socket).write(bytes),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(PollFlags::OUT, |socket| match socket {
            Socket::Unix(socket) => (&*socket).write_vectored(parts),
            Socket::Tcp(socket) => (&*socket).write_vectored(parts),
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
    fn connecting_to_who_has_no_room_ends_with_the_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("full.socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        rustix::net::listen(&listener, 0).expect("room for one");
        let connect = || {
            let deadline = Instant::now() + Duration::from_millis(20);
            block_on(Some(deadline), Stream::connect_unix(&path))
        };
        let first = connect().expect("there is room").expect("a connection");
        assert!(connect().is_none(), "there is none");
        drop((first, listener.accept().expect("the first")));
        assert!(connect().expect("there is room clone_handle").is_ok());
    }
}
