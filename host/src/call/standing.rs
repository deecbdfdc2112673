//! How a pooled call stands with whoever made it: wanted, taken back, or late. Shared by the
//! caller, the clock, and the worker it runs on.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;

/// How a pooled call stands with whoever made it.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    state: AtomicU8,
    /// The generation whose plugin it is in; zero before and after.
    entered: AtomicU64,
    /// The number of the probe that it is; zero for none.
    probe: AtomicU64,
    /// Whether its missed deadline was counted.
    is_lateness_counted: AtomicBool,
    /// Wakes the task that it runs as when it is not wanted any more.
    left: Notify,
}

const WANTED: u8 = 0;
const TAKEN_BACK: u8 = 1;
const LATE: u8 = 2;
/// Beside one of those: it runs as a task, or did.
const AS_TASK: u8 = 4;

// Relaxed everywhere: each word stands for itself. Who answers is decided by who takes the
// teller, under its lock. That a call runs as a task stands in the word that it is left by, so
// that one of both sees the other; the lock in `left` orders the rest.
impl Standing {
    /// Whether somebody waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.stands() == WANTED
    }

    /// Whether its deadline passed while it ran.
    pub(crate) fn was_late(&self) -> bool {
        self.stands() == LATE
    }

    fn stands(&self) -> u8 {
        self.state.load(Ordering::Relaxed) & !AS_TASK
    }

    /// It runs as a task from here on, which waits for [`left`](Self::left).
    pub(crate) fn run_as_task(&self) {
        self.state.fetch_or(AS_TASK, Ordering::Relaxed);
    }

    /// Waits until nobody wants the answer any more. Only for what
    /// [runs as a task](Self::run_as_task).
    pub(crate) async fn left(&self) {
        let mut left = pin!(self.left.notified());
        left.as_mut().enable();
        if self.is_wanted() {
            left.await;
        }
    }

    /// The caller does not want the answer any more.
    pub(crate) fn take_back(&self) {
        self.leave(TAKEN_BACK);
    }

    /// The deadline has passed.
    pub(crate) fn be_late(&self) {
        self.leave(LATE);
    }

    fn leave(&self, state: u8) {
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let leaves = self.state.compare_exchange(WANTED, state, success, failure);
        let (before, after) = (WANTED | AS_TASK, state | AS_TASK);
        if leaves == Err(before)
            && self.state.compare_exchange(before, after, success, failure).is_ok()
        {
            self.left.notify_waiters();
        }
    }

    /// Whether the caller of this counts the missed deadline: the first of the clock and the
    /// worker, which can see it at the same time.
    pub(crate) fn counts_lateness(&self) -> bool {
        !self.is_lateness_counted.swap(true, Ordering::Relaxed)
    }

    /// It is the probe of this number.
    pub(crate) fn be_probe(&self, number: u64) {
        self.probe.store(number, Ordering::Relaxed);
    }

    /// The number of the probe that it is.
    pub(crate) fn probe(&self) -> Option<u64> {
        Some(self.probe.load(Ordering::Relaxed)).filter(|probe| *probe != 0)
    }

    /// A plugin is entered; none of it is the plugin's before.
    pub(crate) fn enter(&self, generation: u64) {
        self.entered.store(generation, Ordering::Relaxed);
    }

    /// The plugin was left; what comes now is not the plugin's.
    pub(crate) fn leave_plugin(&self) {
        self.entered.store(0, Ordering::Relaxed);
    }

    /// The next call begins under the same standing.
    pub(crate) fn begin(&self) {
        self.leave_plugin();
        self.be_probe(0);
        self.is_lateness_counted.store(false, Ordering::Relaxed);
    }

    /// The generation of the plugin that it is in.
    pub(crate) fn entered(&self) -> Option<u64> {
        Some(self.entered.load(Ordering::Relaxed)).filter(|entered| *entered != 0)
    }
}
