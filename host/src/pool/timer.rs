//! One thread that wakes at moments that others name, and lets them look. It starts with the
//! first such moment; nothing is asked of it at any other time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::panic::catch_panic;
use crate::sync::lock;

/// How soon a look is tried again that failed, and how often a clock that has ended looks
/// whether it is still needed.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// How far ahead a moment is noted.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// Something that looks at itself at certain moments.
pub(crate) trait TimerEntry: Send + Sync {
    /// Looks, and says when to look next.
    fn fire_due(self: Arc<Self>, now: Instant) -> Option<Instant>;
}

/// A clock; its thread ends with it.
#[derive(Debug)]
pub(crate) struct Timer {
    handle: TimerHandle,
}

/// Where moments are named, by whoever may outlive the clock.
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
    /// One moment for each who is timed; told apart by their addresses, which nobody else has as
    /// long as the weak pointer lives.
    entries: BTreeMap<(Instant, usize), Weak<dyn TimerEntry>>,
    due_by_address: HashMap<usize, Instant>,
    thread: Option<JoinHandle<()>>,
    has_ended: bool,
    /// Whether the thread goes on although the clock has ended; none before it knows.
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
    /// Ends the thread, unless somebody still waits to be told of a deadline: then it ends
    /// after that.
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        let mut inner = lock(&shared.inner);
        inner.has_ended = true;
        let thread = inner.thread.take();
        shared.changed.notify_all();
        // The last who holds the host may be the one that is just looked at.
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
    /// Lets `who` look at `when`, or earlier if an earlier moment was named before.
    pub(crate) fn schedule(&self, when: Instant, who: &Arc<dyn TimerEntry>) {
        let mut inner = lock(&self.shared.inner);
        // Not far ahead, so that nothing is kept long for who is gone; who looks early names
        // the next moment.
        let is_next = inner.insert(when.min(Instant::now() + MAX_AHEAD), who);
        if !is_next && inner.thread.is_some() {
            return;
        }
        if inner.thread.is_none() && !inner.has_ended {
            let shared = Arc::clone(&self.shared);
            let named = std::thread::Builder::new().name("hotbay-clock".to_owned());
            match named.spawn(move || shared.run()) {
                Ok(thread) => inner.thread = Some(thread),
                // The next moment that is named tries again.
                Err(error) => tracing::error!(%error, "no thread for deadlines"),
            }
        }
        drop(inner);
        self.shared.changed.notify_all();
    }
}

impl Inner {
    /// Notes a moment; whether it is the next of all.
    fn insert(&mut self, when: Instant, who: &Arc<dyn TimerEntry>) -> bool {
        let key = Arc::as_ptr(who).cast::<()>().addr();
        if let Some(before) = self.due_by_address.get(&key) {
            if *before <= when {
                return false;
            }
            self.entries.remove(&(*before, key));
        }
        self.due_by_address.insert(key, when);
        self.entries.insert((when, key), Arc::downgrade(who));
        self.entries.first_key_value().is_some_and(|(first, _)| *first == (when, key))
    }

    /// The next who is to look by now, or how long until then.
    fn take_due(&mut self, now: Instant) -> Result<Option<Arc<dyn TimerEntry>>, Option<Instant>> {
        let first = self.entries.first_key_value().map(|(first, _)| *first);
        let Some((when, key)) = first else { return Err(None) };
        if when > now {
            return Err(Some(when));
        }
        self.due_by_address.remove(&key);
        Ok(self.entries.remove(&(when, key)).and_then(|who| who.upgrade()))
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
                Ok(who) => {
                    drop(inner);
                    if let Some(who) = who {
                        self.fire(&who);
                    }
                    inner = lock(&self.inner);
                }
                Err(None) => {
                    inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
                Err(Some(when)) => {
                    let left = when.saturating_duration_since(Instant::now());
                    // Nobody tells the clock of a host that has ended who waits no longer.
                    let left = if inner.has_ended { left.min(RETRY_EVERY) } else { left };
                    let waited = self.changed.wait_timeout(inner, left);
                    inner = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Lets all look now who named a moment: some may not wait any more.
    fn fire_all(&self) {
        let all = {
            let mut inner = lock(&self.inner);
            inner.due_by_address.clear();
            std::mem::take(&mut inner.entries)
        };
        for who in all.values().filter_map(Weak::upgrade) {
            self.fire(&who);
        }
    }

    fn fire(&self, who: &Arc<dyn TimerEntry>) {
        let look = || Arc::clone(who).fire_due(Instant::now());
        // Whoever is told of a deadline may have code of the application behind it.
        let next = catch_panic(look).unwrap_or_else(|_| {
            // Whoever looks catches what others may throw; but no deadline is to be lost.
            Some(Instant::now() + RETRY_EVERY)
        });
        if let Some(next) = next {
            lock(&self.inner).insert(next.min(Instant::now() + MAX_AHEAD), who);
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

    struct Looker {
        told: Mutex<mpsc::Sender<Instant>>,
        then: Mutex<Option<Instant>>,
    }

    impl TimerEntry for Looker {
        fn fire_due(self: Arc<Self>, now: Instant) -> Option<Instant> {
            lock(&self.told).send(now).expect("a receiver");
            lock(&self.then).take()
        }
    }

    #[test]
    fn everybody_looks_at_their_moments_and_not_before() {
        let timer = Timer::new();
        let (told, heard) = mpsc::channel();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let looker = |then: Option<Instant>| -> Arc<dyn TimerEntry> {
            Arc::new(Looker { told: Mutex::new(told.clone()), then: Mutex::new(then) })
        };
        let (first, second) = (looker(Some(at(30))), looker(None));
        timer.handle().schedule(at(60_000), &second);
        timer.handle().schedule(at(10), &first);
        timer.handle().schedule(at(20), &second);
        timer.handle().schedule(at(60_000), &second);
        for wanted in [at(10), at(20), at(30)] {
            let looked = heard.recv_timeout(Duration::from_secs(60)).expect("a look");
            assert!(looked >= wanted);
        }
        drop(timer);
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn a_look_that_panics_does_not_end_the_clock_and_the_clock_may_end_in_a_look() {
        struct Panics(Mutex<Option<Timer>>, Mutex<mpsc::Sender<()>>);
        impl TimerEntry for Panics {
            fn fire_due(self: Arc<Self>, _: Instant) -> Option<Instant> {
                lock(&self.1).send(()).expect("a receiver");
                drop(lock(&self.0).take());
                panic!("on purpose");
            }
        }
        let (told, heard) = mpsc::channel();
        let timer = Timer::new();
        let hand = timer.handle();
        let none: Arc<dyn TimerEntry> =
            Arc::new(Panics(Mutex::new(None), Mutex::new(told.clone())));
        let last: Arc<dyn TimerEntry> = Arc::new(Panics(Mutex::new(Some(timer)), Mutex::new(told)));
        hand.schedule(Instant::now(), &none);
        heard.recv_timeout(Duration::from_secs(60)).expect("a look");
        hand.schedule(Instant::now(), &last);
        heard.recv_timeout(Duration::from_secs(60)).expect("a look");
    }
}
