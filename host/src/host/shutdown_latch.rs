//! A latch that opens once a host has shut down.

use std::sync::{Condvar, Mutex};

use crate::sync::lock;

/// A latch that opens once.
#[derive(Debug, Default)]
pub(super) struct ShutdownLatch {
    is_open: Mutex<bool>,
    opened: Condvar,
}

/// Opens a latch on drop.
#[derive(Debug)]
pub(super) struct OpenOnDrop<'g>(&'g ShutdownLatch);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_open) = true;
        self.0.opened.notify_all();
    }
}

impl ShutdownLatch {
    /// Returns a guard that opens the latch on drop.
    pub(super) fn open_on_drop(&self) -> OpenOnDrop<'_> {
        OpenOnDrop(self)
    }

    pub(super) fn wait(&self) {
        let is_open = lock(&self.is_open);
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}
