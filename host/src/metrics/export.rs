//! Exports a host's stats into a recorder of the `metrics` facade, at each scrape. The host's own
//! counts are copied, because a counter of the facade costs more than a call.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use ::metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit};

use super::latency::LatencySnapshot;
use super::snapshot::{HostStats, PluginInfo, PluginState, PluginStats};
use crate::id::PluginName;

/// Exports stats into a recorder. Use one exporter for each recorder, for all exports.
///
/// All metrics except those of whole hosts have the label `plugin`. Two hosts need two recorders.
///
/// | name | kind | value |
/// |---|---|---|
/// | `hotbay_calls_total` | counter | calls, regardless of their outcome |
/// | `hotbay_call_errors_total` | counter | calls that failed in other ways than a fault or a rejection, such as with an error of the plugin |
/// | `hotbay_call_faults_total` | counter | panics and unexpected exits of processes |
/// | `hotbay_process_exits_total` | counter | processes that exited unexpectedly |
/// | `hotbay_process_restarts_total` | counter | processes that were started to replace one that exited |
/// | `hotbay_calls_refused_total` | counter | calls that were rejected before they reached the plugin |
/// | `hotbay_calls_shed_total` | counter | pooled calls that waited too long to start |
/// | `hotbay_calls_abandoned_total` | counter | pooled calls that exceeded their deadlines after they reached the plugin |
/// | `hotbay_log_lines_dropped_total` | counter | log lines of the plugin that were dropped |
/// | `hotbay_cache_hits_total` | counter | calls answered from the plugin's cache |
/// | `hotbay_cache_misses_total` | counter | calls not found in the plugin's cache |
/// | `hotbay_process_cpu_seconds_total` | counter | whole seconds of processor time that the plugin's processes have used |
/// | `hotbay_calls_waiting` | gauge | queued calls |
/// | `hotbay_calls_running` | gauge | running pooled calls, including abandoned ones |
/// | `hotbay_generation` | gauge | the current generation, 0 if none |
/// | `hotbay_quarantined` | gauge | 1 while the plugin is quarantined |
/// | `hotbay_cache_bytes` | gauge | bytes in the plugin's cache |
/// | `hotbay_live_bytes` | gauge | bytes that the plugin has allocated, if it counts them |
/// | `hotbay_process_id` | gauge | the id of the plugin's process, 0 if none is running |
/// | `hotbay_process_memory_bytes` | gauge | memory of the plugin's process and its descendants, in bytes |
/// | `hotbay_process_peak_memory_bytes` | gauge | highest memory of the plugin's current process and its descendants, in bytes |
/// | `hotbay_unenforced_sandbox_rules` | gauge | rules of the plugin's sandbox that are not fully enforced, if it has one |
/// | `hotbay_call_duration_seconds` | histogram | durations of sampled calls |
/// | `hotbay_call_duration_sampled_one_in` | gauge, whole host | the duration of one call in this many is sampled |
/// | `hotbay_plugins` | gauge, whole host | loaded plugins |
/// | `hotbay_kept_libraries` | gauge, whole host | libraries that stay mapped although their plugins were unloaded |
///
/// Counters are the host's exact counts at the time of the export. They continue if a plugin is
/// unloaded and loaded again, but omit what it did between the last export and its unload. The
/// gauges of an unloaded plugin are 0. The gauges of memory and the counter of processor time are those
/// of [`ProcessUsage`](crate::ProcessUsage), on Linux only: the counter omits what a process used
/// between the last export and its exit. Durations are those recorded since the last export, each as
/// the middle of its bucket, which is accurate to within an eighth. If there are more than
/// [`MAX_DURATIONS`](Self::MAX_DURATIONS), all buckets are thinned equally.
///
/// ```
/// use hotbay::{Host, Output, Request};
/// use hotbay::metrics::Exporter;
///
/// let host = Host::builder()
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// host.plugin("echo")?.call(Request::text("hello"))?;
/// let stats = host.stats();
/// assert_eq!(stats.plugins[0].stats.calls, 1);
/// let mut exporter = Exporter::new();
/// // At each scrape, into the recorder that the application installed:
/// metrics::with_recorder(|recorder| exporter.export(&stats, recorder));
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Exporter {
    exported: BTreeMap<PluginName, Exported>,
}

/// The exported values of a plugin.
#[derive(Debug)]
struct Exported {
    /// The counts of its previous loads.
    before: [u64; COUNTERS.len()],
    cpu: CpuCount,
    last: PluginInfo,
    is_loaded: bool,
}

/// The processor time of all processes that a plugin has had.
#[derive(Debug, Default)]
struct CpuCount {
    before: Duration,
    /// The last one, and what it has used.
    pid: Option<u32>,
    of_last: Duration,
}

type Row<T> = (&'static str, &'static str, fn(&PluginInfo) -> T);

