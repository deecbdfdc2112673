//! The counts of a plugin and of a host at one moment, as plain numbers.

use super::latency::LatencySnapshot;
use crate::info::PluginInfo;

/// The stats of a host: see [`Host::stats`](crate::Host::stats).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HostStats {
    /// The loaded plugins, sorted by name.
    pub plugins: Vec<PluginInfo>,
    /// Libraries that stay mapped after the unload of their plugins.
    pub retained_libraries: u64,
    /// One call in this many has its duration recorded; 0 if none has.
    pub sampled_one_in: u32,
}

/// The counts of one plugin since it was loaded: see [`PluginInfo::stats`].
///
/// They continue across reloads, and restart when the plugin is unloaded and loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginStats {
    /// A number that changes when the counts restart.
    pub epoch: u64,
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
    /// Pooled calls that waited longer than [`queue_timeout`](crate::HostLimits::queue_timeout).
    pub shed: u64,
    /// Pooled calls that exceeded their deadlines.
    pub abandoned: u64,
    /// Lines of its log that were dropped.
    pub log_lines_dropped: u64,
    /// Calls answered from its [cache](crate::ResponseCache). They count in `calls` too.
    pub cache_hits: u64,
    /// Lookups in its cache without a result.
    pub cache_misses: u64,
    /// Bytes held by its cache.
    pub cache_bytes: u64,
    /// Queued calls.
    pub waiting: u64,
    /// Running pooled calls, including abandoned ones.
    pub running: u64,
    /// Allocated bytes; `None` if it does not count them.
    pub live_bytes: Option<i64>,
    /// Durations of the sampled calls; see [`HostStats::sampled_one_in`].
    pub latencies: LatencySnapshot,
}
