//! Receives events of notify on its thread, and forwards them without blocking.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::debounce::Change;
use super::{Event, Flags};

/// Time in which the watcher's thread must exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The watcher of one host.
pub(super) struct FsWatcher {
    watcher: RecommendedWatcher,
    /// Closed when the watcher's thread dropped its handler.
    ended: Receiver<()>,
}

impl FsWatcher {
    /// Returns `None` if the system provides no watcher: then the caller has to poll.
    pub(super) fn new(sender: SyncSender<Event>, flags: Arc<Flags>) -> Option<Self> {
        let (alive, ended) = channel();
        let handler = NotifyHandler { sender, flags, _alive: alive };
        match notify::recommended_watcher(handler) {
            Ok(watcher) => Some(Self { watcher, ended }),
            Err(error) => {
                tracing::warn!(%error, "cannot watch files; polling plugins instead");
                None
            }
        }
    }

    /// Watches everything below `dir`. May be repeated. Returns `false` if the caller has to poll.
    pub(super) fn watch(&mut self, dir: &Path) -> bool {
        let watched = self.watcher.watch(dir, RecursiveMode::Recursive);
        if let Err(error) = &watched {
            let dir = dir.display();
            tracing::warn!(%error, %dir, "cannot watch the directory; polling it instead");
        }
        watched.is_ok()
    }

    pub(super) fn unwatch(&mut self, dir: &Path) {
        // The watch of a removed directory is gone already.
        let _ = self.watcher.unwatch(dir);
    }

    /// Stops the watcher's thread.
    pub(super) fn stop(self) {
        let Self { watcher, ended } = self;
        drop(watcher);
        let _ = ended.recv_timeout(STOP_TIMEOUT);
    }
}

/// Receives the events of notify.
pub(super) struct NotifyHandler {
    pub(super) sender: SyncSender<Event>,
    pub(super) flags: Arc<Flags>,
    pub(super) _alive: Sender<()>,
}

impl notify::EventHandler for NotifyHandler {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            Ok(_) => return self.report_lost_events(),
            Err(error) => {
                tracing::warn!(%error, "the file watcher failed; scanning everything");
                return self.report_lost_events();
            }
        };
        let Some(change) = change_of(event.kind) else { return };
        for path in event.paths {
            if self.sender.try_send(Event::Changed { path, change }).is_err() {
                return self.report_lost_events();
            }
        }
    }
}

impl NotifyHandler {
    /// Reports lost events. The thread wakes up for the flag even if the channel is full.
    fn report_lost_events(&self) {
        self.flags.events_lost.store(true, Ordering::Release);
        let _ = self.sender.try_send(Event::EventsLost);
    }
}

/// Returns what an event means; `None` if it changes nothing or is reported by another event.
fn change_of(kind: EventKind) -> Option<Change> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Written),
        // Opened for reading, as this host does itself.
        EventKind::Access(_) => None,
        // Each half has its own event.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Change::Renamed),
        _ => Some(Change::Written),
    }
}
