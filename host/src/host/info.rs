//! What is known of a plugin that serves: the values that users see. Decides nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use semver::Version;

use crate::id::{GenerationId, PluginName};
use crate::manifest::Manifest;
use crate::reload::Build;
use crate::slot::Slot;

/// What is known of a plugin that serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginInfo {
    /// The plugin.
    pub name: PluginName,
    /// The version of the build that serves.
    pub version: Version,
    /// The generation that serves.
    pub generation: Option<GenerationId>,
    /// What the generation is doing.
    pub state: String,
    /// Where it was loaded from; none when compiled in.
    pub folder: Option<PathBuf>,
    /// The manifest that it was loaded by.
    pub manifest: Arc<Manifest>,
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
    /// Calls that wait in the queue.
    pub waiting: usize,
    /// Pooled calls that run, with those that nobody waits for any more.
    pub running: usize,
    /// Pooled calls that ran into their deadlines.
    pub abandoned: u64,
    /// Pooled calls that waited longer than
    /// [`queue_timeout`](crate::HostLimits::queue_timeout).
    pub shed: u64,
    /// Lines that were not logged, because there were too many.
    pub log_lines_dropped: u64,
    /// Calls that were answered from its [cache](crate::ResponseCache), which count among
    /// `calls` too.
    pub cache_hits: u64,
    /// Calls that were looked for in its cache and not found.
    pub cache_misses: u64,
    /// Bytes that its cache holds.
    pub cache_bytes: u64,
    /// Bytes that it has allocated and not released; none where it does not count.
    pub live_bytes: Option<i64>,
    /// The process that serves; none for what is no process, or while none runs.
    pub pid: Option<u32>,
    /// What its manifest asked for and did not get, and what its library's file tells of later
    /// unmapping, in words.
    pub notes: Vec<String>,
}

impl PluginInfo {
    pub(super) fn of(
        slot: &Slot,
        build: &Build,
        manifest: &Arc<Manifest>,
        folder: Option<&PathBuf>,
    ) -> Self {
        let generation = slot.generation();
        let state = match &generation {
            Some(_) if slot.health.is_quarantined() => "quarantined".to_owned(),
            Some(generation) => generation.state().to_string(),
            None => "retired".to_owned(),
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let meter = &slot.counters;
        Self {
            name: slot.name.clone(),
            version: manifest.version().clone(),
            generation: generation.map(|generation| generation.id),
            state,
            folder: folder.cloned(),
            manifest: Arc::clone(manifest),
            calls: meter.calls.sum().unsigned_abs(),
            errors: count(&meter.errors),
            faults: count(&meter.faults),
            exits: count(&meter.exits),
            restarts: count(&meter.restarts),
            refused: count(&meter.refused),
            waiting: slot.queued(),
            running: slot.running().0,
            abandoned: count(&meter.abandoned),
            shed: count(&meter.shed),
            log_lines_dropped: count(&meter.log_lines_dropped),
            cache_hits: count(&meter.cache.hits),
            cache_misses: count(&meter.cache.misses),
            cache_bytes: count(&meter.cache.bytes),
            live_bytes: slot.live_bytes(),
            pid: slot.pid(),
            notes: build.notes.clone(),
        }
    }
}
