//! Idle connections of one transport. The most recently used one is taken first, so that surplus
//! ones time out.

use std::sync::Mutex;
use std::time::Instant;

use super::Transport;
use super::connection::Connection;
use crate::sync::lock;

/// The maximum number of kept connections.
const MAX_KEPT: usize = 64;

pub(in crate::supervisor) struct Pool<W: Transport> {
    kept: Mutex<Vec<IdleConnection<W::Io>>>,
}

struct IdleConnection<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    connection: Connection<I>,
    /// When the child may close it; `None` if unknown.
    until: Option<Instant>,
}

impl<W: Transport> Default for Pool<W> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<W: Transport> Pool<W> {
    /// Takes a usable connection. If one was closed by the child, those that were idle for longer
    /// are closed, too.
    pub(super) fn take(&self) -> Option<Connection<W::Io>> {
        loop {
            let mut kept = lock(&self.kept).pop()?;
            if kept.until.is_some_and(|until| until <= Instant::now()) {
                continue;
            }
            if kept.connection.is_usable() {
                return Some(kept.connection);
            }
            self.clear();
        }
    }

    /// Keeps a connection, at most until `until`.
    pub(super) fn put(&self, connection: Connection<W::Io>, until: Option<Instant>) {
        let mut kept = lock(&self.kept);
        if kept.len() < MAX_KEPT {
            kept.push(IdleConnection { connection, until });
        }
    }

    /// Closes those on which no further request can be sent.
    pub(super) fn close_unusable(&self) {
        lock(&self.kept).retain_mut(|kept| kept.connection.is_usable());
    }

    /// Closes every kept connection.
    pub(super) fn clear(&self) {
        let kept = std::mem::take(&mut *lock(&self.kept));
        drop(kept);
    }
}
