//! The stats of a host at one moment, as plain numbers.

use super::latency::LatencySnapshot;
use crate::id::{GenerationId, PluginName};

/// The stats of a host: see [`Host::stats`](crate::Host::stats).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HostStats {
    /// The loaded plugins, sorted by name.
    pub plugins: Vec<PluginStats>,
    /// Libraries that stay mapped after the unload of their plugins.
    pub kept_libraries: u64,
    /// One call in this many has its duration recorded; 0 if none has.
    pub sampled_one_in: u32,
}

/// The stats of one plugin since it was loaded.
///
/// Counts continue across reloads, and restart when the plugin is unloaded and loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginStats {
    /// The name of the plugin.
    pub name: PluginName,
    /// A number that changes when counts restart.
    pub life: u64,
    /// The current generation.
    pub generation: Option<GenerationId>,
    /// Calls, whatever their outcome.
    pub calls: u64,
    /// Calls that returned an error of the plugin.
    pub errors: u64,
    /// Panics of calls and of the plugin's threads, and unrequested exits of its process.
    pub faults: u64,
    /// Unrequested exits of its process.
    pub exits: u64,
    /// Processes started to replace one that exited.
    pub restarts: u64,
    /// Calls that never reached the plugin.
    pub refused: u64,
    /// Pooled calls that waited longer than `queue_timeout`.
    pub shed: u64,
    /// Pooled calls that exceeded their deadlines.
    pub abandoned: u64,
    /// Lines of its log that were dropped.
    pub log_lines_dropped: u64,
    /// Calls answered from its cache.
    pub cache_hits: u64,
    /// Lookups in its cache without a result.
    pub cache_misses: u64,
    /// Bytes held by its cache.
    pub cache_bytes: u64,
    /// Queued calls.
    pub waiting: u64,
    /// Running calls.
    pub running: u64,
    /// Whether it is quarantined.
    pub is_quarantined: bool,
    /// Allocated bytes; `None` if it does not count them.
    pub live_bytes: Option<i64>,
    /// The id of its process; `None` if it has none or none is running.
    pub pid: Option<u32>,
    /// Durations of the sampled calls.
    pub latencies: Option<LatencySnapshot>,
}

impl PluginStats {
    /// Creates the stats of a plugin without any activity.
    pub fn new(name: PluginName) -> Self {
        Self {
            name,
            life: 0,
            generation: None,
            calls: 0,
            errors: 0,
            faults: 0,
            exits: 0,
            restarts: 0,
            pid: None,
            refused: 0,
            shed: 0,
            abandoned: 0,
            log_lines_dropped: 0,
            cache_hits: 0,
            cache_misses: 0,
            cache_bytes: 0,
            waiting: 0,
            running: 0,
            is_quarantined: false,
            live_bytes: None,
            latencies: None,
        }
    }
}
