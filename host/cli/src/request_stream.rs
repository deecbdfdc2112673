//! Turns lines into a stream of requests for a pipeline, and tracks the lines in flight. Limits
//! their bytes and the size of batches. Makes no calls.

use std::collections::VecDeque;
use std::io::BufReader;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec::IntoIter;
use std::{io, thread};

use futures_core::Stream;
use hotbay::Request;
use tokio::sync::mpsc;
use tokio::sync::mpsc::{Receiver, Sender};

use crate::input::{Input, Line, max_input_bytes, next_line};

/// Maximum number of bytes of the lines in flight.
const MAX_IN_FLIGHT_BYTES: u64 = 16 << 20;

/// Maximum number of lines in a batch.
pub(crate) const MAX_BATCH: usize = 256;

/// Batches grow while their replies take less time.
const FAST: Duration = Duration::from_millis(10);

/// Batches shrink while their replies take more time, so that all cores have work and the command
/// stops soon.
const SLOW: Duration = Duration::from_millis(40);

/// A line in flight, or one that was not sent.
pub(crate) struct TrackedLine {
    pub(crate) bytes: u64,
    pub(crate) state: LineState,
}

pub(crate) enum LineState {
    Sent {
        copy: Option<Vec<u8>>,
        /// When the batch began; set for its first line.
        since: Option<Instant>,
    },
    TooLong,
}

/// The lines in flight, in their order. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LinesInFlight(Arc<Mutex<Inner>>);

struct Inner {
    lines: VecDeque<TrackedLine>,
    /// The bytes of the lines that were sent.
    bytes: u64,
    batch_size: usize,
    is_stopped: bool,
    read_error: Option<io::Error>,
}

impl LinesInFlight {
    /// Creates a stream of these lines, and the list of its lines in flight.
    pub(crate) fn stream(chunks: Receiver<Chunk>) -> (RequestStream, Self) {
        let inner = Inner {
            lines: VecDeque::new(),
            bytes: 0,
            batch_size: 1,
            is_stopped: false,
            read_error: None,
        };
        let in_flight = Self(Arc::new(Mutex::new(inner)));
        let stream = RequestStream {
            chunks,
            read: Vec::new().into_iter(),
            left_in_batch: 1,
            is_batch_start: true,
            in_flight: in_flight.clone(),
        };
        (stream, in_flight)
    }

    /// Ends the stream.
    pub(crate) fn stop(&self) {
        self.lock().is_stopped = true;
    }

    /// Returns the error that ended the input.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.lock().read_error.take()
    }

    /// Removes the oldest line, which completed.
    pub(crate) fn pop(&self) -> Option<TrackedLine> {
        let mut inner = self.lock();
        let line = inner.lines.pop_front()?;
        if let LineState::Sent { since, .. } = &line.state {
            inner.bytes -= line.bytes;
            if let Some(since) = since {
                inner.batch_size = next_batch_size(inner.batch_size, since.elapsed());
            }
        }
        Some(line)
    }

    /// Removes the oldest line if it was not sent.
    pub(crate) fn pop_unsent(&self) -> Option<TrackedLine> {
        let mut inner = self.lock();
        let is_unsent = matches!(inner.lines.front()?.state, LineState::TooLong);
        if is_unsent { inner.lines.pop_front() } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the size of the next batch, after one of this size took `duration`.
fn next_batch_size(batch_size: usize, duration: Duration) -> usize {
    if duration < FAST {
        (batch_size * 2).min(MAX_BATCH)
    } else if duration > SLOW {
        (batch_size / 2).max(1)
    } else {
        batch_size
    }
}

/// A stream with a request for each line that does not exceed the limit.
pub(crate) struct RequestStream {
    chunks: Receiver<Chunk>,
    /// Lines that were read and not sent.
    read: IntoIter<ReadLine>,
    left_in_batch: usize,
    is_batch_start: bool,
    in_flight: LinesInFlight,
}

impl Stream for RequestStream {
    type Item = Request<'static>;

    /// Returns the next request. Also returns `Pending` at the end of a batch, which ends a chunk
    /// of the pipeline. Lines are in flight then, and the pipeline polls again when one completes.
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Request<'static>>> {
        let stream = &mut *self;
        let mut inner = stream.in_flight.lock();
        if inner.is_stopped {
            return Poll::Ready(None);
        }
        if stream.left_in_batch == 0 || inner.bytes >= MAX_IN_FLIGHT_BYTES {
            (stream.left_in_batch, stream.is_batch_start) = (inner.batch_size, true);
            return Poll::Pending;
        }
        loop {
            let Some(ReadLine { bytes, content }) = stream.read.next() else {
                match stream.chunks.poll_recv(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Ready(Some(Ok(lines))) => stream.read = lines.into_iter(),
                    Poll::Ready(Some(Err(error))) => {
                        inner.read_error = Some(error);
                        return Poll::Ready(None);
                    }
                }
                continue;
            };
            match content {
                Content::TooLong => {
                    inner.lines.push_back(TrackedLine { bytes, state: LineState::TooLong });
                }
                Content::Request(request, copy) => {
                    let since = stream.is_batch_start.then(Instant::now);
                    let state = LineState::Sent { copy, since };
                    inner.lines.push_back(TrackedLine { bytes, state });
                    inner.bytes += bytes;
                    stream.left_in_batch -= 1;
                    stream.is_batch_start = false;
                    return Poll::Ready(Some(request));
                }
            }
        }
    }
}

