//! The figures of a host at one moment, as plain numbers. Filled by the host, read by whoever
//! exports them; nothing here counts.

use super::latency::LatencySnapshot;
use crate::id::{GenerationId, PluginName};

/// What a host has done and is doing, see [`Host::figures`](crate::Host::stats).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HostStats {
    /// The plugins that serve, sorted by name.
    pub plugins: Vec<PluginStats>,
    /// Libraries that stay mapped although their plugins are gone.
    pub kept_libraries: u64,
    /// One call in so many has its duration recorded; 0 where none has.
    pub sampled_one_in: u32,
}

/// What one plugin has done since it was loaded, and is doing.
///
/// Counts go on over reloads, and start again when the plugin is unloaded and loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginStats {
    /// The plugin.
    pub name: PluginName,
    /// Another number each time that counts start again.
    pub life: u64,
    /// The generation that serves.
    pub generation: Option<GenerationId>,
    /// Calls, however they ended.
    pub calls: u64,
    /// Calls that the plugin answered with an error.
    pub errors: u64,
    /// Panics, of calls and of the plugin's own threads, and unrequested exits of its
    /// process.
    pub faults: u64,
    /// Processes of it that exited without being asked to.
    pub exits: u64,
    /// Processes of it that were started in the place of one that had exited.
    pub restarts: u64,
    /// Calls that never reached the plugin.
    pub refused: u64,
    /// Pooled calls that waited longer than `queue_timeout`.
    pub shed: u64,
    /// Pooled calls that ran into their deadlines.
    pub abandoned: u64,
    /// Lines of its log that were dropped.
    pub log_lines_dropped: u64,
    /// Calls that were answered from its cache.
    pub cache_hits: u64,
    /// Calls that were looked for in its cache and not found.
    pub cache_misses: u64,
    /// Bytes that its cache holds.
    pub cache_bytes: u64,
    /// Calls that wait in the queue.
    pub waiting: u64,
    /// Calls that run.
    pub running: u64,
    /// Whether it is not called for a while for a while.
    pub is_quarantined: bool,
    /// Bytes that it holds; none where it does not count.
    pub live_bytes: Option<i64>,
    /// The id of its process; none where it is no process, or none runs.
    pub pid: Option<u32>,
    /// How long the calls took that were sampled.
    pub latencies: Option<LatencySnapshot>,
}

impl PluginStats {
    /// The figures of a plugin that has done nothing yet.
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
