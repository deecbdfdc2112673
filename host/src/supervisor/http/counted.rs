//! A socket that counts bytes written and read: a request without any byte written was definitely
//! not received. It also limits the bytes read per poll, so that a peer that writes endlessly
//! cannot occupy the polling thread or task.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Bytes after which a poll stops reading.
const MAX_POLL_BYTES: u64 = 32 << 10;

/// Bytes written to and read from a connection.
#[derive(Clone, Debug, Default)]
pub(in crate::supervisor) struct Counts {
    written: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
    /// The value of `read` at which this poll stops.
    read_until: Arc<AtomicU64>,
}

// Relaxed everywhere: one thread at a time polls a connection, and a lock synchronizes the
// transfer.
impl Counts {
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Returns the counter of bytes read, which the socket increments.
    pub(super) fn reads(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Starts a new poll with its own limit.
    pub(super) fn begin_poll(&self) {
        self.read_until.store(self.read() + MAX_POLL_BYTES, Ordering::Relaxed);
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
    /// Wraps a socket that adds the bytes it reads to the same counts.
    pub(super) fn new(io: I, counts: Counts) -> Self {
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
