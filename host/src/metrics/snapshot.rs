//! Snapshots of a host and its plugins: plain values.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hotbay_manifest::Manifest;
use hotbay_sandbox::Confinement;
use semver::Version;
use serde_json::Value;

use super::latency::LatencySnapshot;
use crate::id::{GenerationId, PluginName};
use crate::signatures::SignatureStatus;

/// The state of a loaded plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum PluginState {
    /// It accepts calls.
    Serving,
    /// It is [quarantined](crate::Quarantine): calls fail until a probe succeeds.
    Quarantined,
    /// Its calls wait: a reload moves its state or has stopped it. See
    /// [`Handover`](hotbay_manifest::Handover).
    Paused,
    /// It accepts no new calls, and some still run.
    Draining,
    /// It serves no more.
    Retired,
}

impl PluginState {
    /// Returns its name in lower case, as `Display` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Quarantined => "quarantined",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for PluginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A snapshot of a loaded plugin: see [`Host::list`](crate::Host::list).
///
/// ```
/// use hotbay::{Host, Output, PluginState, Request};
///
/// let host = Host::builder()
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// host.plugin("echo")?.call(Request::text("hello"))?;
/// let echo = &host.list()[0];
/// assert_eq!((echo.name.as_str(), echo.state), ("echo", PluginState::Serving));
/// assert_eq!((echo.stats.calls, echo.stats.errors), (1, 0));
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginInfo {
    /// The name of the plugin.
    pub name: PluginName,
    /// The version of the current build.
    pub version: Version,
    /// The current generation.
    pub generation: Option<GenerationId>,
    /// Its state.
    pub state: PluginState,
    /// The folder that it was loaded from; `None` if it is compiled in.
    pub folder: Option<PathBuf>,
    /// The manifest of the current build.
    pub manifest: Arc<Manifest>,
    /// The JSON Schema that inputs are validated against: the one that the manifest contains or
    /// names, or else the one that the program declares. `None` if there is none.
    pub input_schema: Option<Arc<Value>>,
    /// The id of its process; `None` if it has none or none is running.
    pub pid: Option<u32>,
    /// What its process uses; `None` if it has none, none is running, or the system is not Linux.
    pub process_usage: Option<ProcessUsage>,
    /// Requests of its manifest that the host did not fulfill, and what the probe of its library
    /// found about a later unload. One sentence each.
    pub notes: Vec<String>,
    /// What is enforced of its sandbox; `None` if it is not confined.
    pub confinement: Option<Confinement>,
    /// Who signed the files of the current build.
    pub signature: SignatureStatus,
    /// Its counts.
    pub stats: PluginStats,
}

impl PluginInfo {
    /// Creates the snapshot of a plugin that serves and has no activity yet, for tests of code that
    /// reads snapshots.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            name: manifest.name().clone(),
            version: manifest.version().clone(),
            generation: None,
            state: PluginState::Serving,
            folder: None,
            manifest: Arc::new(manifest),
            input_schema: None,
            pid: None,
            process_usage: None,
            notes: Vec::new(),
            confinement: None,
            signature: SignatureStatus::default(),
            stats: PluginStats::default(),
        }
    }
}

/// What the process of a plugin and its descendants use: see [`PluginInfo::process_usage`].
///
/// All values are those of the current process. They start again when the process is restarted or the
/// plugin reloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessUsage {
    /// Memory in use now, in bytes: the sum of the resident memory of all processes, in which shared
    /// pages count once for each. With a [control group](crate::confinement::ConfinementPolicy::cgroup)
    /// that counts memory, the memory of the group, which includes the cache of files that the
    /// processes accessed.
    pub memory_bytes: u64,
    /// Highest memory since the start, in bytes: the highest resident memory of the main process, or
    /// the highest sum that the host has measured, whichever is higher. The host measures the sum when
    /// it creates a snapshot, and each 100 ms if a limit of the sandbox requires that. With a control
    /// group that counts memory, the kernel's peak of the group (Linux 5.19).
    pub peak_memory_bytes: u64,
    /// Processor time used since the start, of all processes. Without a control group, that of an exited
    /// process is included only if its parent has waited for it.
    pub cpu_time: Duration,
}

/// The stats of a host: see [`Host::stats`](crate::Host::stats).
///
/// ```
/// use hotbay::{Host, Output, Request};
///
/// let host = Host::builder().register_fn("one", |_, _| Ok(Output::text("1"))).build()?;
/// host.plugin("one")?.call(Request::text(""))?;
/// let stats = host.stats();
/// assert_eq!(stats.plugins[0].stats.calls, 1);
/// assert_eq!(stats.retained_libraries, 0);
/// # Ok::<(), hotbay::Error>(())
/// ```
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
    /// Calls that failed in other ways than a fault or a rejection, such as with an error of the
    /// plugin.
    pub errors: u64,
    /// Panics of calls and of the plugin's threads, and unrequested exits of its process.
    pub faults: u64,
    /// Unrequested exits of its process.
    pub exits: u64,
    /// Processes started to replace one that exited.
    pub restarts: u64,
    /// Calls that were rejected before they reached the plugin.
    pub refused: u64,
    /// Pooled calls that waited longer than [`queue_timeout`](crate::HostLimits::queue_timeout).
    pub shed: u64,
    /// Pooled calls that exceeded their deadlines after they had reached the plugin, and streams that
    /// exceeded theirs.
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
