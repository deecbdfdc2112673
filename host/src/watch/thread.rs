//! The thread of a watch: waits for events, debounces them, scans folders, and runs attempts.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::debounce::{Attempt, AttemptOutcome, Change, DebounceLimits, Debouncer};
use super::fs_watcher::FsWatcher;
use super::roots::{Roots, Signature, Signatures};
use super::{Event, Flags};
use crate::artifact::discover::{self, MANIFEST};
use crate::artifact::trust::Rules;
use crate::sync::after;

/// The capacity of the event channel; on overflow, all folders are scanned.
const MAX_EVENTS: usize = 1024;
/// Attempts that run at the same time; each may cost a thread.
const MAX_RUNNING: usize = 8;
/// The minimum time between two full scans.
const RESCAN_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between checks for plugin directories that are missing or were replaced.
const ROOTS_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest interval of polls, so that the thread also sleeps if the interval is zero.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Handles folders whose files stopped changing.
pub(crate) trait ChangeHandler: Send + 'static {
    /// Starts an attempt, without waiting; the outcome may follow later.
    fn run(&mut self, folder: &Path, attempt: Attempt, sender: OutcomeSender);

    /// Returns the folders that wait for a change elsewhere.
    fn waiting(&mut self) -> Vec<PathBuf>;

    /// Returns the folders of the instances that the configuration adds. They are watched even if no
    /// search of the directories finds them.
    fn instances(&mut self) -> BTreeSet<PathBuf>;
}

/// A folder and the outcome of its attempt.
type FolderOutcome = (PathBuf, AttemptOutcome);

/// Sends the outcome of an attempt; `Done` if dropped without one.
#[derive(Debug)]
pub(crate) struct OutcomeSender {
    outcomes: Sender<FolderOutcome>,
    sender: SyncSender<Event>,
    folder: PathBuf,
    outcome: AttemptOutcome,
}

