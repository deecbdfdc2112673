//! Takes a host's figures, for whoever exports them. Counts nothing itself.

use super::{Host, PluginInfo};
use crate::metrics::{HostStats, PluginStats};
use crate::slot::SAMPLED_ONE_IN;

impl Host {
    /// What every plugin has done and is doing, as numbers. Counts are exact for calls that have
    /// ended; of one call in 64 the duration is taken, since a look at the clock costs as much
    /// as a call.
    pub fn stats(&self) -> HostStats {
        HostStats {
            plugins: self.inner.table.stats(),
            kept_libraries: self.retained().len() as u64,
            sampled_one_in: SAMPLED_ONE_IN,
        }
    }
}

/// The figures of a plugin that was loaded as the `life`th of all.
pub(super) fn figures(info: PluginInfo, life: u64) -> PluginStats {
    PluginStats {
        life,
        generation: info.generation,
        calls: info.calls,
        errors: info.errors,
        faults: info.faults,
        exits: info.exits,
        restarts: info.restarts,
        pid: info.pid,
        refused: info.refused,
        shed: info.shed,
        abandoned: info.abandoned,
        log_lines_dropped: info.log_lines_dropped,
        cache_hits: info.cache_hits,
        cache_misses: info.cache_misses,
        cache_bytes: info.cache_bytes,
        waiting: info.waiting as u64,
        running: info.running as u64,
        is_quarantined: info.state == "quarantined",
        live_bytes: info.live_bytes,
        ..PluginStats::new(info.name)
    }
}
