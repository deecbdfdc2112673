//! The policy for calls of a generation, from its manifest and its host. Values only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use hotbay_manifest::{Checker, Types};

use crate::sync::after;
use crate::worker::QueueLimits;

/// The policy for calls of one generation.
#[derive(Clone, Debug)]
pub(crate) struct CallPolicy {
    pub(crate) queue: QueueLimits,
    /// Time limit in the queue.
    pub(crate) queue_timeout: Option<Duration>,
    /// Time limit of a pooled call in the manifest.
    pub(crate) max_deadline: Option<Duration>,
    /// Time limit of a pooled call without a deadline, if the manifest has none.
    pub(crate) default_deadline: Option<Duration>,
    /// Maximum of concurrent calls.
    pub(crate) max_in_flight: Option<u32>,
    /// Number of concurrent calls, if they are limited.
    pub(crate) in_flight: Arc<AtomicU32>,
    pub(crate) max_memory_bytes: Option<u64>,
    pub(crate) max_input_bytes: u64,
    /// Operations that the plugin is permitted to do.
    pub(crate) permissions: BTreeSet<String>,
    /// Permissions that its manifest requests and the application does not grant.
    pub(crate) withheld: BTreeSet<String>,
    /// Schema of all inputs.
    pub(crate) input_schema: Option<Arc<Checker>>,
    /// Schemas of inputs that name their type.
    pub(crate) types: Arc<Types>,
}

impl CallPolicy {
    /// Returns whether inputs are validated against a schema.
    pub(crate) fn checks_input(&self) -> bool {
        self.input_schema.is_some() || !self.types.is_empty()
    }

    /// Returns whether a pooled call with this deadline must read the clock.
    pub(crate) fn needs_clock(&self, deadline: Option<Instant>) -> bool {
        self.queue_timeout.is_some()
            || self.max_deadline.is_some()
            || (deadline.is_none() && self.default_deadline.is_some())
    }

    /// Returns whether neither duration nor number of concurrent calls is limited.
    pub(crate) fn is_unbounded(&self) -> bool {
        let deadline = self.max_deadline.or(self.default_deadline);
        deadline.is_none() && self.max_in_flight.is_none()
    }

    /// Returns the time limit of each call of a batch, if the caller requests `timeout`.
    pub(crate) fn timeout(&self, timeout: Option<Duration>) -> Option<Duration> {
        timeout.into_iter().chain(self.max_deadline).min().or(self.default_deadline)
    }

    /// Returns the deadline of a call made at `now`, if the caller requests `deadline`.
    pub(crate) fn deadline(&self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        let max = self.max_deadline.map(|max| after(now, max));
        let default = || Some(after(now, self.default_deadline?));
        match (deadline, max) {
            (Some(deadline), Some(max)) => Some(deadline.min(max)),
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_bounded_by_manifest_and_defaults_without_request() {
        let now = Instant::now();
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let check = |requested: Option<u64>, max, default, expected: Option<u64>| {
            let queue = QueueLimits { max_queued: 1, max_waiting_for_space: 0, max_replaced: 0 };
            let policy = CallPolicy {
                queue,
                queue_timeout: None,
                max_deadline: seconds(max),
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
            assert_eq!(policy.deadline(now, at(requested)), at(expected));
            if at(expected) != at(requested) {
                assert!(policy.needs_clock(at(requested)));
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