const COUNTERS: [Row<u64>; 11] = [
    ("hotbay_calls_total", "calls, regardless of their outcome", |plugin| plugin.stats.calls),
    (
        "hotbay_call_errors_total",
        "calls that failed in other ways than a fault or a rejection, such as with an error of the plugin",
        |plugin| plugin.stats.errors,
    ),
    ("hotbay_call_faults_total", "panics and unexpected exits of processes", |plugin| {
        plugin.stats.faults
    }),
    ("hotbay_process_exits_total", "processes that exited unexpectedly", |plugin| {
        plugin.stats.exits
    }),
    (
        "hotbay_process_restarts_total",
        "processes that were started to replace one that exited",
        |plugin| plugin.stats.restarts,
    ),
    (
        "hotbay_calls_refused_total",
        "calls that were rejected before they reached the plugin",
        |plugin| plugin.stats.refused,
    ),
    ("hotbay_calls_shed_total", "pooled calls that waited too long to start", |plugin| {
        plugin.stats.shed
    }),
    (
        "hotbay_calls_abandoned_total",
        "pooled calls that exceeded their deadlines after they reached the plugin",
        |plugin| plugin.stats.abandoned,
    ),
    ("hotbay_log_lines_dropped_total", "log lines of the plugin that were dropped", |plugin| {
        plugin.stats.log_lines_dropped
    }),
    ("hotbay_cache_hits_total", "calls answered from the plugin's cache", |plugin| {
        plugin.stats.cache_hits
    }),
    ("hotbay_cache_misses_total", "calls not found in the plugin's cache", |plugin| {
        plugin.stats.cache_misses
    }),
];

const GAUGES: [Row<Option<f64>>; 10] = [
    ("hotbay_calls_waiting", "queued calls", |plugin| Some(plugin.stats.waiting as f64)),
    ("hotbay_calls_running", "running pooled calls, including abandoned ones", |plugin| {
        Some(plugin.stats.running as f64)
    }),
    ("hotbay_generation", "the current generation, 0 if none", |plugin| {
        Some(plugin.generation.map_or(0, |generation| generation.get()) as f64)
    }),
    ("hotbay_quarantined", "1 while the plugin is quarantined", |plugin| {
        Some(f64::from(u8::from(plugin.state == PluginState::Quarantined)))
    }),
    ("hotbay_cache_bytes", "bytes in the plugin's cache", |plugin| {
        Some(plugin.stats.cache_bytes as f64)
    }),
    ("hotbay_live_bytes", "bytes that the plugin has allocated, if it counts them", |plugin| {
        plugin.stats.live_bytes.map(|bytes| bytes as f64)
    }),
    ("hotbay_process_id", "the id of the plugin's process, 0 if none is running", |plugin| {
        // A plugin that never was a process has no such gauge.
        (plugin.pid.is_some() || plugin.stats.exits > 0).then(|| f64::from(plugin.pid.unwrap_or(0)))
    }),
    (
        "hotbay_process_memory_bytes",
        "memory of the plugin's process and its descendants, in bytes",
        |plugin| plugin.process_usage.map(|usage| usage.memory_bytes as f64),
    ),
    (
        "hotbay_process_peak_memory_bytes",
        "highest memory of the plugin's current process and its descendants, in bytes",
        |plugin| plugin.process_usage.map(|usage| usage.peak_memory_bytes as f64),
    ),
    (
        "hotbay_unenforced_sandbox_rules",
        "rules of the plugin's sandbox that are not fully enforced, if it has one",
        |plugin| plugin.confinement.as_ref().map(|rules| rules.incomplete().count() as f64),
    ),
];

const CPU: (&str, &str) = (
    "hotbay_process_cpu_seconds_total",
    "whole seconds of processor time that the plugin's processes have used",
);
const DURATION: (&str, &str) = (Exporter::DURATION, "durations of sampled calls");
const SAMPLED: (&str, &str) =
    ("hotbay_call_duration_sampled_one_in", "the duration of one call in this many is sampled");
const PLUGINS: (&str, &str) = ("hotbay_plugins", "loaded plugins");
const KEPT: (&str, &str) =
    ("hotbay_kept_libraries", "libraries that stay mapped although their plugins were unloaded");

static METADATA: Metadata<'static> = Metadata::new("hotbay", Level::INFO, Some("hotbay::metrics"));

impl Exporter {
    /// The name of the histogram, for recorders that set buckets by name.
    pub const DURATION: &str = "hotbay_call_duration_seconds";
    /// The approximate maximum of durations of one plugin in one export.
    pub const MAX_DURATIONS: u64 = 65_536;

    /// Creates an exporter that has exported nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Updates `recorder`, which must be the same each time, to `stats`.
    pub fn export(&mut self, stats: &HostStats, recorder: &dyn Recorder) {
        describe(recorder);
        for plugin in &stats.plugins {
            self.export_plugin(plugin, recorder);
        }
        self.zero_unloaded(stats, recorder);
        let gauge = |(name, _): (&'static str, _), value: f64| {
            recorder.register_gauge(&Key::from_name(name), &METADATA).set(value);
        };
        gauge(PLUGINS, stats.plugins.len() as f64);
        gauge(KEPT, stats.retained_libraries as f64);
        if stats.sampled_one_in > 0 {
            gauge(SAMPLED, f64::from(stats.sampled_one_in));
        }
    }

