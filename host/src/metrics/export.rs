//! Puts a host's figures into a recorder of the `metrics` facade, when somebody asks for them.
//! Pulled and not counted a second time: a counter of the facade costs more than a call.

use std::collections::BTreeMap;
use std::iter;

use ::metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit};

use super::latency::LatencySnapshot;
use super::stats::{HostStats, PluginStats};
use crate::id::PluginName;

/// Puts figures into a recorder; one for each recorder, used again at each export.
///
/// All names but those of whole hosts have the label `plugin`. Two hosts need two recorders.
///
/// | name | kind | what it tells |
/// |---|---|---|
/// | `hotbay_calls_total` | counter | calls, however they ended |
/// | `hotbay_call_errors_total` | counter | calls that the plugin answered with an error |
/// | `hotbay_call_faults_total` | counter | panics, and unrequested exits of processes |
/// | `hotbay_process_exits_total` | counter | processes that exited without being asked to |
/// | `hotbay_process_restarts_total` | counter | processes that took the place of one that exited |
/// | `hotbay_calls_refused_total` | counter | calls that never reached the plugin |
/// | `hotbay_calls_shed_total` | counter | pooled calls that waited too long to be begun |
/// | `hotbay_calls_abandoned_total` | counter | pooled calls that ran into their deadlines |
/// | `hotbay_log_lines_dropped_total` | counter | lines of the plugin's log that were dropped |
/// | `hotbay_cache_hits_total` | counter | calls that were answered from the plugin's cache |
/// | `hotbay_cache_misses_total` | counter | calls that were looked for in the cache and not found |
/// | `hotbay_calls_waiting` | gauge | calls that wait in the queue |
/// | `hotbay_calls_running` | gauge | calls that run |
/// | `hotbay_generation` | gauge | the generation that serves, 0 for none |
/// | `hotbay_quarantined` | gauge | 1 while the plugin is not called for a while |
/// | `hotbay_cache_bytes` | gauge | bytes that the plugin's cache holds |
/// | `hotbay_live_bytes` | gauge | bytes that the plugin holds, if it counts them |
/// | `hotbay_process_id` | gauge | the id of the plugin's process, if it is one; 0 while none runs |
/// | `hotbay_call_duration_seconds` | histogram | durations of sampled calls |
/// | `hotbay_call_duration_sampled_one_in` | gauge, whole host | one call in so many is sampled |
/// | `hotbay_plugins` | gauge, whole host | plugins that serve |
/// | `hotbay_kept_libraries` | gauge, whole host | libraries that stay mapped though their plugins are gone |
///
/// Counters are the host's own exact counts, at the moment of the export, and go on where a
/// plugin is unloaded and loaded again; what it did between the last export and its unload is
/// not in them. The gauges of a plugin that is gone are 0. Durations are those recorded since
/// the last export, each as the middle of a bucket that is one part in eight wide; where there
/// are more than [`DURATIONS_MAX`](Self::DURATIONS_MAX), every bucket is thinned alike.
///
/// ```
/// use hotbay::Host;
/// use hotbay::metrics::Exporter;
///
/// let host = Host::builder().build()?;
/// let mut exporter = Exporter::new();
/// // At each scrape, into the recorder that the application installed:
/// metrics::with_recorder(|recorder| exporter.export(&host.figures(), recorder));
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Exporter {
    known: BTreeMap<PluginName, Known>,
}

/// What was exported of a plugin.
#[derive(Debug)]
struct Known {
    /// What its lives before this one came to.
    before: [u64; COUNTERS.len()],
    last: PluginStats,
    serves: bool,
}

type Row<T> = (&'static str, &'static str, fn(&PluginStats) -> T);

const COUNTERS: [Row<u64>; 11] = [
    ("hotbay_calls_total", "calls, however they ended", |plugin| plugin.calls),
    ("hotbay_call_errors_total", "calls that the plugin answered with an error", |plugin| {
        plugin.errors
    }),
    ("hotbay_call_faults_total", "panics, and unrequested exits of processes", |plugin| {
        plugin.faults
    }),
    ("hotbay_process_exits_total", "processes that exited without being asked to", |plugin| {
        plugin.exits
    }),
    (
        "hotbay_process_restarts_total",
        "processes that took the place of one that exited",
        |plugin| plugin.restarts,
    ),
    ("hotbay_calls_refused_total", "calls that never reached the plugin", |plugin| plugin.refused),
    ("hotbay_calls_shed_total", "pooled calls that waited too long to be begun", |plugin| {
        plugin.shed
    }),
    ("hotbay_calls_abandoned_total", "pooled calls that ran into their deadlines", |plugin| {
        plugin.abandoned
    }),
    ("hotbay_log_lines_dropped_total", "lines of the plugin's log that were dropped", |plugin| {
        plugin.log_lines_dropped
    }),
    ("hotbay_cache_hits_total", "calls that were answered from the plugin's cache", |plugin| {
        plugin.cache_hits
    }),
    (
        "hotbay_cache_misses_total",
        "calls that were looked for in the cache and not found",
        |plugin| plugin.cache_misses,
    ),
];

