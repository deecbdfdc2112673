//! What one plugin may use: what its manifest asks for, within what its host gives.

use crate::config::HostLimits;
use crate::manifest::Limits;

/// The limits of one plugin: its manifest's, within its host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginLimits {
    pub(crate) workers: u32,
    pub(crate) queue: u32,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) stack_bytes: u64,
}

/// What a manifest asks for, within what the host gives; and what was clamped, in words.
pub(crate) fn within(asked: &Limits, host: &HostLimits) -> (PluginLimits, Vec<String>) {
    let mut notes = Vec::new();
    let mut clamp = |field: &str, asked: Option<u64>, given: u64| match asked {
        Some(asked) if asked > given => {
            notes.push(format!("`limits.{field}` is {asked}; this host gives at most {given}"));
            given
        }
        asked => asked.unwrap_or(given),
    };
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let limits = PluginLimits {
        workers: narrow(clamp("workers", asked.workers.map(u64::from), host.workers_max.into())),
        queue: narrow(clamp("queue", asked.queue.map(u64::from), host.queue_max.into())),
        input_bytes: clamp("input_bytes", asked.input_bytes, host.input_bytes_max),
        output_bytes: clamp("output_bytes", asked.output_bytes, host.output_bytes_max),
        stack_bytes: clamp("stack_bytes", asked.stack_bytes, host.stack_bytes_max),
    };
    (limits, notes)
}
