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
use super::doorbell::{Bell, Flags};
use super::roots::Roots;
use super::settle::{Answer, Change, Look, Settle, Waits};
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
const EVENTS_MAX: usize = 1024;
/// Folders that are looked at at once: each may cost a thread.
const LOOKS_MAX: usize = 8;
/// Full looks are at least so far apart.
const RESCAN_EVERY: Duration = Duration::from_millis(50);
/// How often plugin directories are looked for that are not there, or are others by now.
const ROOTS_EVERY: Duration = Duration::from_secs(1);

/// Who looks at folders that settled.
pub(crate) trait Visitor: Send + 'static {
    /// Looks, without waiting for anything; the answer may come later.
    fn look(&mut self, folder: &Path, look: Look, answerer: Answerer);

    /// The folders that waited for something to change elsewhere.
    fn waiting(&mut self) -> Vec<PathBuf>;
}

/// A folder that was looked at, and what that came to.
type Answered = (PathBuf, Answer);

/// Where the answer of a look goes; dropped without one, there was nothing to do.
#[derive(Debug)]
pub(crate) struct Answerer {
    answers: Sender<Answered>,
    sender: SyncSender<Event>,
    folder: PathBuf,
    answer: Answer,
}

impl Answerer {
    pub(crate) fn answer(mut self, answer: Answer) {
        self.answer = answer;
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        // A loop that has ended needs no answer, and one that has much to hear is awake.
        let _ = self.answers.send((std::mem::take(&mut self.folder), self.answer));
        let _ = self.sender.try_send(Event::Woken);
    }
}

/// What is watched, and how.
#[derive(Clone, Debug)]
pub(crate) struct Watching {
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
    pub(crate) fn start(watching: Watching, visitor: impl Visitor) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(EVENTS_MAX);
        let flags = Arc::new(Flags::default());
        let mut doorkeeper = Doorkeeper::new(watching, visitor, sender.clone(), Arc::clone(&flags));
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
struct Doorkeeper<V> {
    roots: Roots,
    rules: Rules,
    poll_interval: Option<Duration>,
    settle: Settle<Signature>,
    signatures: Signatures,
    visitor: V,
    sender: SyncSender<Event>,
    /// Holds at most one answer for each look.
    answers: (Sender<Answered>, Receiver<Answered>),
    flags: Arc<Flags>,
    /// Folders beside whose files something happened.
    glances: BTreeSet<PathBuf>,
    looks: usize,
    rescan_wanted: bool,
    rescanned_at: Option<Instant>,
    roots_at: Instant,
}

impl<V: Visitor> Doorkeeper<V> {
    fn new(watching: Watching, visitor: V, sender: SyncSender<Event>, flags: Arc<Flags>) -> Self {
        let Watching { dirs, rules, poll_interval } = watching;
        let bell = poll_interval.is_none().then(|| Bell::new(sender.clone(), Arc::clone(&flags)));
        Self {
            roots: Roots::new(dirs, bell.flatten()),
            rules,
            poll_interval,
            settle: Settle::new(Waits::default()),
            signatures: Signatures::default(),
            visitor,
            sender,
            answers: channel(),
            flags,
            glances: BTreeSet::new(),
            looks: 0,
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
                self.settle.know(folder, signature);
            }
        }
    }

    fn run(mut self, events: &Receiver<Event>) {
        while !self.flags.stop.load(Ordering::Acquire) {
            self.work(Instant::now());
            match events.recv_timeout(self.wait(Instant::now())) {
                Ok(event) => {
                    self.hear(event);
                    // No more than were there, so that what is due gets its turn.
                    for event in events.try_iter().take(EVENTS_MAX) {
                        self.hear(event);
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
        let settled = self.settle.next_at().filter(|_| self.looks < LOOKS_MAX);
        let rescan = self.rescanned_at.filter(|_| self.rescan_wanted);
        let rescan = rescan.map(|at| at + RESCAN_EVERY);
        let at = [settled, rescan].into_iter().flatten().fold(self.roots_at, Instant::min);
        at.saturating_duration_since(now)
    }

    /// Does what is due.
    fn work(&mut self, now: Instant) {
        while let Ok((folder, answer)) = self.answers.1.try_recv() {
            self.looked(&folder, answer, now);
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
        for folder in std::mem::take(&mut self.glances) {
            self.notice(&folder, Change::Beside, now);
        }
        let room = LOOKS_MAX - self.looks;
        let signatures = &mut self.signatures;
        for (folder, look) in self.settle.take_due(now, room, |folder| signatures.of(folder)) {
            if !self.roots.hold(&folder) {
                // Not a plugin is gone but the place of all: they serve until it is back.
                self.settle.postpone(&folder);
                continue;
            }
            self.looks += 1;
            let (answers, sender) = (self.answers.0.clone(), self.sender.clone());
            let answer = Answer::Done;
            let answerer = Answerer { answers, sender, folder: folder.clone(), answer };
            self.visitor.look(&folder, look, answerer);
        }
    }

    fn looked(&mut self, folder: &Path, answer: Answer, now: Instant) {
        self.looks -= 1;
        self.settle.looked(folder, answer);
        if answer == Answer::Changed {
            for folder in self.visitor.waiting() {
                self.settle.again(&folder, now);
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Touched { path, change } => self.touched(&path, change),
            Event::Missed => self.rescan_wanted = true,
            Event::Woken => {}
        }
    }

    /// Finds the folder that a path belongs to.
    fn touched(&mut self, path: &Path, change: Change) {
        if self.settle.knows(path) {
            // The folder itself: another one may stand there, whose files nobody watches yet.
            let change = if change == Change::Renamed { change } else { Change::Beside };
            self.notice(path, change, Instant::now());
            self.rescan_wanted = true;
            return;
        }
        let mut above = path.ancestors().skip(1);
        if let Some(folder) = above.find(|folder| self.settle.knows(folder)).map(Path::to_owned) {
            if self.signatures.counts(&folder, path) {
                self.notice(&folder, change, Instant::now());
            } else {
                self.glances.insert(folder);
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
                Err(_) => !self.settle.below(path).is_empty(),
            };
    }

    fn notice(&mut self, folder: &Path, change: Change, now: Instant) {
        let signature = self.signatures.of(folder);
        self.settle.notice(folder, change, signature, now);
    }

    /// Watches and looks at everything again.
    fn rescan(&mut self, now: Instant) {
        self.rescan_wanted = false;
        for dir in self.roots.watch() {
            let mut folders = self.settle.below(&dir);
            folders.extend(super::folders(std::slice::from_ref(&dir), &self.rules).0);
            for folder in folders {
                self.notice(&folder, Change::Beside, now);
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
