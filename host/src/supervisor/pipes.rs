//! A child's output: read as long as it lives, whatever is done with it, since a pipe that nobody
//! reads stops the child. Ends shortly after the child, whoever else holds the pipe.

use std::sync::{Arc, Mutex};

use hotbay_plugin::abi::Record;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::lines::{LogLine, Splitter, Tail};
use super::program::ObserverRef;
use crate::sync::lock;

/// Bytes read at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// Lines read between two turns of whatever else the thread has to do.
const LINES_AT_ONCE: usize = 16;

/// The last lines that a child wrote, for reports of its end.
pub(super) type SharedTail = Arc<Mutex<Tail>>;

/// A task that reads one pipe.
#[derive(Debug)]
pub(super) struct Reader(JoinHandle<()>);

impl Reader {
    /// Reads to the end of the pipe, but not much longer than the child lives.
    pub(super) async fn end(mut self) {
        let _ = tokio::time::timeout(super::PIPE_DRAIN_TIMEOUT, &mut self.0).await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where lines of stdout go that may tell where the child can be reached.
pub(super) type Listener = mpsc::Sender<String>;

/// Reads `pipe`: each line goes to `listener` while there is one that wants it, and else to the
/// log.
pub(super) fn read(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    overseer: ObserverRef,
    tail: SharedTail,
    mut listener: Option<Listener>,
) -> Reader {
    Reader(tokio::spawn(async move {
        let mut pipe = pipe;
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; READ_BYTES_MAX];
        let mut lines = Vec::new();
        loop {
            let count = pipe.read(&mut buffer).await.unwrap_or(0);
            match count {
                0 => std::mem::take(&mut splitter).finish(|line| lines.push(line.to_owned())),
                _ => splitter.feed(&buffer[..count], |line| lines.push(line.to_owned())),
            }
            for (at, line) in lines.drain(..).enumerate() {
                if at % LINES_AT_ONCE == LINES_AT_ONCE - 1 {
                    // A child that floods must not hold up those who share the thread.
                    tokio::task::yield_now().await;
                }
                // Whoever listened has heard enough: everything is log from then on.
                let unheard = match &listener {
                    Some(heard) => heard.send(line).await.err().map(|unheard| unheard.0),
                    None => Some(line),
                };
                if let Some(line) = unheard {
                    listener = None;
                    tell(&overseer, &tail, &line);
                }
            }
            if count == 0 {
                return;
            }
        }
    }))
}

/// Writes a line of a child to the host's log.
pub(super) fn tell(overseer: &ObserverRef, tail: &SharedTail, line: &str) {
    lock(tail).push(line);
    let read = LogLine::read(line);
    overseer.wrote(&Record {
        level: read.level,
        target: &read.target,
        message: &read.message,
        fields: &read.fields,
        file: "",
        line: 0,
    });
}
