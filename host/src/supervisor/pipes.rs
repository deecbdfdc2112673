//! Reads a child's output for as long as it runs, since a pipe that is not read blocks the child.
//! Ends soon after the child exits, even if another process still holds the pipe.

use std::sync::{Arc, Mutex};

use hotbay_plugin::abi::Record;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::lines::{LogLine, Splitter, Tail};
use super::program::ObserverRef;
use crate::sync::lock;

/// Bytes per read.
const BUFFER_BYTES: usize = 64 << 10;

/// Lines between two yields to the other tasks of the thread.
const LINES_PER_YIELD: usize = 16;

/// The last lines of a child's output, for reports of its exit.
pub(super) type SharedTail = Arc<Mutex<Tail>>;

/// A task that reads one pipe.
#[derive(Debug)]
pub(super) struct Reader(JoinHandle<()>);

impl Reader {
    /// Reads to the end of the pipe, but only for a short time after the child has exited.
    pub(super) async fn finish(mut self) {
        let _ = tokio::time::timeout(super::PIPE_DRAIN_TIMEOUT, &mut self.0).await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Receives the lines of stdout that may contain the location.
pub(super) type LocationSender = mpsc::Sender<String>;

/// Reads `pipe`. Each line goes to `location_sender` until the receiver is closed, and then to the
/// log.
pub(super) fn read(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    observer: ObserverRef,
    tail: SharedTail,
    mut location_sender: Option<LocationSender>,
) -> Reader {
    Reader(tokio::spawn(async move {
        let mut pipe = pipe;
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut lines = Vec::new();
        loop {
            let count = pipe.read(&mut buffer).await.unwrap_or(0);
            match count {
                0 => std::mem::take(&mut splitter).finish(|line| lines.push(line.to_owned())),
                _ => splitter.feed(&buffer[..count], |line| lines.push(line.to_owned())),
            }
            for (at, line) in lines.drain(..).enumerate() {
                if at % LINES_PER_YIELD == LINES_PER_YIELD - 1 {
                    // A child that floods its log must not block the other tasks of the thread.
                    tokio::task::yield_now().await;
                }
                // Once the receiver is closed, every line is logged.
                let unsent = match &location_sender {
                    Some(sender) => sender.send(line).await.err().map(|unsent| unsent.0),
                    None => Some(line),
                };
                if let Some(line) = unsent {
                    location_sender = None;
                    log(&observer, &tail, &line);
                }
            }
            if count == 0 {
                return;
            }
        }
    }))
}

/// Writes a line of a child's output to the host's log.
pub(super) fn log(observer: &ObserverRef, tail: &SharedTail, line: &str) {
    lock(tail).push(line);
    let read = LogLine::read(line);
    observer.wrote(&Record {
        level: read.level,
        target: &read.target,
        message: &read.message,
        fields: &read.fields,
        file: "",
        line: 0,
    });
}
