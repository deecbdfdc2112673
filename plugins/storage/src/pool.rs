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
    /// The last one is used first, so that few are opened.
    idle: Mutex<Vec<T>>,
    returned: Condvar,
}

impl<T> Pool<T> {
    pub(crate) fn new(connections: Vec<T>, timeout: Duration) -> Self {
        let max = connections.len();
        Self { max, timeout, idle: Mutex::new(connections), returned: Condvar::new() }
    }

    /// Runs `call` with a connection. Waits for one if all are in use.
    pub(crate) fn with<R>(
        &self,
        call: impl FnOnce(&mut T) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let waited =
            self.returned.wait_timeout_while(self.lock(), self.timeout, |idle| idle.is_empty());
        let (mut idle, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(connection) = idle.pop() else {
            let (max, timeout) = (self.max, self.timeout);
            let message =
                format!("no connection was free within {timeout:?}; the maximum is {max}");
            return Err(StoreError::new(StoreErrorKind::Unavailable, message));
        };
        drop(idle);
        let mut leased = Leased { pool: self, connection: Some(connection) };
        call(leased.connection.as_mut().expect("it is returned when this is dropped"))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use; returned when it is dropped, also by a panic.
struct Leased<'p, T> {
    pool: &'p Pool<T>,
    connection: Option<T>,
}

impl<T> Drop for Leased<'_, T> {
    fn drop(&mut self) {
        self.pool.lock().extend(self.connection.take());
        self.pool.returned.notify_one();
    }
}
