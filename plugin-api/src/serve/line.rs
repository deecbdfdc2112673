//! Open connections: which of them carry a request, and which can be closed.
//!
//! A connection is closed by shutting down its reading half. Requests that arrived before are
//! still answered, and later writes of the host fail, so no accepted request is lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bell::Bell;
use crate::wire::Stream;

/// Maximum number of connections served at once; further ones wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 256;

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: Stream,
    /// Whether a request is in progress. Set before the request is counted: either the request
    /// sees that the program stops, or the main thread sees the request.
    is_busy: AtomicBool,
    is_cut: AtomicBool,
}

impl Line {
    /// Returns another handle of the socket.
    pub(super) fn stream(&self) -> Stream {
        self.stream.again()
    }

    pub(super) fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
    }

    /// Returns whether the other side has closed the connection.
    pub(super) fn is_hung_up(&self) -> bool {
        // After this side stopped reading, the socket reports the same.
        !self.is_cut.load(Ordering::SeqCst) && self.stream.is_hung_up()
    }

    fn cut_unless_busy(&self) {
        if !self.is_busy.load(Ordering::SeqCst) {
            self.is_cut.store(true, Ordering::SeqCst);
            let _ = self.stream.stop_reading();
        }
    }
}

/// All open connections.
#[derive(Debug)]
pub(super) struct Lines {
    lines: Mutex<HashMap<u64, Arc<Line>>>,
    bell: Arc<Bell>,
}

impl Lines {
    pub(super) fn new(bell: Arc<Bell>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), bell })
    }

    /// Adds a connection under a unique number.
    pub(super) fn add(self: &Arc<Self>, number: u64, stream: Stream) -> Ticket {
        let (is_busy, is_cut) = (AtomicBool::new(false), AtomicBool::new(false));
        let line = Arc::new(Line { stream, is_busy, is_cut });
        self.lock().insert(number, Arc::clone(&line));
        Ticket { line, number, lines: Arc::clone(self) }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Stops reading from every connection without a request.
    pub(super) fn cut_idle(&self) {
        for line in self.lock().values() {
            line.cut_unless_busy();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes its connection on drop and wakes the main thread.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) line: Arc<Line>,
    number: u64,
    lines: Arc<Lines>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lines.lock().remove(&self.number);
        self.lines.bell.ring();
    }
}
