//! The limit on concurrent calls of the current generation.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Slot;
use super::flags::SlotFlag;
use crate::error::{Error, ErrorKind};
use crate::generation::CallPolicy;

/// Slots among the concurrent calls; released on drop.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    policy: Arc<CallPolicy>,
    calls: u32,
}

impl Slot {
    /// Returns whether the number of concurrent calls is limited.
    #[inline]
    pub(crate) fn limits_in_flight(&self) -> bool {
        self.health.flags.has(SlotFlag::InFlight)
    }

    /// Takes a slot for one call of the current generation.
    pub(crate) fn enter_in_flight(&self) -> Result<Option<InFlightGuard>, Error> {
        match self.enter_many(1) {
            Some(none) if none.calls == 0 => {
                let max = none.policy.max_in_flight.unwrap_or_default();
                let message = format!(
                    "was not called: {max} calls are already in flight (`limits.in_flight`)"
                );
                let error = Error::new(ErrorKind::Overloaded, message)
                    .with_hint("raise `limits.in_flight`, or retry later");
                Err(self.with_estimate(error, 1, max).of(&self.name))
            }
            entered => Ok(entered),
        }
    }

    /// Takes up to `wanted` slots; `None` if calls are not limited.
    pub(crate) fn enter_many(&self, wanted: u32) -> Option<InFlightGuard> {
        let policy = self.policy.load_full()?;
        let max = policy.max_in_flight?;
        let left = |now: u32| max.saturating_sub(now).min(wanted);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let before =
            policy.in_flight.fetch_update(success, failure, |now| now.checked_add(left(now)));
        let calls = before.map_or(0, left);
        Some(InFlightGuard { policy, calls })
    }
}

impl InFlightGuard {
    /// Returns the number of slots taken.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.policy.in_flight.fetch_sub(self.calls, Ordering::Relaxed);
    }
}
