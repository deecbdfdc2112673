//! Connections that read, opened when they are needed. It has no threads, which would outlive the
//! plugin.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use storage_contract::{StoreError, StoreErrorKind};

#[derive(Debug)]
pub(crate) struct Pool {
    max: usize,
    timeout: Duration,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    /// Number of connections that are idle or in use.
    open: usize,
}

impl Pool {
    pub(crate) fn new(max: usize, timeout: Duration) -> Self {
        Self { max: max.max(1), timeout, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs `read` with a connection, which `open` opens if none is idle. Waits for one if all are
    /// in use.
    pub(crate) fn with<T>(
        &self,
        open: impl FnOnce() -> Result<Connection, StoreError>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let must_wait = |state: &mut State| state.idle.is_empty() && state.open >= self.max;
        let waited = self.returned.wait_timeout_while(self.lock(), self.timeout, must_wait);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if must_wait(&mut state) {
            let message = format!("all {} connections are in use", self.max);
            return Err(StoreError::new(StoreErrorKind::Unavailable, message));
        }
        let idle = state.idle.pop();
        state.open += usize::from(idle.is_none());
        drop(state);
        let mut leased = Leased { pool: self, connection: idle };
        let connection = match leased.connection.take() {
            Some(connection) => connection,
            None => open()?,
        };
        read(leased.connection.insert(connection))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use; returned when it is dropped, also by a panic.
struct Leased<'p> {
    pool: &'p Pool,
    /// `None` while it is opened.
    connection: Option<Connection>,
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.connection.take() {
            Some(connection) => state.idle.push(connection),
            None => state.open -= 1,
        }
        drop(state);
        self.pool.returned.notify_one();
    }
}
