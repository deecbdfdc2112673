//! Connections that are kept: the last that was put back is taken first, so that those which are
//! not needed are found closed.

use std::sync::Mutex;
use std::time::Instant;

use super::Transport;
use super::connection::Connection;
use crate::sync::lock;

/// Connections that are kept of one child.
const KEPT_MAX: usize = 64;

pub(in crate::supervisor) struct Pool<W: Transport> {
    kept: Mutex<Vec<Kept<W::Io>>>,
}

struct Kept<I: hyper::rt::Read + hyper::rt::Write + Unpin> {
    connection: Connection<I>,
    /// When the child may close it; `None` if it did not say so.
    until: Option<Instant>,
}

impl<W: Transport> Default for Pool<W> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<W: Transport> Pool<W> {
    /// Takes a connection that another request can be sent on. Where one is found closed, those
    /// that were idle for as long are closed too.
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

    /// Keeps a connection, until then if that is stated.
    pub(super) fn put(&self, connection: Connection<W::Io>, until: Option<Instant>) {
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT_MAX {
            kept.push(Kept { connection, until });
        }
    }

    /// Closes those on which no other request can be sent.
    pub(super) fn close_unusable(&self) {
        lock(&self.kept).retain_mut(|kept| kept.connection.is_usable());
    }

    /// Closes every connection that is kept.
    pub(super) fn clear(&self) {
        let kept = std::mem::take(&mut *lock(&self.kept));
        drop(kept);
    }
}
