//! The limits of one plugin: those that its manifest requests, bounded by the host's.

use std::time::Duration;

use hotbay_manifest::{Kind, Limits};

use crate::config::HostLimits;

/// The limits of one plugin.
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

/// The dynamic loader and the checks of a start also run on a plugin's stack.
const MIN_STACK_BYTES: u64 = 256 << 10;

/// Bounds the requested limits by the host's; also returns notes about changed limits.
pub(crate) fn effective_limits(
    requested: &Limits,
    kind: Kind,
    host: &HostLimits,
) -> (PluginLimits, Vec<String>) {
    // Calls to a process need no threads.
    let max_workers = match kind {
        Kind::Library => host.max_workers,
        Kind::Process => host.max_process_calls,
    };
    let mut notes = Vec::new();
    let mut clamp = |field: &str, requested: Option<u64>, min: u64, max: u64| {
        let max = max.max(min);
        let Some(requested) = requested else { return max };
        let effective = requested.clamp(min, max);
        if effective != requested {
            let allowed =
                if effective < requested { "allows at most" } else { "requires at least" };
            notes.push(format!("`limits.{field}` is {requested}; this host {allowed} {effective}"));
        }
        effective
    };
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let workers = clamp("workers", requested.workers.map(u64::from), 1, max_workers.into());
    let queue = clamp("queue", requested.queue.map(u64::from), 1, host.max_queued_calls.into());
    let max_stack_bytes = host.max_stack_bytes;
    let input_bytes = clamp("input_bytes", requested.input_bytes, 0, host.max_input_bytes);
    let output_bytes = clamp("output_bytes", requested.output_bytes, 0, host.max_output_bytes);
    let stack_bytes = clamp("stack_bytes", requested.stack_bytes, MIN_STACK_BYTES, max_stack_bytes);
    // `None` means no limit.
    let mut clamp_open = |field: &str, requested: Option<u64>, max: Option<u64>| {
        let effective = clamp(field, requested, 1, max.unwrap_or(u64::MAX));
        (requested.is_some() || max.is_some()).then_some(effective)
    };
    let max_in_flight = host.max_in_flight.map(u64::from);
    let in_flight = clamp_open("in_flight", requested.in_flight.map(u64::from), max_in_flight);
    let in_flight = in_flight.map(narrow);
    let memory_bytes = clamp_open("memory_bytes", requested.memory_bytes, host.max_memory_bytes);
    let limits = PluginLimits {
        // More workers than concurrent calls would be idle.
        workers: narrow(workers).min(in_flight.unwrap_or(u32::MAX)),
        queue: narrow(queue),
        input_bytes,
        output_bytes,
        stack_bytes,
        in_flight,
        memory_bytes,
        deadline: requested.deadline,
    };
    (limits, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requested_limits_are_bounded_and_changes_noted() {
        let host = HostLimits { max_queued_calls: 100, ..HostLimits::default() };
        let requested = Limits::default()
            .with_queue(Some(1000))
            .with_input_bytes(Some(7))
            .with_stack_bytes(Some(1));
        let (limits, notes) = effective_limits(&requested, Kind::Library, &host);
        assert_eq!((limits.queue, limits.input_bytes), (100, 7));
        assert_eq!(limits.stack_bytes, MIN_STACK_BYTES);
        assert_eq!(
            notes,
            [
                "`limits.queue` is 1000; this host allows at most 100",
                "`limits.stack_bytes` is 1; this host requires at least 262144",
            ]
        );
    }
}
