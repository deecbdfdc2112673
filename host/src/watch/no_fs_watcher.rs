//! Stands in for the file watcher in a build without the feature `watch`: changes are polled.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::{Event, Flags};

pub(super) struct FsWatcher(Infallible);

impl FsWatcher {
    pub(super) fn new(_: SyncSender<Event>, _: Arc<Flags>) -> Option<Self> {
        None
    }

    pub(super) fn watch(&mut self, _: &Path) -> bool {
        match self.0 {}
    }

    pub(super) fn unwatch(&mut self, _: &Path) {
        match self.0 {}
    }

    pub(super) fn stop(self) {
        match self.0 {}
    }
}
