//! A thread that fires entries when they are due. It starts with the first entry, and reads the
//! clock at no other time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::panic::catch_panic;
use crate::sync::lock;

/// Delay before an entry that panicked is fired again, and interval at which a stopped timer checks
/// whether it is still needed.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// Maximum time ahead that an entry is scheduled; a later one fires early and reschedules itself.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// An entry that is fired when it is due.
pub(crate) trait TimerEntry: Send + Sync {
    /// Handles what is due, and returns when to fire again.
    fn fire_due(self: Arc<Self>, now: Instant) -> Option<Instant>;
}

/// A timer; dropping it stops its thread.
#[derive(Debug)]
pub(crate) struct Timer {
    handle: TimerHandle,
}

/// A handle to schedule entries, which may outlive the timer.
#[derive(Clone)]
pub(crate) struct TimerHandle {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// One due time for each entry. An entry is identified by its address, which is unique while
    /// the weak pointer lives.
    entries: BTreeMap<(Instant, usize), Weak<dyn TimerEntry>>,
    due_by_address: HashMap<usize, Instant>,
    thread: Option<JoinHandle<()>>,
    has_ended: bool,
    /// Whether the thread continues after the timer was dropped; `None` until it has decided.
    stays: Option<bool>,
}

impl Timer {
    pub(crate) fn new() -> Self {
        let shared = Shared { inner: Mutex::default(), changed: Condvar::new() };
        Self { handle: TimerHandle { shared: Arc::new(shared) } }
    }

    pub(crate) fn handle(&self) -> TimerHandle {
        self.handle.clone()
    }
}

impl Drop for Timer {
    /// Stops the thread, or lets it exit after the last entry that still waits for a deadline.
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        let mut inner = lock(&shared.inner);
        inner.has_ended = true;
        let thread = inner.thread.take();
        shared.changed.notify_all();
        // The entry that is being fired may hold the last handle to the host.
        let this = std::thread::current().id();
        let Some(thread) = thread.filter(|thread| thread.thread().id() != this) else { return };
        let undecided = |inner: &mut Inner| inner.stays.is_none();
        let inner = shared.changed.wait_while(inner, undecided);
        let stays = inner.unwrap_or_else(PoisonError::into_inner).stays;
        if stays == Some(false) {
            let _ = thread.join();
        }
    }
}

impl TimerHandle {
    /// Fires `entry` at `due`, or earlier if it is already scheduled earlier.
    pub(crate) fn schedule(&self, due: Instant, entry: &Arc<dyn TimerEntry>) {
        let mut inner = lock(&self.shared.inner);
        // Not far ahead, so that dropped entries are not kept long; an entry that fires early
        // returns its next due time.
        let is_next = inner.insert(due.min(Instant::now() + MAX_AHEAD), entry);
        if !is_next && inner.thread.is_some() {
            return;
        }
        if inner.thread.is_none() && !inner.has_ended {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name("hotbay-clock".to_owned());
            match builder.spawn(move || shared.run()) {
                Ok(thread) => inner.thread = Some(thread),
                // The next schedule tries again.
                Err(error) => tracing::error!(%error, "cannot start the timer thread"),
            }
        }
        drop(inner);
        self.shared.changed.notify_all();
    }
}

impl Inner {
    /// Inserts an entry. Returns whether it is the next one due.
    fn insert(&mut self, due: Instant, entry: &Arc<dyn TimerEntry>) -> bool {
        let key = Arc::as_ptr(entry).cast::<()>().addr();
        if let Some(before) = self.due_by_address.get(&key) {
            if *before <= due {
                return false;
            }
            self.entries.remove(&(*before, key));
        }
        self.due_by_address.insert(key, due);
        self.entries.insert((due, key), Arc::downgrade(entry));
        self.entries.first_key_value().is_some_and(|(first, _)| *first == (due, key))
    }

    /// Takes the next entry due by `now`. As an error, returns when the next one is due.
    fn take_due(&mut self, now: Instant) -> Result<Option<Arc<dyn TimerEntry>>, Option<Instant>> {
        let first = self.entries.first_key_value().map(|(first, _)| *first);
        let Some((due, key)) = first else { return Err(None) };
        if due > now {
            return Err(Some(due));
        }
        self.due_by_address.remove(&key);
        Ok(self.entries.remove(&(due, key)).and_then(|entry| entry.upgrade()))
    }
}

