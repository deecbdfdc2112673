//! Reads lines from stdin on a separate thread, a bounded number ahead of the consumer.

use std::io::{self, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use hotbay::Request;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::input::{Input, Line, max_input_bytes, next_line};

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
