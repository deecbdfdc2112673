//! Exports into a recorder that records every value.

use hotbay_sandbox::{Confinement, Kernel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Recorder, SharedString,
};
use hotbay_manifest::Manifest;
use proptest::prelude::*;

use super::*;
use crate::id::GenerationId;
use crate::metrics::{Latencies, ProcessUsage};
use crate::sync::lock;

/// All values by `name` or `name{plugin}`; of a histogram, the number of durations.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<BTreeMap<String, f64>>>);

struct Line(Page, String);

impl Page {
    fn line(&self, key: &Key) -> Arc<Line> {
        let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
        let name = match labels.as_slice() {
            [] => key.name().to_owned(),
            labels => format!("{}{{{}}}", key.name(), labels.join(",")),
        };
        Arc::new(Line(self.clone(), name))
    }

    #[track_caller]
    fn check(&self, expected: &[(&str, f64)]) {
        let lines = lock(&self.0);
        for (name, value) in expected {
            assert_eq!(lines.get(*name), Some(value), "{name} in {lines:#?}");
        }
    }
}

impl Line {
    fn update(&self, update: impl FnOnce(&mut f64)) {
        update(lock(&self.0.0).entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Line {
    fn increment(&self, value: u64) {
        self.update(|line| *line += value as f64);
    }
    fn absolute(&self, value: u64) {
        self.update(|line| *line = line.max(value as f64));
    }
}

impl GaugeFn for Line {
    fn increment(&self, value: f64) {
        self.update(|line| *line += value);
    }
    fn decrement(&self, value: f64) {
        self.update(|line| *line -= value);
    }
    fn set(&self, value: f64) {
        self.update(|line| *line = value);
    }
}

impl HistogramFn for Line {
    fn record(&self, _: f64) {
        self.update(|line| *line += 1.0);
    }
}

impl Recorder for Page {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.line(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.line(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.line(key))
    }
}

fn plugin(name: &str, stats: PluginStats) -> PluginInfo {
    let manifest = Manifest::new(name, "1.0.0").expect("a manifest");
    PluginInfo { stats, ..PluginInfo::new(manifest) }
}

fn counts(epoch: u64, calls: u64) -> PluginStats {
    PluginStats { epoch, calls, ..PluginStats::default() }
}

fn stats(plugins: &[PluginInfo]) -> HostStats {
    HostStats { plugins: plugins.to_vec(), retained_libraries: 3, sampled_one_in: 64 }
}

#[test]
fn documented_table_lists_exactly_the_exported_metrics() {
    let counters = COUNTERS.map(|(name, text, _)| (name, "counter", text));
    let gauges = GAUGES.map(|(name, text, _)| (name, "gauge", text));
    let of_hosts = [SAMPLED, PLUGINS, KEPT].map(|(name, text)| (name, "gauge, whole host", text));
    let all = counters.into_iter().chain([(CPU.0, "counter", CPU.1)]).chain(gauges);
    let all = all.chain([(DURATION.0, "histogram", DURATION.1)]).chain(of_hosts);
    let all: Vec<_> =
        all.map(|(name, kind, text)| format!("/// | `{name}` | {kind} | {text} |")).collect();
    let source = include_str!("export.rs");
    let documented: Vec<_> = source.lines().filter(|line| line.starts_with("/// | `")).collect();
    assert_eq!(documented, all);
}

#[test]
fn every_stat_is_exported() {
    let page = Page::default();
    let latencies = Latencies::new();
    (1..=5).for_each(|nanos| latencies.record(Duration::from_nanos(nanos)));
    let counts = PluginStats {
        errors: 1,
        faults: 2,
        refused: 3,
        shed: 4,
        abandoned: 5,
        log_lines_dropped: 6,
        cache_hits: 11,
        cache_misses: 12,
        cache_bytes: 13,
        waiting: 8,
        running: 9,
        live_bytes: Some(-10),
        latencies: latencies.snapshot(),
        ..counts(1, 100)
    };
    let one = PluginInfo {
        generation: Some(GenerationId::after(6)),
        state: PluginState::Quarantined,
        confinement: Some(Confinement::of_all_rules(Kernel::new(0, false), None)),
        pid: Some(77),
        process_usage: Some(usage(14, 2500)),
        ..plugin("one", counts)
    };
    Exporter::new().export(&stats(&[one]), &page);
    page.check(&[
        ("hotbay_calls_total{one}", 100.0),
        ("hotbay_call_errors_total{one}", 1.0),
        ("hotbay_call_faults_total{one}", 2.0),
        ("hotbay_process_exits_total{one}", 0.0),
        ("hotbay_process_restarts_total{one}", 0.0),
        ("hotbay_calls_refused_total{one}", 3.0),
        ("hotbay_calls_shed_total{one}", 4.0),
        ("hotbay_calls_abandoned_total{one}", 5.0),
        ("hotbay_log_lines_dropped_total{one}", 6.0),
        ("hotbay_cache_hits_total{one}", 11.0),
        ("hotbay_cache_misses_total{one}", 12.0),
        ("hotbay_cache_bytes{one}", 13.0),
        ("hotbay_generation{one}", 7.0),
        ("hotbay_calls_waiting{one}", 8.0),
        ("hotbay_calls_running{one}", 9.0),
        ("hotbay_quarantined{one}", 1.0),
        ("hotbay_live_bytes{one}", -10.0),
        ("hotbay_process_id{one}", 77.0),
        ("hotbay_process_cpu_seconds_total{one}", 2.0),
        ("hotbay_process_memory_bytes{one}", 14.0),
        ("hotbay_process_peak_memory_bytes{one}", 15.0),
        ("hotbay_unenforced_sandbox_rules{one}", 11.0),
        ("hotbay_call_duration_seconds{one}", 5.0),
        ("hotbay_call_duration_sampled_one_in", 64.0),
        ("hotbay_plugins", 1.0),
        ("hotbay_kept_libraries", 3.0),
    ]);
    assert_eq!(lock(&page.0).len(), 26);
}

/// Returns a usage whose peak is a byte higher.
fn usage(memory_bytes: u64, cpu_ms: u64) -> ProcessUsage {
    let cpu_time = Duration::from_millis(cpu_ms);
    ProcessUsage { memory_bytes, peak_memory_bytes: memory_bytes + 1, cpu_time }
}

#[test]
fn processor_time_continues_across_processes() {
    let page = Page::default();
    let mut exporter = Exporter::new();
    let running = |pid, cpu_ms| PluginInfo {
        pid: Some(pid),
        process_usage: Some(usage(9, cpu_ms)),
        ..plugin("one", counts(1, 10))
    };
    let steps = [
        (running(5, 1600), 1.0, 9.0),
        (running(5, 2100), 2.0, 9.0),
        // The time of a descendant is no longer known.
        (running(5, 1000), 2.0, 9.0),
        // It has exited, and another one runs, which has used more.
        (plugin("one", counts(1, 10)), 2.0, 0.0),
        (running(6, 2900), 5.0, 9.0),
        // It is not known what it uses.
        (PluginInfo { process_usage: None, ..running(6, 0) }, 5.0, 0.0),
        (running(6, 3900), 6.0, 9.0),
    ];
    for (now, seconds, bytes) in steps {
        exporter.export(&stats(&[now]), &page);
        page.check(&[
            ("hotbay_process_cpu_seconds_total{one}", seconds),
            ("hotbay_process_memory_bytes{one}", bytes),
            ("hotbay_calls_total{one}", 10.0),
        ]);
    }
}

#[test]
fn counters_continue_across_loads_and_gauges_of_unloaded_are_zero() {
    let page = Page::default();
    let mut exporter = Exporter::new();
    let calls = "hotbay_calls_total{one}";
    let busy = |epoch, calls| plugin("one", PluginStats { waiting: 7, ..counts(epoch, calls) });
    let steps = [
        (Some(busy(1, 10)), 10.0, 7.0),
        (Some(busy(1, 10)), 10.0, 7.0),
        (Some(busy(1, 15)), 15.0, 7.0),
        (None, 15.0, 0.0),
        (None, 15.0, 0.0),
        // More than before, but the count restarted.
        (Some(busy(2, 20)), 35.0, 7.0),
        (Some(busy(2, 21)), 36.0, 7.0),
        // Unloaded and loaded between two exports, with fewer calls and with more.
        (Some(busy(3, 1)), 37.0, 7.0),
        (Some(busy(4, 2)), 39.0, 7.0),
        // Without a new life: a lower count has restarted.
        (Some(busy(4, 1)), 40.0, 7.0),
    ];
    for (step, (now, total, waiting)) in steps.into_iter().enumerate() {
        let plugins = if now.is_some() { 1.0 } else { 0.0 };
        exporter.export(&stats(now.as_slice()), &page);
        page.check(&[("hotbay_plugins", plugins), (calls, total)]);
        page.check(&[("hotbay_calls_waiting{one}", waiting)]);
        assert!(!lock(&page.0).contains_key("hotbay_live_bytes{one}"), "step {step}");
    }
}

#[test]
fn duration_is_exported_once_to_each_recorder() {
    let (one, other) = (Page::default(), Page::default());
    let (mut to_one, mut to_other) = (Exporter::new(), Exporter::new());
    let latencies = Latencies::new();
    let now = |epoch| {
        let latencies = latencies.snapshot();
        plugin(
            "a",
            PluginStats { latencies: latencies.clone(), ..counts(epoch, latencies.count()) },
        )
    };
    let name = "hotbay_call_duration_seconds{a}";
    for count in 1..=3 {
        latencies.record(Duration::from_micros(1));
        to_one.export(&stats(&[now(1)]), &one);
        one.check(&[(name, f64::from(count))]);
    }
    to_other.export(&stats(&[now(1)]), &other);
    other.check(&[(name, 3.0)]);
    // A new life has a new histogram.
    to_one.export(&stats(&[now(2)]), &one);
    one.check(&[(name, 6.0)]);
}

#[test]
fn prometheus_page_has_duration_buckets_and_exact_counts() {
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    let of_calls = Matcher::Full(Exporter::DURATION.to_owned());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(of_calls, &[1e-6, 1e-3]);
    let recorder = recorder.expect("buckets").build_recorder();
    let latencies = Latencies::new();
    for nanos in [500, 700, 5_000, 5_000_000] {
        latencies.record(Duration::from_nanos(nanos));
    }
    let latencies = latencies.snapshot();
    // More than a float holds exactly.
    let one = plugin("one", PluginStats { latencies, ..counts(1, (1 << 60) + 1) });
    let mut exporter = Exporter::new();
    for _ in 0..2 {
        exporter.export(&stats(std::slice::from_ref(&one)), &recorder);
        let page = recorder.handle().render();
        for expected in [
            "hotbay_calls_total{plugin=\"one\"} 1152921504606846977",
            "# HELP hotbay_call_duration_seconds durations of sampled calls",
            "# TYPE hotbay_call_duration_seconds histogram",
            "hotbay_call_duration_seconds_bucket{plugin=\"one\",le=\"0.000001\"} 2",
            "hotbay_call_duration_seconds_bucket{plugin=\"one\",le=\"0.001\"} 3",
            "hotbay_call_duration_seconds_bucket{plugin=\"one\",le=\"+Inf\"} 4",
            "hotbay_call_duration_seconds_count{plugin=\"one\"} 4",
            "hotbay_call_duration_sampled_one_in 64",
        ] {
            assert!(page.lines().any(|line| line == expected), "{expected} is not in\n{page}");
        }
    }
}

#[test]
fn thinning_bounds_the_total_and_keeps_rare_durations() {
    let max = Exporter::MAX_DURATIONS;
    for (part, whole, expected) in [
        (max, max, max),
        (1, 100 * max, 1),
        (50 * max, 100 * max, max / 2),
        (u64::MAX, u64::MAX, max),
        (0, 2 * max, 0),
    ] {
        assert_eq!(thinned(part, whole, max), expected, "{part} of {whole}");
    }
}

proptest! {
    #[test]
    fn thinned_parts_stay_near_the_limit(parts in proptest::collection::vec(1_u64..1 << 40, 1..300)) {
        let (whole, max) = (parts.iter().sum(), Exporter::MAX_DURATIONS);
        let out: Vec<_> = parts.iter().map(|part| thinned(*part, whole, max)).collect();
        prop_assert!(out.iter().sum::<u64>() <= max + parts.len() as u64);
        prop_assert!(out.iter().all(|out| *out > 0));
    }
}
