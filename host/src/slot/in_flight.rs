//! The calls that run at once, where the build that serves limits them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Slot;
use super::flags::SlotFlag;
use crate::error::{Error, ErrorKind};
use crate::generation::CallPolicy;

/// Places among the calls that run; given back when dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    policy: Arc<CallPolicy>,
    calls: u32,
}

impl Slot {
    /// Whether calls that run at once are limited.
    #[inline]
    pub(crate) fn limits_in_flight(&self) -> bool {
        self.health.flags.has(SlotFlag::InFlight)
    }

    /// Takes a place among the calls that run of the build that serves.
    pub(crate) fn enter_in_flight(&self) -> Result<Option<InFlightGuard>, Error> {
        match self.enter_many(1) {
            Some(none) if none.calls == 0 => {
                let most = none.policy.max_in_flight.unwrap_or_default();
                let message =
                    format!("is in {most} calls, which is its `limits.in_flight`; call later");
                Err(Error::new(ErrorKind::Overloaded, message).of(&self.name))
            }
            entered => Ok(entered),
        }
    }

    /// Takes as many of `wanted` places as there are; none: nothing limits them.
    pub(crate) fn enter_many(&self, wanted: u32) -> Option<InFlightGuard> {
        let policy = self.policy.load_full()?;
        let most = policy.max_in_flight?;
        let left = |now: u32| most.saturating_sub(now).min(wanted);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let before =
            policy.in_flight.fetch_update(success, failure, |now| now.checked_add(left(now)));
        let calls = before.map_or(0, left);
        Some(InFlightGuard { policy, calls })
    }
}

impl InFlightGuard {
    /// How many there are.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.policy.in_flight.fetch_sub(self.calls, Ordering::Relaxed);
    }
}
