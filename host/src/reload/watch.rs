//! The doorbell: what the file system tells becomes folders that settled. Knows no plugins: it
//! says which folder is to be looked at, and somebody else says what that came to.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Rules;
use super::debounce::{Attempt, AttemptOutcome, Change, DebounceLimits, Debouncer};
use super::fs_watcher::{Flags, FsWatcher};
use super::roots::Roots;
use super::signature::{Signature, Signatures};
use crate::artifact::discover::MANIFEST;

/// What wakes the loop.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something happened to a path.
    Touched { path: PathBuf, change: Change },
    /// Something happened that was not told.
    Missed,
    /// A look is done, or the end has come.
    Woken,
}

/// Events that may wait; beyond it everything is looked at instead.
const MAX_EVENTS: usize = 1024;
/// Folders that are looked at at once: each may cost a thread.
const MAX_RUNNING: usize = 8;
/// Full looks are at least so far apart.
const RESCAN_EVERY: Duration = Duration::from_millis(50);
/// How often plugin directories are looked for that are not there, or are others by now.
const ROOTS_EVERY: Duration = Duration::from_secs(1);

/// Who looks at folders that settled.
pub(crate) trait ChangeHandler: Send + 'static {
    /// Looks, without waiting for anything; the answer may come later.
    fn run(&mut self, folder: &Path, look: Attempt, answerer: OutcomeSender);

    /// The folders that waited for something to change elsewhere.
    fn waiting(&mut self) -> Vec<PathBuf>;
}

/// A folder that was looked at, and what that came to.
type FolderOutcome = (PathBuf, AttemptOutcome);

/// Where the answer of a look goes; dropped without one, there was nothing to do.
#[derive(Debug)]
pub(crate) struct OutcomeSender {
    answers: Sender<FolderOutcome>,
    sender: SyncSender<Event>,
    folder: PathBuf,
    outcome: AttemptOutcome,
}

impl OutcomeSender {
    pub(crate) fn send(mut self, answer: AttemptOutcome) {
        self.outcome = answer;
    }
}

impl Drop for OutcomeSender {
    fn drop(&mut self) {
        // A loop that has ended needs no answer, and one that has much to hear is awake.
        let _ = self.answers.send((std::mem::take(&mut self.folder), self.outcome));
        let _ = self.sender.try_send(Event::Woken);
    }
}

/// What is watched, and how.
#[derive(Clone, Debug)]
pub(crate) struct WatchOptions {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) rules: Rules,
    /// Look that often instead of being told.
    pub(crate) poll_interval: Option<Duration>,
}