    fn export_plugin(&mut self, now: &PluginInfo, recorder: &dyn Recorder) {
        let exported = self.exported.entry(now.name.clone()).or_insert_with(|| Exported {
            before: [0; COUNTERS.len()],
            cpu: CpuCount::default(),
            last: PluginInfo {
                stats: PluginStats { epoch: now.stats.epoch, ..PluginStats::default() },
                ..now.clone()
            },
            is_loaded: true,
        });
        exported.advance_to(now);
        for ((name, _, count), before) in iter::zip(COUNTERS, exported.before) {
            let counter = recorder.register_counter(&key(name, now), &METADATA);
            counter.absolute(before.saturating_add(count(now)));
        }
        if let Some(used) = exported.cpu.advance_to(now) {
            recorder.register_counter(&key(CPU.0, now), &METADATA).absolute(used.as_secs());
        }
        for (name, _, value) in GAUGES {
            // A recorder keeps the value of a process that has exited.
            let zero = value(&exported.last).map(|_| 0.0);
            if let Some(value) = value(now).or(zero) {
                recorder.register_gauge(&key(name, now), &METADATA).set(value);
            }
        }
        let new = now.stats.latencies.since(&exported.last.stats.latencies);
        record(&new, &recorder.register_histogram(&key(DURATION.0, now), &METADATA));
        exported.last = now.clone();
    }

    /// Sets the gauges of unloaded plugins to zero, since a recorder keeps all values.
    fn zero_unloaded(&mut self, stats: &HostStats, recorder: &dyn Recorder) {
        let is_loaded = |name: &PluginName| stats.plugins.iter().any(|plugin| plugin.name == *name);
        for (name, exported) in &mut self.exported {
            if exported.is_loaded && !is_loaded(name) {
                exported.is_loaded = false;
                for (name, _, value) in GAUGES {
                    if value(&exported.last).is_some() {
                        recorder.register_gauge(&key(name, &exported.last), &METADATA).set(0.0);
                    }
                }
            }
        }
    }
}

impl Exported {
    /// Adds the counts of the previous load if counts have restarted.
    fn advance_to(&mut self, now: &PluginInfo) {
        self.is_loaded = true;
        let is_less = |(_, _, count): &Row<u64>| count(now) < count(&self.last);
        if now.stats.epoch == self.last.stats.epoch && !COUNTERS.iter().any(is_less) {
            return;
        }
        for ((_, _, count), before) in iter::zip(COUNTERS, &mut self.before) {
            *before = before.saturating_add(count(&self.last));
        }
        self.last.stats.latencies = LatencySnapshot::default();
    }
}

impl CpuCount {
    /// Returns the time of all processes; `None` if it is not known of any.
    fn advance_to(&mut self, now: &PluginInfo) -> Option<Duration> {
        if let Some(usage) = now.process_usage {
            if now.pid != self.pid {
                self.before = self.before.saturating_add(self.of_last);
                (self.pid, self.of_last) = (now.pid, Duration::ZERO);
            }
            // It is lower if the time of an exited process is no longer known.
            self.of_last = self.of_last.max(usage.cpu_time);
        }
        self.pid.map(|_| self.before.saturating_add(self.of_last))
    }
}

fn record(durations: &LatencySnapshot, histogram: &::metrics::Histogram) {
    let count = durations.count();
    for bucket in durations.buckets() {
        let records = thinned(bucket.count, count, Exporter::MAX_DURATIONS);
        let records = usize::try_from(records).unwrap_or(usize::MAX);
        histogram.record_many(bucket.middle().as_secs_f64(), records);
    }
}

/// Returns the share of `part` in `max` if `whole` exceeds it. Never less than one for a part that
/// is not empty, so that rare durations, which are the slow ones, remain.
fn thinned(part: u64, whole: u64, max: u64) -> u64 {
    if whole <= max {
        return part;
    }
    let share = (u128::from(part) * u128::from(max)).div_ceil(u128::from(whole));
    u64::try_from(share).unwrap_or(max)
}

fn key(name: &'static str, plugin: &PluginInfo) -> Key {
    Key::from_parts(name, vec![Label::new("plugin", plugin.name.to_string())])
}

/// Describes all metrics. Repeated at each export; a recorder keeps the first description.
fn describe(recorder: &dyn Recorder) {
    let counters = COUNTERS.map(|(name, text, _)| (name, text));
    for (name, text) in counters.into_iter().chain([CPU]) {
        recorder.describe_counter(KeyName::from(name), None, text.into());
    }
    let gauges = GAUGES.map(|(name, text, _)| (name, text));
    for (name, text) in gauges.into_iter().chain([SAMPLED, PLUGINS, KEPT]) {
        recorder.describe_gauge(KeyName::from(name), None, text.into());
    }
    let (name, text) = DURATION;
    recorder.describe_histogram(KeyName::from(name), Some(Unit::Seconds), text.into());
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
