//! A gate that opens once, for those who wait until a host has ended.

use std::sync::{Condvar, Mutex};

use crate::sync::lock;

/// Opens once.
#[derive(Debug, Default)]
pub(super) struct ShutdownLatch {
    is_open: Mutex<bool>,
    opened: Condvar,
}

/// Opens a gate when dropped.
#[derive(Debug)]
pub(super) struct OpenOnDrop<'g>(&'g ShutdownLatch);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_open) = true;
        self.0.opened.notify_all();
    }
}

impl ShutdownLatch {
    /// The gate opens when the answer is dropped.
    pub(super) fn open_on_drop(&self) -> OpenOnDrop<'_> {
        OpenOnDrop(self)
    }

    pub(super) fn wait(&self) {
        let is_open = lock(&self.is_open);
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}
