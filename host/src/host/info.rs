//! Takes snapshots of loaded plugins.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hotbay_manifest::Manifest;

use super::Host;
use crate::generation::State;
use crate::metrics::{HostStats, PluginInfo, PluginState, PluginStats};
use crate::reload::Build;
use crate::slot::{SAMPLED_ONE_IN, Slot};

impl Host {
    /// Returns the counts of the host and of every plugin.
    ///
    /// Counts are exact for calls that have returned. The duration of one call in 64 is recorded,
    /// since reading the clock costs as much as a call.
    pub fn stats(&self) -> HostStats {
        HostStats {
            plugins: self.list(),
            retained_libraries: self.retained().len() as u64,
            sampled_one_in: SAMPLED_ONE_IN,
        }
    }
}

/// Returns the snapshot of the plugin in `slot`, which was loaded as number `epoch` of its host.
pub(super) fn snapshot(
    slot: &Slot,
    build: &Build,
    manifest: &Arc<Manifest>,
    folder: Option<&PathBuf>,
    epoch: u64,
) -> PluginInfo {
    let generation = slot.generation();
    let state = match generation.as_ref().map(|generation| generation.state()) {
        Some(State::Serving | State::Draining) if slot.health.is_quarantined() => {
            PluginState::Quarantined
        }
        Some(State::Serving) => PluginState::Serving,
        Some(State::Draining) => PluginState::Draining,
        None if slot.is_paused() => PluginState::Paused,
        Some(State::Retired | State::Closed | State::Kept(_)) | None => PluginState::Retired,
    };
    PluginInfo {
        name: slot.name.clone(),
        version: manifest.version().clone(),
        generation: generation.map(|generation| generation.id),
        state,
        folder: folder.cloned(),
        manifest: Arc::clone(manifest),
        pid: slot.pid(),
        notes: build.notes.clone(),
        stats: stats(slot, epoch),
    }
}

fn stats(slot: &Slot, epoch: u64) -> PluginStats {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &slot.counters;
    PluginStats {
        epoch,
        calls: counters.calls.sum().unsigned_abs(),
        errors: count(&counters.errors),
        faults: count(&counters.faults),
        exits: count(&counters.exits),
        restarts: count(&counters.restarts),
        refused: count(&counters.refused),
        shed: count(&counters.shed),
        abandoned: count(&counters.abandoned),
        log_lines_dropped: count(&counters.log_lines_dropped),
        cache_hits: count(&counters.cache.hits),
        cache_misses: count(&counters.cache.misses),
        cache_bytes: count(&counters.cache.bytes),
        waiting: slot.queued() as u64,
        running: slot.running().0 as u64,
        live_bytes: slot.live_bytes(),
        latencies: counters.latencies.snapshot(),
    }
}