/// A loop that watches until this is dropped.
pub(crate) struct Watch {
    sender: SyncSender<Event>,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// From here on changes are seen; what is there already is taken as known.
    pub(crate) fn start(
        watching: WatchOptions,
        visitor: impl ChangeHandler,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(MAX_EVENTS);
        let flags = Arc::new(Flags::default());
        let mut doorkeeper =
            WatchThread::new(watching, visitor, sender.clone(), Arc::clone(&flags));
        doorkeeper.begin();
        let thread = std::thread::Builder::new().name("hotbay-watch".to_owned());
        let thread = thread.spawn(move || doorkeeper.run(&receiver))?;
        Ok(Self { sender, flags, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Release);
        // A full channel keeps the loop awake as well.
        let _ = self.sender.try_send(Event::Woken);
        let Some(thread) = self.thread.take() else { return };
        // It may be the loop itself that let go of the last host.
        if thread.thread().id() != std::thread::current().id() {
            // A panic of the loop was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// The state of the loop.
struct WatchThread<V> {
    roots: Roots,
    rules: Rules,
    poll_interval: Option<Duration>,
    debouncer: Debouncer<Signature>,
    signatures: Signatures,
    handler: V,
    sender: SyncSender<Event>,
    /// Holds at most one answer for each look.
    outcomes: (Sender<FolderOutcome>, Receiver<FolderOutcome>),
    flags: Arc<Flags>,
    /// Folders beside whose files something happened.
    touched: BTreeSet<PathBuf>,
    running: usize,
    rescan_wanted: bool,
    rescanned_at: Option<Instant>,
    roots_at: Instant,
}

impl<V: ChangeHandler> WatchThread<V> {
    fn new(
        watching: WatchOptions,
        visitor: V,
        sender: SyncSender<Event>,
        flags: Arc<Flags>,
    ) -> Self {
        let WatchOptions { dirs, rules, poll_interval } = watching;
        let bell =
            poll_interval.is_none().then(|| FsWatcher::new(sender.clone(), Arc::clone(&flags)));
        Self {
            roots: Roots::new(dirs, bell.flatten()),
            rules,
            poll_interval,
            debouncer: Debouncer::new(DebounceLimits::default()),
            signatures: Signatures::default(),
            handler: visitor,
            sender,
            outcomes: channel(),
            flags,
            touched: BTreeSet::new(),
            running: 0,
            rescan_wanted: false,
            rescanned_at: None,
            roots_at: Instant::now(),
        }
    }

    /// Watches, then takes what is there as known.
    fn begin(&mut self) {
        for dir in self.roots.watch() {
            for folder in super::folders(std::slice::from_ref(&dir), &self.rules).0 {
                let signature = self.signatures.of(&folder);
                self.debouncer.add_known(folder, signature);
            }
        }
    }

    fn run(mut self, events: &Receiver<Event>) {
        while !self.flags.stop.load(Ordering::Acquire) {
            self.run_due(Instant::now());
            match events.recv_timeout(self.wait(Instant::now())) {
                Ok(event) => {
                    self.receive(event);
                    // No more than were there, so that what is due gets its turn.
                    for event in events.try_iter().take(MAX_EVENTS) {
                        self.receive(event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.roots.stop();
    }

    /// How long nothing is to be done by itself.
    fn wait(&self, now: Instant) -> Duration {
        let settled = self.debouncer.next_at().filter(|_| self.running < MAX_RUNNING);
        let rescan = self.rescanned_at.filter(|_| self.rescan_wanted);
        let rescan = rescan.map(|at| at + RESCAN_EVERY);
        let at = [settled, rescan].into_iter().flatten().fold(self.roots_at, Instant::min);
        at.saturating_duration_since(now)
    }

    /// Does what is due.
    fn run_due(&mut self, now: Instant) {
        while let Ok((folder, answer)) = self.outcomes.1.try_recv() {
            self.finished(&folder, answer, now);
        }
        if self.flags.missed.swap(false, Ordering::AcqRel) {
            self.rescan_wanted = true;
        }
        if self.roots_at <= now {
            self.roots_at = now + self.poll_interval.unwrap_or(ROOTS_EVERY);
            self.rescan_wanted |= self.roots.changed() || self.roots.is_unwatched();
        }
        let is_time = self.rescanned_at.is_none_or(|at| at + RESCAN_EVERY <= now);
        if self.rescan_wanted && is_time {
            self.rescan(now);
        }
        for folder in std::mem::take(&mut self.touched) {
            self.record_change(&folder, Change::Unrelated, now);
        }
        let room = MAX_RUNNING - self.running;
        let signatures = &mut self.signatures;
        for (folder, look) in self.debouncer.take_due(now, room, |folder| signatures.of(folder)) {
            if !self.roots.hold(&folder) {
                // Not a plugin is gone but the place of all: they serve until it is back.
                self.debouncer.postpone(&folder);
                continue;
            }
            self.running += 1;
            let (answers, sender) = (self.outcomes.0.clone(), self.sender.clone());
            let answer = AttemptOutcome::Done;
            let answerer =
                OutcomeSender { answers, sender, folder: folder.clone(), outcome: answer };
            self.handler.run(&folder, look, answerer);
        }
    }

    fn finished(&mut self, folder: &Path, answer: AttemptOutcome, now: Instant) {
        self.running -= 1;
        self.debouncer.finish(folder, answer);
        if answer == AttemptOutcome::Changed {
            for folder in self.handler.waiting() {
                self.debouncer.retry(&folder, now);
            }
        }
    }

    fn receive(&mut self, event: Event) {
        match event {
            Event::Touched { path, change } => self.touched(&path, change),
            Event::Missed => self.rescan_wanted = true,
            Event::Woken => {}
        }
    }

    /// Finds the folder that a path belongs to.
    fn touched(&mut self, path: &Path, change: Change) {
        if self.debouncer.knows(path) {
            // The folder itself: another one may stand there, whose files nobody watches yet.
            let change = if change == Change::Renamed { change } else { Change::Unrelated };
            self.record_change(path, change, Instant::now());
            self.rescan_wanted = true;
            return;
        }
        let mut above = path.ancestors().skip(1);
        if let Some(folder) = above.find(|folder| self.debouncer.knows(folder)).map(Path::to_owned)
        {
            if self.signatures.counts(&folder, path) {
                self.record_change(&folder, change, Instant::now());
            } else {
                self.touched.insert(folder);
            }
            return;
        }
        let is_manifest = path.file_name().is_some_and(|name| name == MANIFEST);
        self.rescan_wanted |= is_manifest
            || match path.symlink_metadata() {
                // Perhaps of a folder that is known by another name.
                Ok(metadata) if metadata.is_file() => leads_elsewhere(path),
                // A new folder, or a link to one.
                Ok(_) => true,
                // Gone, and perhaps folders with it.
                Err(_) => !self.debouncer.below(path).is_empty(),
            };
    }

    fn record_change(&mut self, folder: &Path, change: Change, now: Instant) {
        let signature = self.signatures.of(folder);
        self.debouncer.changed(folder, change, signature, now);
    }

    /// Watches and looks at everything again.
    fn rescan(&mut self, now: Instant) {
        self.rescan_wanted = false;
        for dir in self.roots.watch() {
            let mut folders = self.debouncer.below(&dir);
            folders.extend(super::folders(std::slice::from_ref(&dir), &self.rules).0);
            for folder in folders {
                self.record_change(&folder, Change::Unrelated, now);
            }
        }
        self.rescanned_at = Some(Instant::now());
    }
}

/// Whether a path's folder is one by way of a link only.
fn leads_elsewhere(path: &Path) -> bool {
    let folder = path.parent().and_then(|parent| parent.canonicalize().ok());
    folder.is_some_and(|folder| !path.starts_with(folder))
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
