//! What calls of a generation go by, as its manifest and its host want it. Values only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use crate::manifest::{Checker, Types};
use crate::pool::QueueLimits;
use crate::sync::after;

/// What calls of one generation go by.
#[derive(Clone, Debug)]
pub(crate) struct CallPolicy {
    pub(crate) queue: QueueLimits,
    /// How long a pooled call may wait before it is not worth beginning.
    pub(crate) queue_timeout: Option<Duration>,
    /// How long a pooled call may take, as the manifest says.
    pub(crate) deadline_max: Option<Duration>,
    /// How long one may take that says nothing, if the manifest does not either.
    pub(crate) default_deadline: Option<Duration>,
    /// Calls that may run at once.
    pub(crate) max_in_flight: Option<u32>,
    /// Those that run, where they are limited.
    pub(crate) in_flight: Arc<AtomicU32>,
    pub(crate) max_memory_bytes: Option<u64>,
    pub(crate) max_input_bytes: u64,
    /// What the plugin may do and may be asked to do.
    pub(crate) permissions: BTreeSet<String>,
    /// What its manifest asks for besides, and the application does not grant.
    pub(crate) withheld: BTreeSet<String>,
    /// What the input of each call has to fit.
    pub(crate) input_schema: Option<Arc<Checker>>,
    /// What inputs have to fit that say of what type they are.
    pub(crate) types: Arc<Types>,
}

impl CallPolicy {
    /// Whether inputs have to fit anything.
    pub(crate) fn checks_input(&self) -> bool {
        self.input_schema.is_some() || !self.types.is_empty()
    }

    /// Whether a pooled call has to know the time.
    pub(crate) fn needs_clock(&self, deadline: Option<Instant>) -> bool {
        self.queue_timeout.is_some()
            || self.deadline_max.is_some()
            || (deadline.is_none() && self.default_deadline.is_some())
    }

    /// Whether calls may take as long as they like, and as many as there are may run at once.
    pub(crate) fn is_unbounded(&self) -> bool {
        let deadline = self.deadline_max.or(self.default_deadline);
        deadline.is_none() && self.max_in_flight.is_none()
    }

    /// How long each of many calls may take that may take `asked`.
    pub(crate) fn timeout(&self, args: Option<Duration>) -> Option<Duration> {
        args.into_iter().chain(self.deadline_max).min().or(self.default_deadline)
    }

    /// Until when the answer of a call is waited for that is made `now`, and wants `asked`.
    pub(crate) fn deadline(&self, now: Instant, args: Option<Instant>) -> Option<Instant> {
        let most = self.deadline_max.map(|most| after(now, most));
        let default = || Some(after(now, self.default_deadline?));
        match (args, most) {
            (Some(args), Some(most)) => Some(args.min(most)),
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_bounds_what_the_caller_asks_for_and_the_default_is_for_who_asks_nothing() {
        let now = Instant::now();
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let check = |args: Option<u64>, most, default, wanted: Option<u64>| {
            let queue = QueueLimits { max_queued: 1, max_waiting_for_space: 0, max_replaced: 0 };
            let policy = CallPolicy {
                queue,
                queue_timeout: None,
                deadline_max: seconds(most),
                default_deadline: seconds(default),
                max_in_flight: None,
                in_flight: Arc::default(),
                max_memory_bytes: None,
                max_input_bytes: 0,
                permissions: BTreeSet::new(),
                withheld: BTreeSet::new(),
                input_schema: None,
                types: Arc::default(),
            };
            let at = |seconds: Option<u64>| Some(now + Duration::from_secs(seconds?));
            assert_eq!(policy.deadline(now, at(args)), at(wanted));
            if at(wanted) != at(args) {
                assert!(policy.needs_clock(at(args)));
            }
        };
        check(None, None, None, None);
        check(None, None, Some(5), Some(5));
        check(None, Some(3), Some(5), Some(3));
        check(Some(9), None, Some(5), Some(9));
        check(Some(9), Some(3), Some(5), Some(3));
        check(Some(1), Some(3), Some(5), Some(1));
    }
}
