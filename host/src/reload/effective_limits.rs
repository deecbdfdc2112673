//! What one plugin may use: what its manifest asks for, within what its host gives.

use std::time::Duration;

use crate::config::HostLimits;
use crate::manifest::{Kind, Limits};

/// The limits of one plugin: its manifest's, within its host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginLimits {
    pub(crate) workers: u32,
    pub(crate) queue: u32,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) stack_bytes: u64,
    pub(crate) in_flight: Option<u32>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) deadline: Option<Duration>,
}

/// The system's loader and the checks around a start run on a plugin's stack too.
const STACK_BYTES_MIN: u64 = 256 << 10;

/// What a manifest asks for, within what the host gives; and what was clamped, in words.
pub(crate) fn within(asked: &Limits, kind: Kind, host: &HostLimits) -> (PluginLimits, Vec<String>) {
    // Calls of a process need no threads, but places.
    let max_workers = match kind {
        Kind::Library => host.max_workers,
        Kind::Process => host.max_process_calls,
    };
    let mut notes = Vec::new();
    let mut clamp = |field: &str, asked: Option<u64>, least: u64, most: u64| {
        let most = most.max(least);
        let Some(asked) = asked else { return most };
        let given = asked.clamp(least, most);
        if given != asked {
            let end = if given < asked { "most" } else { "least" };
            notes.push(format!("`limits.{field}` is {asked}; this host gives at {end} {given}"));
        }
        given
    };
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let workers = clamp("workers", asked.workers.map(u64::from), 1, max_workers.into());
    let queue = clamp("queue", asked.queue.map(u64::from), 1, host.max_queued_calls.into());
    let max_stack_bytes = host.max_stack_bytes;
    let input_bytes = clamp("input_bytes", asked.input_bytes, 0, host.max_input_bytes);
    let output_bytes = clamp("output_bytes", asked.output_bytes, 0, host.max_output_bytes);
    let stack_bytes = clamp("stack_bytes", asked.stack_bytes, STACK_BYTES_MIN, max_stack_bytes);
    // None is no limit, which is the most there is.
    let mut clamp_open = |field: &str, asked: Option<u64>, most: Option<u64>| {
        let given = clamp(field, asked, 1, most.unwrap_or(u64::MAX));
        (asked.is_some() || most.is_some()).then_some(given)
    };
    let max_in_flight = host.max_in_flight.map(u64::from);
    let in_flight = clamp_open("in_flight", asked.in_flight.map(u64::from), max_in_flight);
    let in_flight = in_flight.map(narrow);
    let memory_bytes = clamp_open("memory_bytes", asked.memory_bytes, host.max_memory_bytes);
    let limits = PluginLimits {
        // More workers than calls that may run would only stand in each other's way.
        workers: narrow(workers).min(in_flight.unwrap_or(u32::MAX)),
        queue: narrow(queue),
        input_bytes,
        output_bytes,
        stack_bytes,
        in_flight,
        memory_bytes,
        deadline: asked.deadline_ms.map(Duration::from_millis),
    };
    (limits, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_given_within_the_limits_and_the_rest_is_told() {
        let host = HostLimits { max_queued_calls: 100, ..HostLimits::default() };
        let asked = Limits {
            queue: Some(1000),
            input_bytes: Some(7),
            stack_bytes: Some(1),
            ..Limits::default()
        };
        let (limits, notes) = within(&asked, Kind::Library, &host);
        assert_eq!((limits.queue, limits.input_bytes), (100, 7));
        assert_eq!(limits.stack_bytes, STACK_BYTES_MIN);
        assert_eq!(
            notes,
            [
                "`limits.queue` is 1000; this host gives at most 100",
                "`limits.stack_bytes` is 1; this host gives at least 262144",
            ]
        );
    }
}