impl OutcomeSender {
    pub(crate) fn send(mut self, outcome: AttemptOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for OutcomeSender {
    fn drop(&mut self) {
        // A thread that stopped needs no outcome, and a full channel keeps it awake.
        let _ = self.outcomes.send((std::mem::take(&mut self.folder), self.outcome));
        let _ = self.sender.try_send(Event::Woken);
    }
}

/// The directories to watch, and the settings.
#[derive(Clone, Debug)]
pub(crate) struct WatchOptions {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) rules: Rules,
    /// Polls in this interval instead of waiting for events.
    pub(crate) poll_interval: Option<Duration>,
}

/// A thread that watches until this is dropped.
pub(crate) struct Watch {
    sender: SyncSender<Event>,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts watching. The current state of all folders counts as known.
    pub(crate) fn start(
        options: WatchOptions,
        handler: impl ChangeHandler,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(MAX_EVENTS);
        let flags = Arc::new(Flags::default());
        let mut watch_thread =
            WatchThread::new(options, handler, sender.clone(), Arc::clone(&flags));
        watch_thread.begin();
        let thread = std::thread::Builder::new().name("hotbay-watch".to_owned());
        let thread = thread.spawn(move || watch_thread.run(&receiver))?;
        Ok(Self { sender, flags, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Release);
        // A full channel keeps the thread awake as well.
        let _ = self.sender.try_send(Event::Woken);
        let Some(thread) = self.thread.take() else { return };
        // The watch thread itself may drop the last host.
        if thread.thread().id() != std::thread::current().id() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// The state of the watch thread.
struct WatchThread<H> {
    roots: Roots,
    rules: Rules,
    poll_interval: Option<Duration>,
    debouncer: Debouncer<Signature>,
    signatures: Signatures,
    handler: H,
    instances: BTreeSet<PathBuf>,
    sender: SyncSender<Event>,
    /// Holds at most one outcome for each attempt.
    outcomes: (Sender<FolderOutcome>, Receiver<FolderOutcome>),
    flags: Arc<Flags>,
    /// Folders in which an unrelated file changed.
    touched: BTreeSet<PathBuf>,
    running: usize,
    rescan_needed: bool,
    rescanned_at: Option<Instant>,
    check_roots_at: Instant,
}

impl<H: ChangeHandler> WatchThread<H> {
    fn new(
        options: WatchOptions,
        handler: H,
        sender: SyncSender<Event>,
        flags: Arc<Flags>,
    ) -> Self {
        let WatchOptions { dirs, rules, poll_interval } = options;
        let watcher =
            poll_interval.is_none().then(|| FsWatcher::new(sender.clone(), Arc::clone(&flags)));
        Self {
            roots: Roots::new(dirs, watcher.flatten()),
            rules,
            poll_interval: poll_interval.map(|interval| interval.max(MIN_POLL_INTERVAL)),
            debouncer: Debouncer::new(DebounceLimits::default()),
            signatures: Signatures::default(),
            handler,
            instances: BTreeSet::new(),
            sender,
            outcomes: channel(),
            flags,
            touched: BTreeSet::new(),
            running: 0,
            rescan_needed: false,
            rescanned_at: None,
            check_roots_at: Instant::now(),
        }
    }

    /// Starts watching, then adds all current folders as known.
    fn begin(&mut self) {
        self.instances = self.handler.instances();
        self.roots.set_instances(&self.instances);
        for dir in self.roots.watch() {
            for folder in discover::folders(std::slice::from_ref(&dir), &self.rules).0 {
                let signature = self.signatures.of(&folder);
                self.debouncer.add_known(folder, signature);
            }
        }
        for folder in &self.instances {
            if !self.debouncer.contains(folder) {
                let signature = self.signatures.of(folder);
                self.debouncer.add_known(folder.clone(), signature);
            }
        }
    }

    fn run(mut self, events: &Receiver<Event>) {
        while !self.flags.stop.load(Ordering::Acquire) {
            self.run_due(Instant::now());
            match events.recv_timeout(self.wait(Instant::now())) {
                Ok(event) => {
                    self.receive(event);
                    // At most one channel's worth, so that due attempts get their turn.
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

    /// Returns the time until something is due.
    fn wait(&self, now: Instant) -> Duration {
        let attempt = self.debouncer.next_at().filter(|_| self.running < MAX_RUNNING);
        let rescan = self.rescanned_at.filter(|_| self.rescan_needed);
        let rescan = rescan.map(|at| at + RESCAN_INTERVAL);
        let at = [attempt, rescan].into_iter().flatten().fold(self.check_roots_at, Instant::min);
        at.saturating_duration_since(now)
    }

    /// Runs everything that is due.
    fn run_due(&mut self, now: Instant) {
        while let Ok((folder, outcome)) = self.outcomes.1.try_recv() {
            self.finished(&folder, outcome, now);
        }
        if self.flags.events_lost.swap(false, Ordering::AcqRel) {
            self.rescan_needed = true;
        }
        if self.check_roots_at <= now {
            self.check_roots_at = after(now, self.poll_interval.unwrap_or(ROOTS_INTERVAL));
            let instances = self.handler.instances();
            if instances != self.instances {
                self.roots.set_instances(&instances);
                self.instances = instances;
                self.rescan_needed = true;
            }
            self.rescan_needed |= self.roots.changed() || self.roots.is_unwatched();
        }
        let is_time = self.rescanned_at.is_none_or(|at| at + RESCAN_INTERVAL <= now);
        if self.rescan_needed && is_time {
            self.rescan(now);
        }
        for folder in std::mem::take(&mut self.touched) {
            self.record_change(&folder, Change::Unrelated, now);
        }
        let free = MAX_RUNNING - self.running;
        let signatures = &mut self.signatures;
        for (folder, attempt) in self.debouncer.take_due(now, free, |folder| signatures.of(folder))
        {
            if !self.roots.contain(&folder) {
                // The whole directory is gone, not one plugin: they serve until it is back.
                self.debouncer.postpone(&folder);
                continue;
            }
            self.running += 1;
            let (outcomes, sender) = (self.outcomes.0.clone(), self.sender.clone());
            let outcome = AttemptOutcome::Done;
            let sender = OutcomeSender { outcomes, sender, folder: folder.clone(), outcome };
            self.handler.run(&folder, attempt, sender);
        }
    }

    fn finished(&mut self, folder: &Path, outcome: AttemptOutcome, now: Instant) {
        self.running -= 1;
        self.debouncer.finish(folder, outcome);
        if outcome == AttemptOutcome::Changed {
            for folder in self.handler.waiting() {
                self.debouncer.retry(&folder, now);
            }
        }
    }

    fn receive(&mut self, event: Event) {
        match event {
            Event::Changed { path, change } => self.touched(&path, change),
            Event::EventsLost => self.rescan_needed = true,
            Event::Woken => {}
        }
    }

    /// Records a change of a path for the folder that it belongs to.
    fn touched(&mut self, path: &Path, change: Change) {
        if self.debouncer.contains(path) {
            // The folder itself: it may be a new one, whose files are not watched yet.
            let change = if change == Change::Renamed { change } else { Change::Unrelated };
            self.record_change(path, change, Instant::now());
            self.rescan_needed = true;
            return;
        }
        let mut ancestors = path.ancestors().skip(1);
        if let Some(folder) =
            ancestors.find(|folder| self.debouncer.contains(folder)).map(Path::to_owned)
        {
            if self.signatures.is_relevant(&folder, path) {
                self.record_change(&folder, change, Instant::now());
            } else {
                self.touched.insert(folder);
            }
            return;
        }
        let is_manifest = path.file_name().is_some_and(|name| name == MANIFEST);
        self.rescan_needed |= is_manifest
            || match path.symlink_metadata() {
                // It may belong to a folder that is known under another name.
                Ok(metadata) if metadata.is_file() => is_below_link(path),
                // A new folder, or a link to one.
                Ok(_) => true,
                // It was removed, perhaps with folders in it.
                Err(_) => !self.debouncer.below(path).is_empty(),
            };
    }

    fn record_change(&mut self, folder: &Path, change: Change, now: Instant) {
        let signature = self.signatures.of(folder);
        self.debouncer.changed(folder, change, signature, now);
    }

    /// Watches and scans everything again.
    fn rescan(&mut self, now: Instant) {
        self.rescan_needed = false;
        for dir in self.roots.watch() {
            let mut folders = self.debouncer.below(&dir);
            folders.extend(discover::folders(std::slice::from_ref(&dir), &self.rules).0);
            for folder in folders {
                self.record_change(&folder, Change::Unrelated, now);
            }
        }
        for folder in self.instances.clone() {
            self.record_change(&folder, Change::Unrelated, now);
        }
        self.rescanned_at = Some(Instant::now());
    }
}

/// Returns whether a path is reached through a link only.
fn is_below_link(path: &Path) -> bool {
    let folder = path.parent().and_then(|parent| parent.canonicalize().ok());
    folder.is_some_and(|folder| !path.starts_with(folder))
}

#[cfg(feature = "watch")]
#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
