//! The state of a pooled call: active, cancelled, or timed out. Shared by caller, timer and worker.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;

/// The state of a pooled call.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    state: AtomicU8,
    /// The generation whose plugin runs the call, if [`ENTERED`] is set.
    generation: AtomicU64,
    /// Its number as a probe; zero if it is not a probe.
    probe: AtomicU64,
    /// Whether its timeout was counted.
    is_timeout_counted: AtomicBool,
    /// Wakes the future that waits until it is no longer active.
    cancel_notify: Notify,
}

const ACTIVE: u8 = 0;
const CANCELLED: u8 = 1;
const TIMED_OUT: u8 = 2;
/// A flag beside one of those: a future waits until it is no longer active, or did.
const AWAITED: u8 = 4;
/// A flag beside one of those: it has reached the plugin.
const REACHED: u8 = 8;
/// A flag beside one of those: the plugin runs it.
const ENTERED: u8 = 16;
const FLAGS: u8 = AWAITED | REACHED | ENTERED;

/// A call that a plugin runs, until this is dropped.
#[must_use]
pub(crate) struct Entered<'s>(Option<&'s CallState>);

impl<'s> Entered<'s> {
    /// Records that the plugin of `generation` runs the call. `None` if it has ended, and must not
    /// run.
    #[inline]
    pub(crate) fn new(state: Option<&'s CallState>, generation: u64) -> Option<Self> {
        state.is_none_or(|state| state.enter_plugin(generation)).then(|| Self(state))
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            state.leave_plugin();
        }
    }
}

// The sender's lock decides who completes the call. The flags are bits of the state's own word:
// `ended` and `end` see each other, and a call that ended before it reached the plugin never
// reaches it. `enter_plugin` releases and `end` acquires, so that a timer that ends a call which has
// reached the plugin sees its generation. The lock of `Notify` orders the rest, and all else is relaxed.
impl CallState {
    /// Returns whether the caller waits for the result.
    pub(crate) fn is_active(&self) -> bool {
        self.load() == ACTIVE
    }

    /// Returns whether its deadline passed while it ran.
    pub(crate) fn timed_out(&self) -> bool {
        self.load() == TIMED_OUT
    }

    fn load(&self) -> u8 {
        self.state.load(Ordering::Relaxed) & !FLAGS
    }

    /// Waits until it is no longer active.
    pub(crate) async fn ended(&self) {
        let mut notified = pin!(self.cancel_notify.notified());
        notified.as_mut().enable();
        self.state.fetch_or(AWAITED, Ordering::Relaxed);
        if self.is_active() {
            notified.await;
        }
    }

    /// Records that the caller cancelled it.
    pub(crate) fn cancel(&self) {
        self.end(CANCELLED);
    }

    /// Records that its deadline passed.
    pub(crate) fn time_out(&self) {
        self.end(TIMED_OUT);
    }

    fn end(&self, state: u8) {
        let is_active = |word: u8| word & !FLAGS == ACTIVE;
        let end = |word| is_active(word).then_some(word | state);
        let ended = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, end);
        if ended.is_ok_and(|before| before & AWAITED != 0) {
            self.cancel_notify.notify_waiters();
        }
    }

    /// Returns true once: timer and worker can both notice a timeout, and one of them counts it.
    pub(crate) fn count_timeout_once(&self) -> bool {
        !self.is_timeout_counted.swap(true, Ordering::Relaxed)
    }

    /// Records its number as a probe.
    pub(crate) fn mark_probe(&self, number: u64) {
        self.probe.store(number, Ordering::Relaxed);
    }

    /// Returns its number, if it is a probe.
    pub(crate) fn probe(&self) -> Option<u64> {
        Some(self.probe.load(Ordering::Relaxed)).filter(|probe| *probe != 0)
    }

    /// Records that the plugin of `generation` runs it from here on. Returns false if it has ended,
    /// and must not run.
    #[must_use]
    fn enter_plugin(&self, generation: u64) -> bool {
        // A timeout may still be counted for the generation that ran it before.
        if !self.is_active() {
            return false;
        }
        self.generation.store(generation, Ordering::Relaxed);
        let enter = |word| (word & !FLAGS == ACTIVE).then_some(word | REACHED | ENTERED);
        self.state.fetch_update(Ordering::Release, Ordering::Relaxed, enter).is_ok()
    }

    /// Returns whether it has reached the plugin, which may have returned.
    pub(crate) fn has_reached_plugin(&self) -> bool {
        self.state.load(Ordering::Relaxed) & REACHED != 0
    }

    /// Records that the plugin no longer runs it. After its deadline, it stays entered: the timeout
    /// may not have been counted yet.
    fn leave_plugin(&self) {
        let leave = |word| (word & !FLAGS != TIMED_OUT).then_some(word & !ENTERED);
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, leave);
    }

    /// Prepares the state for the next call of a batch.
    pub(crate) fn reset(&self) {
        self.state.fetch_and(!(REACHED | ENTERED), Ordering::Relaxed);
        self.mark_probe(0);
        self.is_timeout_counted.store(false, Ordering::Relaxed);
    }

    /// Returns the generation whose plugin runs it.
    pub(crate) fn entered(&self) -> Option<u64> {
        let is_entered = self.state.load(Ordering::Relaxed) & ENTERED != 0;
        is_entered.then(|| self.generation.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn ended_call_never_seems_to_reach_plugin() {
        let state = CallState::default();
        state.cancel();
        thread::scope(|scope| {
            let worker = scope.spawn(|| (0..200_000).any(|_| state.enter_plugin(1)));
            while !worker.is_finished() {
                assert!(!state.has_reached_plugin() && state.entered().is_none());
            }
            assert!(!worker.join().expect("the worker"));
        });
    }

    #[test]
    fn call_may_enter_plugin_twice() {
        let state = CallState::default();
        for generation in 1..3 {
            let entered = Entered::new(Some(&state), generation).expect("it is active");
            assert_eq!(state.entered(), Some(generation));
            drop(entered);
            assert_eq!((state.entered(), state.has_reached_plugin()), (None, true));
        }
        state.time_out();
        assert!(Entered::new(Some(&state), 3).is_none() && state.timed_out());
        assert_eq!((state.entered(), state.has_reached_plugin()), (None, true));
        assert!(Entered::new(None, 3).is_some());
    }

    #[test]
    fn call_that_times_out_in_the_plugin_stays_entered() {
        let state = CallState::default();
        let entered = Entered::new(Some(&state), 7).expect("it is active");
        state.time_out();
        assert!(Entered::new(Some(&state), 8).is_none());
        drop(entered);
        assert_eq!(state.entered(), Some(7));
        state.reset();
        assert_eq!(state.entered(), None);
    }
}
