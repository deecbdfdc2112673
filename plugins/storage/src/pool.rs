//! Connections that are used by one caller at a time. It starts no threads, which would outlive the
//! plugin.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage_contract::{StoreError, StoreErrorKind};

/// A fixed number of connections, or of places for those that are opened when they are needed.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    max: usize,
    timeout: Duration,
    state: Mutex<State<T>>,
    returned: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// The last one is used first, so that few are opened.
    idle: Vec<T>,
    /// Number of callers that wait: without any, returning a connection makes no system call.
    waiting: usize,
}

impl<T> Pool<T> {
    pub(crate) fn new(connections: Vec<T>, timeout: Duration) -> Self {
        let max = connections.len();
        let state = Mutex::new(State { idle: connections, waiting: 0 });
        Self { max, timeout, state, returned: Condvar::new() }
    }

    /// Runs `call` with a connection. Waits for one if all are in use.
    pub(crate) fn with<R>(
        &self,
        call: impl FnOnce(&mut T) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let idle = self.lock().idle.pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.wait()?,
        };
        let mut leased = Leased { pool: self, connection: Some(connection) };
        call(leased.connection.as_mut().expect("it is returned when this is dropped"))
    }

    #[cold]
    fn wait(&self) -> Result<T, StoreError> {
        let mut state = self.lock();
        state.waiting += 1;
        let is_empty = |state: &mut State<T>| state.idle.is_empty();
        let waited = self.returned.wait_timeout_while(state, self.timeout, is_empty);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.idle.pop().ok_or_else(|| {
            let (max, timeout) = (self.max, self.timeout);
            let message =
                format!("no connection was free within {timeout:?}; the maximum is {max}");
            StoreError::new(StoreErrorKind::Unavailable, message)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use; returned when it is dropped, also by a panic.
struct Leased<'p, T> {
    pool: &'p Pool<T>,
    connection: Option<T>,
}

impl<T> Drop for Leased<'_, T> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.idle.extend(self.connection.take());
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.pool.returned.notify_one();
        }
    }
}
