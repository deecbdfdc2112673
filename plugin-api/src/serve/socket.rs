//! A non-blocking socket of a connection, for hyper. A read that would block is not attempted again
//! before the poller reports an event, and nothing is reported for writes that do not block.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::ReadBufCursor;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::wire::with_read_buffer;

/// A socket, and the events that were reported for it.
#[derive(Debug)]
pub(super) struct Socket {
    kind: Kind,
    /// Number of events so far. Increased after the data of an event has arrived.
    events: AtomicU64,
    /// Whether the peer has closed its writing half. Set before `events` is increased.
    is_read_closed: AtomicBool,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl TryFrom<UnixStream> for Socket {
    type Error = io::Error;

    fn try_from(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::new(Kind::Unix(socket)))
    }
}

impl TryFrom<TcpStream> for Socket {
    type Error = io::Error;

    fn try_from(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self::new(Kind::Tcp(socket)))
    }
}

impl Socket {
    fn new(kind: Kind) -> Self {
        Self { kind, events: AtomicU64::new(0), is_read_closed: AtomicBool::new(false) }
    }

    /// Records an event of the poller.
    pub(super) fn record_event(&self, is_read_closed: bool) {
        if is_read_closed {
            self.is_read_closed.store(true, Ordering::Release);
        }
        self.events.fetch_add(1, Ordering::Release);
    }

    /// Returns whether the peer has closed the connection, without reading from it.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        #[cfg(target_os = "linux")]
        let hang_up = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let hang_up = PollFlags::HUP;
        let mut fds = [PollFd::new(self, hang_up)];
        let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = rustix::event::poll(&mut fds, Some(&no_wait));
        let closed = hang_up | PollFlags::HUP | PollFlags::ERR;
        polled.is_ok_and(|ready| ready > 0) && fds[0].revents().intersects(closed)
    }

    /// Stops receiving, or also sending; data that has arrived can still be read.
    pub(super) fn shut_down(&self, how: Shutdown) {
        // A connection that the peer has reset is not connected any more.
        let _ = match &self.kind {
            Kind::Unix(socket) => socket.shutdown(how),
            Kind::Tcp(socket) => socket.shutdown(how),
        };
    }

    /// Lets reads and writes wait from now on: reads for at most this time, after which they fail
    /// with `WouldBlock`.
    pub(super) fn set_blocking(&self, read_timeout: Duration) -> io::Result<()> {
        set_socket_timeout(self, Timeout::Recv, Some(read_timeout))?;
        match &self.kind {
            Kind::Unix(socket) => socket.set_nonblocking(false),
            Kind::Tcp(socket) => socket.set_nonblocking(false),
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::Unix(socket) => (&*socket).read(buffer),
            Kind::Tcp(socket) => (&*socket).read(buffer),
        }
    }

    /// Reads what has arrived, without waiting.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count)?)
    }

    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Unix(socket) => (&*socket).write_vectored(parts),
            Kind::Tcp(socket) => (&*socket).write_vectored(parts),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Unix(socket) => socket.as_fd(),
            Kind::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The side of a socket that its connection uses. Events of a poller must be recorded in the
/// socket, and must poll the connection.
#[derive(Debug)]
pub(super) struct SocketIo {
    socket: Arc<Socket>,
    registry: Arc<Registry>,
    token: Token,
    /// The number of events when a read found no further data. Later data is another event.
    drained_at: Option<u64>,
    /// Whether the poller also reports when the socket becomes writable.
    reports_writable: bool,
}

impl SocketIo {
    /// Registers a socket, which reports its events as `token` until this is dropped.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn register(
        socket: Arc<Socket>,
        registry: Arc<Registry>,
        token: Token,
    ) -> io::Result<Self> {
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { socket, registry, token, drained_at: None, reports_writable: false })
    }

    /// Chooses whether to report when the socket becomes writable; a socket that is writable then
    /// reports that at once. The peer's reads would otherwise cause events.
    fn report_writable(&mut self, reports_writable: bool) -> io::Result<()> {
        let interest = match reports_writable {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let fd = self.socket.as_raw_fd();
        self.registry.reregister(&mut SourceFd(&fd), self.token, interest)?;
        self.reports_writable = reports_writable;
        Ok(())
    }
}

impl Drop for SocketIo {
    fn drop(&mut self) {
        let _ = self.registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
    }
}

impl hyper::rt::Read for SocketIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Read before the data, so that an event during the read differs from it.
        let events = self.socket.events.load(Ordering::Acquire);
        if self.drained_at == Some(events) {
            return Poll::Pending;
        }
        with_read_buffer(cursor.remaining(), |buffer| {
            loop {
                match self.socket.read(buffer) {
                    Ok(count) => {
                        // As in tokio: a read that does not fill the buffer leaves no data behind,
                        // but possibly the end of the stream.
                        let is_drained = count > 0
                            && count < buffer.len()
                            && !self.socket.is_read_closed.load(Ordering::Acquire);
                        self.drained_at = is_drained.then_some(events);
                        cursor.put_slice(&buffer[..count]);
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.drained_at = Some(events);
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
    }
}

impl hyper::rt::Write for SocketIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.socket.write(parts) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.reports_writable {
                        self.report_writable(true)?;
                    }
                    return Poll::Pending;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reports_writable {
            self.report_writable(false)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.shut_down(Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
