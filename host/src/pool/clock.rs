//! One thread that wakes at moments that others name, and lets them look. It starts with the
//! first such moment; nothing is asked of it at any other time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::quiet::caught;
use crate::sync::lock;

/// How soon a look is tried again that failed, and how often a clock that has ended looks
/// whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How far ahead a moment is noted.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// Something that looks at itself at certain moments.
pub(crate) trait Timed: Send + Sync {
    /// Looks, and says when to look next.
    fn look(self: Arc<Self>, now: Instant) -> Option<Instant>;
}

/// A clock; its thread ends with it.
#[derive(Debug)]
pub(crate) struct Clock {
    hand: Hand,
}

/// Where moments are named, by whoever may outlive the clock.
#[derive(Clone)]
pub(crate) struct Hand {
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
    moments: BTreeMap<(Instant, usize), Weak<dyn Timed>>,
    of: HashMap<usize, Instant>,
    thread: Option<JoinHandle<()>>,
    has_ended: bool,
    /// Whether the thread goes on although the clock has ended; none before it knows.
    stays: Option<bool>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let shared = Shared { inner: Mutex::default(), changed: Condvar::new() };
        Self { hand: Hand { shared: Arc::new(shared) } }
    }

    pub(crate) fn hand(&self) -> Hand {
        self.hand.clone()
    }
}

impl Drop for Clock {
    /// Ends the thread, unless somebody still waits to be told of a deadline: then it ends
    /// after that.
    fn drop(&mut self) {
        let shared = &self.hand.shared;
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

impl Hand {
    /// Lets `who` look at `when`, or earlier if an earlier moment was named before.
    pub(crate) fn look_at(&self, when: Instant, who: &Arc<dyn Timed>) {
        let mut inner = lock(&self.shared.inner);
        // Not far ahead, so that nothing is kept long for who is gone; who looks early names
        // the next moment.
        let is_next = inner.name(when.min(Instant::now() + AHEAD_MAX), who);
        if !is_next && inner.thread.is_some() {
            return;
        }
        if inner.thread.is_none() && !inner.has_ended {
            let shared = Arc::clone(&self.shared);
            let named = std::thread::Builder::new().name("hotbay-clock".to_owned());
            match named.spawn(move || shared.tick()) {
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
    fn name(&mut self, when: Instant, who: &Arc<dyn Timed>) -> bool {
        let key = Arc::as_ptr(who).cast::<()>().addr();
        if let Some(before) = self.of.get(&key) {
            if *before <= when {
                return false;
            }
            self.moments.remove(&(*before, key));
        }
        self.of.insert(key, when);
        self.moments.insert((when, key), Arc::downgrade(who));
        self.moments.first_key_value().is_some_and(|(first, _)| *first == (when, key))
    }

    /// The next who is to look by now, or how long until then.
    fn due(&mut self, now: Instant) -> Result<Option<Arc<dyn Timed>>, Option<Instant>> {
        let first = self.moments.first_key_value().map(|(first, _)| *first);
        let Some((when, key)) = first else { return Err(None) };
        if when > now {
            return Err(Some(when));
        }
        self.of.remove(&key);
        Ok(self.moments.remove(&(when, key)).and_then(|who| who.upgrade()))
    }
}

impl Shared {
    fn tick(&self) {
        let mut inner = lock(&self.inner);
        loop {
            if inner.has_ended {
                drop(inner);
                self.let_all_look();
                inner = lock(&self.inner);
                let stays = !inner.moments.is_empty();
                inner.stays = Some(stays);
                self.changed.notify_all();
                if !stays {
                    return;
                }
            }
            match inner.due(Instant::now()) {
                Ok(who) => {
                    drop(inner);
                    if let Some(who) = who {
                        self.let_look(&who);
                    }
                    inner = lock(&self.inner);
                }
                Err(None) => {
                    inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
                Err(Some(when)) => {
                    let left = when.saturating_duration_since(Instant::now());
                    // Nobody tells the clock of a host that has ended who waits no longer.
                    let left = if inner.has_ended { left.min(LOOK_EVERY) } else { left };
                    let waited = self.changed.wait_timeout(inner, left);
                    inner = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Lets all look now who named a moment: some may not wait any more.
    fn let_all_look(&self) {
        let all = {
            let mut inner = lock(&self.inner);
            inner.of.clear();
            std::mem::take(&mut inner.moments)
        };
        for who in all.values().filter_map(Weak::upgrade) {
            self.let_look(&who);
        }
    }

    fn let_look(&self, who: &Arc<dyn Timed>) {
        let look = || Arc::clone(who).look(Instant::now());
        // Whoever is told of a deadline may have code of the application behind it.
        let next = caught(look).unwrap_or_else(|_| {
            // Whoever looks catches what others may throw; but no deadline is to be lost.
            Some(Instant::now() + LOOK_EVERY)
        });
        if let Some(next) = next {
            lock(&self.inner).name(next.min(Instant::now() + AHEAD_MAX), who);
        }
    }
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hand").finish_non_exhaustive()
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

    impl Timed for Looker {
        fn look(self: Arc<Self>, now: Instant) -> Option<Instant> {
            lock(&self.told).send(now).expect("a receiver");
            lock(&self.then).take()
        }
    }

    #[test]
    fn everybody_looks_at_their_moments_and_not_before() {
        let clock = Clock::new();
        let (told, heard) = mpsc::channel();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let looker = |then: Option<Instant>| -> Arc<dyn Timed> {
            Arc::new(Looker { told: Mutex::new(told.clone()), then: Mutex::new(then) })
        };
        let (first, second) = (looker(Some(at(30))), looker(None));
        clock.hand().look_at(at(60_000), &second);
        clock.hand().look_at(at(10), &first);
        clock.hand().look_at(at(20), &second);
        clock.hand().look_at(at(60_000), &second);
        for wanted in [at(10), at(20), at(30)] {
            let looked = heard.recv_timeout(Duration::from_secs(60)).expect("a look");
            assert!(looked >= wanted);
        }
        drop(clock);
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn a_look_that_panics_does_not_end_the_clock_and_the_clock_may_end_in_a_look() {
        struct Panics(Mutex<Option<Clock>>, Mutex<mpsc::Sender<()>>);
        impl Timed for Panics {
            fn look(self: Arc<Self>, _: Instant) -> Option<Instant> {
                lock(&self.1).send(()).expect("a receiver");
                drop(lock(&self.0).take());
                panic!("on purpose");
            }
        }
        let (told, heard) = mpsc::channel();
        let clock = Clock::new();
        let hand = clock.hand();
        let none: Arc<dyn Timed> = Arc::new(Panics(Mutex::new(None), Mutex::new(told.clone())));
        let last: Arc<dyn Timed> = Arc::new(Panics(Mutex::new(Some(clock)), Mutex::new(told)));
        hand.look_at(Instant::now(), &none);
        heard.recv_timeout(Duration::from_secs(60)).expect("a look");
        hand.look_at(Instant::now(), &last);
        heard.recv_timeout(Duration::from_secs(60)).expect("a look");
    }
}
