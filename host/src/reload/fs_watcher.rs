//! What notify tells, on its own thread: sorted, and passed on without ever waiting.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::debounce::Change;
use super::watch::Event;

/// How long the watcher's own thread may take to end.
const END_WAIT_MAX: Duration = Duration::from_secs(1);

/// What the loop is told besides events.
#[derive(Debug, Default)]
pub(super) struct Flags {
    pub(super) stop: AtomicBool,
    /// Events were lost.
    pub(super) missed: AtomicBool,
}

/// The watcher of one host.
pub(super) struct FsWatcher {
    watcher: RecommendedWatcher,
    /// Closed when the watcher's thread has let go of its handler.
    ended: Receiver<()>,
}

impl FsWatcher {
    /// None where the system gives no watcher: then one has to look.
    pub(super) fn new(sender: SyncSender<Event>, flags: Arc<Flags>) -> Option<Self> {
        let (alive, ended) = channel();
        let clapper = NotifyHandler { sender, flags, _alive: alive };
        match notify::recommended_watcher(clapper) {
            Ok(watcher) => Some(Self { watcher, ended }),
            Err(error) => {
                tracing::warn!(%error, "the system watches no files; plugins are looked at");
                None
            }
        }
    }

    /// Watches all below `dir`; once this answers, nothing more is missed. May be repeated.
    pub(super) fn watch(&mut self, dir: &Path) -> bool {
        let watched = self.watcher.watch(dir, RecursiveMode::Recursive);
        if let Err(error) = &watched {
            tracing::warn!(%error, dir = %dir.display(), "not watched, looked at instead");
        }
        watched.is_ok()
    }

    pub(super) fn unwatch(&mut self, dir: &Path) {
        // Where it is gone, so is the watch.
        let _ = self.watcher.unwatch(dir);
    }

    /// Ends the watcher's thread.
    pub(super) fn stop(self) {
        let Self { watcher, ended } = self;
        drop(watcher);
        let _ = ended.recv_timeout(END_WAIT_MAX);
    }
}

/// Where notify tells.
pub(super) struct NotifyHandler {
    pub(super) sender: SyncSender<Event>,
    pub(super) flags: Arc<Flags>,
    pub(super) _alive: Sender<()>,
}

impl notify::EventHandler for NotifyHandler {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            Ok(_) => return self.missed(),
            Err(error) => {
                tracing::warn!(%error, "the watch failed; everything is looked at");
                return self.missed();
            }
        };
        let Some(change) = change_of(event.kind) else { return };
        for path in event.paths {
            if self.sender.try_send(Event::Touched { path, change }).is_err() {
                return self.missed();
            }
        }
    }
}

impl NotifyHandler {
    /// Somebody is awake to see the flag: either there was room, or there is more to hear.
    fn missed(&self) {
        self.flags.missed.store(true, Ordering::Release);
        let _ = self.sender.try_send(Event::Missed);
    }
}

/// What an event means; none for those that change nothing, or were told in another way.
fn change_of(kind: EventKind) -> Option<Change> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Written),
        // Opened for reading, which this host does itself.
        EventKind::Access(_) => None,
        // Both halves are told by themselves.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Change::Renamed),
        _ => Some(Change::Written),
    }
}
