//! How a pooled call stands with whoever made it: wanted, taken back, or late. Shared by the
//! caller, the clock, and the worker it runs on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How a pooled call stands with whoever made it.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    state: AtomicU8,
    /// The generation whose plugin it is in; zero before and after.
    entered: AtomicU64,
    /// The number of the probe that it is; zero for none.
    probe: AtomicU64,
}

const WANTED: u8 = 0;
const TAKEN_BACK: u8 = 1;
const LATE: u8 = 2;

// Relaxed everywhere: each word stands for itself. Who answers is decided by who takes the
// teller, under its lock.
impl Standing {
    /// Whether somebody waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state.load(Ordering::Relaxed) == WANTED
    }

    /// Whether its deadline passed while it ran.
    pub(crate) fn was_late(&self) -> bool {
        self.state.load(Ordering::Relaxed) == LATE
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
        let _ = self.state.compare_exchange(WANTED, state, success, failure);
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
    }

    /// The generation of the plugin that it is in.
    pub(crate) fn entered(&self) -> Option<u64> {
        Some(self.entered.load(Ordering::Relaxed)).filter(|entered| *entered != 0)
    }
}
