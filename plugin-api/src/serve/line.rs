//! The connections there are: which of them are in use, and which can be cut.
//!
//! A connection is cut by taking nothing more from it. What has arrived before is still served,
//! and what the other side sends later fails there: no request is taken and then lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bell::Bell;
use crate::wire::Stream;

/// Connections served at once; more wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 256;

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: Stream,
    /// A request is on its way through. Set before the calls are counted, so that either the
    /// request sees that the program ends, or whoever ends it sees the request.
    is_busy: AtomicBool,
    is_cut: AtomicBool,
}

impl Line {
    /// A hold on the socket.
    pub(super) fn stream(&self) -> Stream {
        self.stream.again()
    }

    pub(super) fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
    }

    /// Whether the other side has closed the connection.
    pub(super) fn is_hung_up(&self) -> bool {
        // One that this side cut looks like that too.
        !self.is_cut.load(Ordering::SeqCst) && self.stream.is_hung_up()
    }

    fn cut_unless_busy(&self) {
        if !self.is_busy.load(Ordering::SeqCst) {
            self.is_cut.store(true, Ordering::SeqCst);
            let _ = self.stream.stop_reading();
        }
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Lines {
    lines: Mutex<HashMap<u64, Arc<Line>>>,
    bell: Arc<Bell>,
}

impl Lines {
    pub(super) fn new(bell: Arc<Bell>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), bell })
    }

    /// Notes a connection under a number that no other had.
    pub(super) fn add(self: &Arc<Self>, number: u64, stream: Stream) -> Ticket {
        let (is_busy, is_cut) = (AtomicBool::new(false), AtomicBool::new(false));
        let line = Arc::new(Line { stream, is_busy, is_cut });
        self.lock().insert(number, Arc::clone(&line));
        Ticket { line, number, lines: Arc::clone(self) }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Cuts every connection that carries no request.
    pub(super) fn cut_idle(&self) {
        for line in self.lock().values() {
            line.cut_unless_busy();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held for as long as a connection is served.
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
