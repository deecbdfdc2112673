//! Connections that are kept: the last that was put back is taken first, so that those which are
//! not needed are found closed.

use std::sync::Mutex;

use super::Way;
use super::connection::Connection;
use crate::sync::lock;

/// Connections that are kept of one child.
const KEPT_MAX: usize = 64;

pub(in crate::supervisor) struct Pool<W: Way> {
    kept: Mutex<Vec<Connection<W::Io>>>,
}

impl<W: Way> Default for Pool<W> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<W: Way> Pool<W> {
    /// A connection that another request can be sent on.
    pub(super) fn take(&self) -> Option<Connection<W::Io>> {
        loop {
            let mut kept = lock(&self.kept).pop()?;
            if kept.is_usable() {
                return Some(kept);
            }
        }
    }

    pub(super) fn put(&self, connection: Connection<W::Io>) {
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT_MAX {
            kept.push(connection);
        }
    }
}