impl Shared {
    fn run(&self) {
        let mut inner = lock(&self.inner);
        loop {
            if inner.has_ended {
                drop(inner);
                self.fire_all();
                inner = lock(&self.inner);
                let stays = !inner.entries.is_empty();
                inner.stays = Some(stays);
                self.changed.notify_all();
                if !stays {
                    return;
                }
            }
            match inner.take_due(Instant::now()) {
                Ok(entry) => {
                    drop(inner);
                    if let Some(entry) = entry {
                        self.fire(&entry);
                    }
                    inner = lock(&self.inner);
                }
                Err(None) => {
                    inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
                Err(Some(due)) => {
                    let left = due.saturating_duration_since(Instant::now());
                    // After the timer was dropped, nothing wakes this thread when a call ends.
                    let left = if inner.has_ended { left.min(RETRY_EVERY) } else { left };
                    let waited = self.changed.wait_timeout(inner, left);
                    inner = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Fires all entries now: some may no longer be waiting.
    fn fire_all(&self) {
        let all = {
            let mut inner = lock(&self.inner);
            inner.due_by_address.clear();
            std::mem::take(&mut inner.entries)
        };
        for entry in all.values().filter_map(Weak::upgrade) {
            self.fire(&entry);
        }
    }

    fn fire(&self, entry: &Arc<dyn TimerEntry>) {
        let fire = || Arc::clone(entry).fire_due(Instant::now());
        // An entry may run wakers of the application. After a panic it is fired again, so that no
        // deadline is lost.
        let next = catch_panic(fire).unwrap_or_else(|_| Some(Instant::now() + RETRY_EVERY));
        if let Some(next) = next {
            lock(&self.inner).insert(next.min(Instant::now() + MAX_AHEAD), entry);
        }
    }
}

impl fmt::Debug for TimerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct ReportingEntry {
        fired: Mutex<mpsc::Sender<Instant>>,
        next: Mutex<Option<Instant>>,
    }

    impl TimerEntry for ReportingEntry {
        fn fire_due(self: Arc<Self>, now: Instant) -> Option<Instant> {
            lock(&self.fired).send(now).expect("a receiver");
            lock(&self.next).take()
        }
    }

    #[test]
    fn entries_fire_when_due_and_not_before() {
        let timer = Timer::new();
        let (sender, receiver) = mpsc::channel();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let entry = |next: Option<Instant>| -> Arc<dyn TimerEntry> {
            Arc::new(ReportingEntry { fired: Mutex::new(sender.clone()), next: Mutex::new(next) })
        };
        let (first, second) = (entry(Some(at(30))), entry(None));
        timer.handle().schedule(at(60_000), &second);
        timer.handle().schedule(at(10), &first);
        timer.handle().schedule(at(20), &second);
        timer.handle().schedule(at(60_000), &second);
        for due in [at(10), at(20), at(30)] {
            let fired = receiver.recv_timeout(Duration::from_secs(60)).expect("an entry fires");
            assert!(fired >= due);
        }
        drop(timer);
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn entry_may_panic_or_drop_the_timer() {
        struct Panics(Mutex<Option<Timer>>, Mutex<mpsc::Sender<()>>);
        impl TimerEntry for Panics {
            fn fire_due(self: Arc<Self>, _: Instant) -> Option<Instant> {
                lock(&self.1).send(()).expect("a receiver");
                drop(lock(&self.0).take());
                panic!("on purpose");
            }
        }
        let (sender, receiver) = mpsc::channel();
        let timer = Timer::new();
        let handle = timer.handle();
        let none: Arc<dyn TimerEntry> =
            Arc::new(Panics(Mutex::new(None), Mutex::new(sender.clone())));
        let last: Arc<dyn TimerEntry> =
            Arc::new(Panics(Mutex::new(Some(timer)), Mutex::new(sender)));
        handle.schedule(Instant::now(), &none);
        receiver.recv_timeout(Duration::from_secs(60)).expect("an entry fires");
        handle.schedule(Instant::now(), &last);
        receiver.recv_timeout(Duration::from_secs(60)).expect("an entry fires");
    }
}