const GAUGES: [Row<Option<f64>>; 7] = [
    ("hotbay_calls_waiting", "calls that wait in the queue", |plugin| Some(plugin.waiting as f64)),
    ("hotbay_calls_running", "calls that run", |plugin| Some(plugin.running as f64)),
    ("hotbay_generation", "the generation that serves, 0 for none", |plugin| {
        Some(plugin.generation.map_or(0, |generation| generation.get()) as f64)
    }),
    ("hotbay_quarantined", "1 while the plugin is not called for a while", |plugin| {
        Some(f64::from(u8::from(plugin.is_quarantined)))
    }),
    ("hotbay_cache_bytes", "bytes that the plugin's cache holds", |plugin| {
        Some(plugin.cache_bytes as f64)
    }),
    ("hotbay_live_bytes", "bytes that the plugin holds, if it counts them", |plugin| {
        plugin.live_bytes.map(|bytes| bytes as f64)
    }),
    ("hotbay_process_id", "the id of the plugin's process, 0 while none runs", |plugin| {
        // A plugin that never had a process has none of this name.
        (plugin.pid.is_some() || plugin.exits > 0).then(|| f64::from(plugin.pid.unwrap_or(0)))
    }),
];

const DURATION: (&str, &str) = (Exporter::DURATION, "durations of sampled calls");
const SAMPLED: (&str, &str) =
    ("hotbay_call_duration_sampled_one_in", "one call in so many is sampled");
const PLUGINS: (&str, &str) = ("hotbay_plugins", "plugins that serve");
const KEPT: (&str, &str) =
    ("hotbay_kept_libraries", "libraries that stay mapped though their plugins are gone");

static METADATA: Metadata<'static> = Metadata::new("hotbay", Level::INFO, Some("hotbay::metrics"));

impl Exporter {
    /// The name of the histogram, for a recorder that wants its buckets set by name.
    pub const DURATION: &str = "hotbay_call_duration_seconds";
    /// About how many durations of one plugin go into a recorder at one export, at most.
    pub const MAX_DURATIONS: u64 = 65_536;

    /// An exporter that has exported nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings `recorder`, which is the same each time, up to date with `figures`.
    pub fn export(&mut self, figures: &HostStats, recorder: &dyn Recorder) {
        describe(recorder);
        for plugin in &figures.plugins {
            self.plugin(plugin, recorder);
        }
        self.gone(figures, recorder);
        let gauge = |(name, _): (&'static str, _), value: f64| {
            recorder.register_gauge(&Key::from_name(name), &METADATA).set(value);
        };
        gauge(PLUGINS, figures.plugins.len() as f64);
        gauge(KEPT, figures.kept_libraries as f64);
        if figures.sampled_one_in > 0 {
            gauge(SAMPLED, f64::from(figures.sampled_one_in));
        }
    }

    fn plugin(&mut self, now: &PluginStats, recorder: &dyn Recorder) {
        let known = self.known.entry(now.name.clone()).or_insert_with(|| Known {
            before: [0; COUNTERS.len()],
            last: PluginStats { life: now.life, ..PluginStats::new(now.name.clone()) },
            serves: true,
        });
        known.go_on_to(now);
        for ((name, _, count), before) in iter::zip(COUNTERS, known.before) {
            let counter = recorder.register_counter(&key(name, now), &METADATA);
            counter.absolute(before.saturating_add(count(now)));
        }
        for (name, _, value) in GAUGES {
            if let Some(value) = value(now) {
                recorder.register_gauge(&key(name, now), &METADATA).set(value);
            }
        }
        if let Some(latencies) = &now.latencies {
            let since = known.last.latencies.as_ref().map(|last| latencies.since(last));
            let new = since.as_ref().unwrap_or(latencies);
            record(new, &recorder.register_histogram(&key(DURATION.0, now), &METADATA));
        }
        known.last = now.clone();
    }

    /// A recorder forgets nothing, so what is gone stands at zero.
    fn gone(&mut self, figures: &HostStats, recorder: &dyn Recorder) {
        let serves = |name: &PluginName| figures.plugins.iter().any(|plugin| plugin.name == *name);
        for (name, known) in &mut self.known {
            if known.serves && !serves(name) {
                known.serves = false;
                for (name, _, value) in GAUGES {
                    if value(&known.last).is_some() {
                        recorder.register_gauge(&key(name, &known.last), &METADATA).set(0.0);
                    }
                }
            }
        }
    }
}

impl Known {
    /// Where counts have started again, those of the life before are kept.
    fn go_on_to(&mut self, now: &PluginStats) {
        self.serves = true;
        let is_less = |(_, _, count): &Row<u64>| count(now) < count(&self.last);
        if now.life == self.last.life && !COUNTERS.iter().any(is_less) {
            return;
        }
        for ((_, _, count), before) in iter::zip(COUNTERS, &mut self.before) {
            *before = before.saturating_add(count(&self.last));
        }
        self.last.latencies = None;
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

/// The share of `part` in `max`, where `whole` is more than that; never less than one, so that
/// the rare ones, which are the slow ones, do not go.
fn thinned(part: u64, whole: u64, max: u64) -> u64 {
    if whole <= max {
        return part;
    }
    let share = (u128::from(part) * u128::from(max)).div_ceil(u128::from(whole));
    u64::try_from(share).unwrap_or(max)
}

fn key(name: &'static str, plugin: &PluginStats) -> Key {
    Key::from_parts(name, vec![Label::new("plugin", plugin.name.to_string())])
}

/// Again each time: a recorder keeps the first, and may be asked for its page before.
fn describe(recorder: &dyn Recorder) {
    for (name, text, _) in COUNTERS {
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
