//! Reads lines on a thread of its own, a bounded number ahead of whoever takes them.
//! Knows nothing of plugins.

use std::io::{self, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use hotbay::Request;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::input::{Input, Line, bytes_max, next_line};

/// Bytes that are read, and passed on, at once; a single line may be longer.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks that wait to be taken.
const CHUNKS_MAX: usize = 2;

/// A line as it was read.
pub(crate) struct ReadLine {
    /// How many bytes of the input it took, with its end.
    pub(crate) bytes: u64,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    /// With a copy of the line where one was wanted.
    Request(Request<'static>, Option<Vec<u8>>),
    TooLong,
}

/// What comes of reading: lines that were there together, or why there are no more.
pub(crate) type Chunk = io::Result<Vec<ReadLine>>;

/// Lines that are being read.
pub(crate) struct Lines {
    pub(crate) chunks: Receiver<Chunk>,
    /// How many were read so far.
    pub(crate) count: Arc<AtomicU64>,
}

impl Lines {
    /// Reads stdin from now on. The thread ends with the input, or when nobody takes any more;
    /// it is not waited for, since it may be waiting for somebody who types.
    pub(crate) fn of_stdin(are_copied: bool) -> io::Result<Self> {
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        thread::Builder::new().name("hotbay-stdin".to_owned()).spawn(move || {
            let stdin = BufReader::with_capacity(CHUNK_BYTES, io::stdin());
            Reader { from: stdin, are_copied, counted, sender }.read();
        })?;
        Ok(Self { chunks, count })
    }
}

struct Reader<R> {
    from: BufReader<R>,
    are_copied: bool,
    counted: Arc<AtomicU64>,
    sender: Sender<Chunk>,
}

impl<R: io::Read> Reader<R> {
    fn read(mut self) {
        let bytes_max = bytes_max();
        let (mut lines, mut held) = (Vec::new(), 0);
        loop {
            // What is here is passed on before more is waited for.
            let is_next_here = self.from.buffer().contains(&b'\n');
            if !lines.is_empty() && (held >= CHUNK_BYTES as u64 || !is_next_here) {
                held = 0;
                let count = lines.len();
                if !self.pass_on(Ok(std::mem::take(&mut lines))) {
                    return;
                }
                lines.reserve(count);
            }
            match next_line(&mut self.from, bytes_max) {
                Ok(None) => return,
                Ok(Some((line, bytes))) => {
                    held += bytes;
                    lines.push(ReadLine { bytes, content: self.content(line) });
                }
                Err(error) => {
                    if self.pass_on(Ok(lines)) {
                        self.pass_on(Err(error));
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
                let copy = self.are_copied.then(|| line.clone());
                Content::Request(Input::new(line).into_request(), copy)
            }
        }
    }

    /// Whether anybody takes it.
    fn pass_on(&self, chunk: Chunk) -> bool {
        let count = chunk.as_ref().map_or(0, Vec::len);
        self.counted.fetch_add(count as u64, Ordering::Relaxed);
        self.sender.blocking_send(chunk).is_ok()
    }
}
