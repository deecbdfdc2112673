//! How a pooled call stands with whoever made it: wanted, taken back, or late. Shared by the
//! caller, the clock, and the worker it runs on.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;

/// How a pooled call stands with whoever made it.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    state: AtomicU8,
    /// The generation whose plugin it is in; zero before and after.
    entered: AtomicU64,
    /// The number of the probe that it is; zero for none.
    probe: AtomicU64,
    /// Whether its missed deadline was counted.
    is_timeout_counted: AtomicBool,
    /// Wakes the task that it runs as when it is not wanted any more.
    cancel_notify: Notify,
}

const ACTIVE: u8 = 0;
const CANCELLED: u8 = 1;
const TIMED_OUT: u8 = 2;
/// Beside one of those: it runs as a task, or did.
const ASYNC: u8 = 4;

// Relaxed everywhere: each word stands for itself. Who answers is decided by who takes the
// teller, under its lock. That a call runs as a task stands in the word that it is left by, so
// that one of both sees the other; the lock in `left` orders the rest.
impl CallState {
    /// Whether somebody waits for the answer.
    pub(crate) fn is_active(&self) -> bool {
        self.load() == ACTIVE
    }

    /// Whether its deadline passed while it ran.
    pub(crate) fn timed_out(&self) -> bool {
        self.load() == TIMED_OUT
    }

    fn load(&self) -> u8 {
        self.state.load(Ordering::Relaxed) & !ASYNC
    }

    /// It runs as a task from here on, which waits for [`cancelled`](Self::cancelled).
    pub(crate) fn mark_async(&self) {
        self.state.fetch_or(ASYNC, Ordering::Relaxed);
    }

    /// Waits until nobody wants the answer any more. Only for what
    /// [runs as a task](Self::mark_async).
    pub(crate) async fn cancelled(&self) {
        let mut left = pin!(self.cancel_notify.notified());
        left.as_mut().enable();
        if self.is_active() {
            left.await;
        }
    }

    /// The caller does not want the answer any more.
    pub(crate) fn cancel(&self) {
        self.end(CANCELLED);
    }

    /// The deadline has passed.
    pub(crate) fn time_out(&self) {
        self.end(TIMED_OUT);
    }

    fn end(&self, state: u8) {
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let leaves = self.state.compare_exchange(ACTIVE, state, success, failure);
        let (before, after) = (ACTIVE | ASYNC, state | ASYNC);
        if leaves == Err(before)
            && self.state.compare_exchange(before, after, success, failure).is_ok()
        {
            self.cancel_notify.notify_waiters();
        }
    }

    /// Whether the caller of this counts the missed deadline: the first of the clock and the
    /// worker, which can see it at the same time.
    pub(crate) fn count_timeout_once(&self) -> bool {
        !self.is_timeout_counted.swap(true, Ordering::Relaxed)
    }

    /// It is the probe of this number.
    pub(crate) fn mark_probe(&self, number: u64) {
        self.probe.store(number, Ordering::Relaxed);
    }

    /// The number of the probe that it is.
    pub(crate) fn probe(&self) -> Option<u64> {
        Some(self.probe.load(Ordering::Relaxed)).filter(|probe| *probe != 0)
    }

    /// A plugin is entered; none of it is the plugin's before.
    pub(crate) fn enter_plugin(&self, generation: u64) {
        self.entered.store(generation, Ordering::Relaxed);
    }

    /// The plugin was left; what comes now is not the plugin's.
    pub(crate) fn leave_plugin(&self) {
        self.entered.store(0, Ordering::Relaxed);
    }

    /// The next call begins under the same standing.
    pub(crate) fn reset(&self) {
        self.leave_plugin();
        self.mark_probe(0);
        self.is_timeout_counted.store(false, Ordering::Relaxed);
    }

    /// The generation of the plugin that it is in.
    pub(crate) fn entered(&self) -> Option<u64> {
        Some(self.entered.load(Ordering::Relaxed)).filter(|entered| *entered != 0)
    }
}
