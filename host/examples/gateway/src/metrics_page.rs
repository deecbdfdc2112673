//! The page `/metrics`: the metrics of the host and the number of responses, for Prometheus.

use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use hotbay::Host;
use hotbay::metrics::Exporter;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// Seconds: from a fast call into a library to a slow one.
const BUCKETS: [f64; 8] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

/// Counts responses, and renders the page.
pub(crate) struct MetricsPage {
    host: Host,
    exporter: Mutex<Exporter>,
    recorder: PrometheusRecorder,
}

impl MetricsPage {
    pub(crate) fn new(host: Host) -> Self {
        let durations = Matcher::Full(Exporter::DURATION.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(durations, &BUCKETS)
            .expect("the list of buckets is not empty")
            .build_recorder();
        Self { host, exporter: Mutex::default(), recorder }
    }

    pub(crate) fn count(&self, status: StatusCode) {
        metrics::with_local_recorder(&self.recorder, || {
            metrics::counter!("gateway_responses_total", "status" => status.as_u16().to_string())
                .increment(1);
        });
    }

    pub(crate) fn render(&self) -> String {
        let mut exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        exporter.export(&self.host.stats(), &self.recorder);
        self.recorder.handle().render()
    }
}
