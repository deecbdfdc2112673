//! Open connections: which of them carry a request, and which can be closed.
//!
//! A connection is closed by shutting down its reading half. Requests that arrived before are
//! still answered, and later writes of the host fail, so no accepted request is lost.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::socket::Socket;
use super::stop::StopSignal;

/// Maximum number of connections served at once; further ones wait to be accepted.
pub(super) const MAX_CONNECTIONS: usize = 256;

/// Time in which a connection must send a valid token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Arc<Socket>,
    /// When the connection is closed if it has not sent a valid token.
    token_until: Instant,
    is_authenticated: AtomicBool,
    /// Whether a request is in progress. Set before the request is counted: either the request
    /// sees that the program stops, or the main thread sees the request.
    is_busy: AtomicBool,
    is_closing: AtomicBool,
}

impl Connection {
    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Records that a request contained the token.
    pub(super) fn set_authenticated(&self) {
        self.is_authenticated.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
    }

    /// Returns whether the other side has closed the connection.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        // After this side stopped reading, the socket reports the same.
        !self.is_closing.load(Ordering::SeqCst) && self.socket.is_closed_by_peer()
    }

    fn close_unless_busy(&self) {
        if !self.is_busy.load(Ordering::SeqCst) {
            self.is_closing.store(true, Ordering::SeqCst);
            self.socket.shut_down(Shutdown::Read);
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

    /// Adds a connection under a unique number, which begins at `now`.
    pub(super) fn add(
        self: &Arc<Self>,
        number: u64,
        socket: Socket,
        now: Instant,
    ) -> ConnectionGuard {
        let connection = Arc::new(Connection {
            socket: Arc::new(socket),
            token_until: now + TOKEN_TIMEOUT,
            is_authenticated: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
        });
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

    /// Closes connections that have not sent a valid token in time. Returns when the next one is
    /// due.
    pub(super) fn close_unauthenticated(&self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for connection in self.lock().values() {
            if connection.is_authenticated.load(Ordering::Relaxed) {
                continue;
            }
            if connection.token_until <= now {
                connection.socket.shut_down(Shutdown::Both);
                continue;
            }
            next = next.into_iter().chain([connection.token_until]).min();
        }
        next
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn connection_without_token_is_closed_in_time() {
        let stop_signal = Arc::new(StopSignal::without_signals().unwrap());
        let (connections, now) = (Connections::new(stop_signal), Instant::now());
        let open = |number| {
            let (near, far) = UnixStream::pair().unwrap();
            far.set_nonblocking(true).unwrap();
            (connections.add(number, Socket::try_from(near).unwrap(), now), far)
        };
        let is_closed = |mut far: &UnixStream| {
            std::io::Read::read(&mut far, &mut [0]).is_ok_and(|count| count == 0)
        };
        let ((silent, silent_peer), (known, known_peer)) = (open(1), open(2));
        known.connection.set_authenticated();
        let due = now + TOKEN_TIMEOUT;
        assert_eq!(connections.close_unauthenticated(now), Some(due));
        assert!(!is_closed(&silent_peer));
        assert_eq!(connections.close_unauthenticated(due), None);
        assert_eq!((is_closed(&silent_peer), is_closed(&known_peer)), (true, false));
        drop((silent, known));
        assert_eq!(connections.count(), 0);
    }
}
