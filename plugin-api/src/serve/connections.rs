//! Open connections: which of them carry a request, and which can be closed.
//!
//! A connection is closed by shutting down its reading half. Requests that arrived before are
//! still answered, and later writes of the host fail, so no accepted request is lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stop::StopSignal;
use crate::wire::Stream;

/// Maximum number of connections served at once; further ones wait to be accepted.
pub(super) const MAX_CONNECTIONS: usize = 256;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    /// Whether a request is in progress. Set before the request is counted: either the request
    /// sees that the program stops, or the main thread sees the request.
    is_busy: AtomicBool,
    is_closing: AtomicBool,
}

impl Connection {
    /// Returns another handle of the socket.
    pub(super) fn stream(&self) -> Stream {
        self.stream.clone_handle()
    }

    pub(super) fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
    }

    /// Returns whether the other side has closed the connection.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        // After this side stopped reading, the socket reports the same.
        !self.is_closing.load(Ordering::SeqCst) && self.stream.is_closed_by_peer()
    }

    fn close_unless_busy(&self) {
        if !self.is_busy.load(Ordering::SeqCst) {
            self.is_closing.store(true, Ordering::SeqCst);
            let _ = self.stream.stop_reading();
        }
    }
}

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    stop_signal: Arc<StopSignal>,
}

impl Connections {
    pub(super) fn new(stop_signal: Arc<StopSignal>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), stop_signal })
    }

    /// Adds a connection under a unique number.
    pub(super) fn add(self: &Arc<Self>, number: u64, stream: Stream) -> ConnectionGuard {
        let (is_busy, is_closing) = (AtomicBool::new(false), AtomicBool::new(false));
        let connection = Arc::new(Connection { stream, is_busy, is_closing });
        self.lock().insert(number, Arc::clone(&connection));
        ConnectionGuard { connection, number, connections: Arc::clone(self) }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Stops reading from every connection without a request.
    pub(super) fn close_idle(&self) {
        for connection in self.lock().values() {
            connection.close_unless_busy();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes its connection on drop and wakes the main thread.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    pub(super) connection: Arc<Connection>,
    number: u64,
    connections: Arc<Connections>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.number);
        self.connections.stop_signal.wake();
    }
}