/// Bytes of one read and of one chunk. A single line may be longer.
const CHUNK_BYTES: usize = 64 << 10;

/// Maximum number of chunks that wait for the consumer.
const MAX_CHUNKS: usize = 2;

/// A line as it was read.
pub(crate) struct ReadLine {
    /// Bytes of the line in the input, with its line end.
    pub(crate) bytes: u64,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    /// A request, with a copy of the line if copies are kept.
    Request(Request<'static>, Option<Vec<u8>>),
    TooLong,
}

/// Lines that were read together, or the error that ended the input.
pub(crate) type Chunk = io::Result<Vec<ReadLine>>;

/// The lines of stdin.
pub(crate) struct StdinLines {
    pub(crate) chunks: Receiver<Chunk>,
    /// The number of lines read so far.
    pub(crate) count: Arc<AtomicU64>,
}

impl StdinLines {
    /// Starts to read stdin. The thread exits at the end of the input, or when the receiver is
    /// dropped. It is not joined, since it may wait for a person who types.
    pub(crate) fn spawn(keep_copies: bool) -> io::Result<Self> {
        let (sender, chunks) = mpsc::channel(MAX_CHUNKS);
        let count = Arc::new(AtomicU64::new(0));
        let reader_count = Arc::clone(&count);
        thread::Builder::new().name("hotbay-stdin".to_owned()).spawn(move || {
            let stdin = BufReader::with_capacity(CHUNK_BYTES, io::stdin());
            Reader { from: stdin, keep_copies, count: reader_count, sender }.run();
        })?;
        Ok(Self { chunks, count })
    }
}

struct Reader<R> {
    from: BufReader<R>,
    keep_copies: bool,
    count: Arc<AtomicU64>,
    sender: Sender<Chunk>,
}

impl<R: io::Read> Reader<R> {
    fn run(mut self) {
        let max_bytes = max_input_bytes();
        let (mut lines, mut chunk_bytes) = (Vec::new(), 0);
        loop {
            // Sends what was read before a read that may block.
            let has_next_line = self.from.buffer().contains(&b'\n');
            if !lines.is_empty() && (chunk_bytes >= CHUNK_BYTES as u64 || !has_next_line) {
                chunk_bytes = 0;
                let count = lines.len();
                if !self.send(Ok(std::mem::take(&mut lines))) {
                    return;
                }
                lines.reserve(count);
            }
            match next_line(&mut self.from, max_bytes) {
                Ok(None) => return,
                Ok(Some((line, bytes))) => {
                    chunk_bytes += bytes;
                    lines.push(ReadLine { bytes, content: self.content(line) });
                }
                Err(error) => {
                    if self.send(Ok(lines)) {
                        self.send(Err(error));
                    }
                    return;
                }
            }
        }
    }

    fn content(&self, line: Line) -> Content {
        match line {
            Line::TooLong => Content::TooLong,
            Line::Whole(line) => {
                let copy = self.keep_copies.then(|| line.clone());
                Content::Request(Input::new(line).into_request(), copy)
            }
        }
    }

    /// Returns whether the receiver still exists.
    fn send(&self, chunk: Chunk) -> bool {
        let count = chunk.as_ref().map_or(0, Vec::len);
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        self.sender.blocking_send(chunk).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_while_fast_and_shrink_while_slow() {
        let [fast, medium, slow] = [1, 20, 1000].map(Duration::from_millis);
        assert_eq!(next_batch_size(1, fast), 2);
        assert_eq!(next_batch_size(200, fast), MAX_BATCH);
        assert_eq!(next_batch_size(8, medium), 8);
        assert_eq!(next_batch_size(8, slow), 4);
        assert_eq!(next_batch_size(1, slow), 1);
    }
}
