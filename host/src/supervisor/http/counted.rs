//! A socket that counts what was written and read: a request of which no byte left was surely not
//! received. It also bounds what one poll reads, so that a peer that never stops writing cannot
//! keep the thread or the task that polls the connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Bytes after which a poll reads no more.
const POLL_BYTES_MAX: u64 = 32 << 10;

/// Bytes that a connection has taken and given.
#[derive(Clone, Debug, Default)]
pub(in crate::supervisor) struct Counts {
    written: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
    /// What `read` may come to in this poll.
    read_until: Arc<AtomicU64>,
}

// Relaxed everywhere: one thread at a time polls a connection, and a lock hands it over.
impl Counts {
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The counter of bytes read, for the socket to add to.
    pub(super) fn reads(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Lets another poll read.
    pub(super) fn begin_poll(&self) {
        self.read_until.store(self.read() + POLL_BYTES_MAX, Ordering::Relaxed);
    }

    fn has_read_enough(&self) -> bool {
        self.read() >= self.read_until.load(Ordering::Relaxed)
    }

    fn add(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &written {
            self.written.fetch_add(*count as u64, Ordering::Relaxed);
        }
        written
    }
}

pub(in crate::supervisor) struct Counted<I> {
    io: I,
    counts: Counts,
}

impl<I> Counted<I> {
    /// Wraps a socket that adds to the same counts what it reads.
    pub(super) fn new(io: I, counts: Counts) -> Self {
        Self { io, counts }
    }
}

impl<I: Read + Unpin> Read for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.counts.has_read_enough() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(context, room)
    }
}

impl<I: Write + Unpin> Write for Counted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.counts.add(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.counts.add(written)
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
