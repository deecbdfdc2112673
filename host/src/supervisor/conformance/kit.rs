//! The test kit: the program, its capabilities, the running process, and the results so far.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hotbay_plugin::ServiceError;
use hotbay_plugin::abi::Record;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::timeout;

use super::super::diagnose;
use super::super::dialect::{Capabilities, Dialect};
use super::super::http::{Async, HttpRequest, HttpResponse};
use super::super::program::{ObserverRef, ProcessObserver, Program};
use super::super::start::{self, NotStarted, Started};
use super::report::Report;
use super::{Outcome, RESPONSE_TIMEOUT, Sample, StepFailure, failed, skipped};
use crate::conformance::Conformance;
use crate::error::Diagnosis;
use crate::sync::lock;

/// Time to wait for the exit of a process that just misbehaved.
const CRASH_TIMEOUT: Duration = Duration::from_millis(300);
/// Time in which a process must prove that it still serves.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest response that is read.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// Checks one program against the protocol.
pub(crate) struct TestKit {
    pub(super) program: Program,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) sample: Option<Sample>,
    pub(crate) report: Report,
    pub(super) running: Option<Started>,
    /// The reason no process runs.
    pub(super) not_running: String,
    observer: ObserverRef,
    /// Descendants left behind by the exits so far.
    pub(super) left: Arc<Mutex<Vec<String>>>,
}

/// One request, mostly defaults.
#[derive(Clone)]
pub(super) struct RawRequest {
    pub(super) method: Method,
    pub(super) endpoint: String,
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) deadline: Option<Instant>,
}

impl RawRequest {
    pub(super) fn get(endpoint: &str) -> Self {
        Self {
            method: Method::GET,
            endpoint: endpoint.to_owned(),
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::new(),
            headers: Vec::new(),
            deadline: None,
        }
    }

    pub(super) fn post(endpoint: &str, sample: Sample) -> Self {
        let Sample { content_type, bytes: body } = sample;
        Self { method: Method::POST, content_type, body, ..Self::get(endpoint) }
    }

    pub(super) fn into_http(self) -> HttpRequest {
        let Self { method, endpoint, content_type, body, headers, deadline } = self;
        let max_response_bytes = MAX_RESPONSE_BYTES;
        HttpRequest { method, endpoint, content_type, body, deadline, headers, max_response_bytes }
    }
}

impl TestKit {
    pub(crate) fn new(program: Program, sample: Option<Sample>, report: Report) -> Self {
        Self {
            program,
            capabilities: None,
            sample,
            report,
            running: None,
            not_running: "it has not been started".to_owned(),
            observer: Arc::new(SilentObserver),
            left: Arc::default(),
        }
    }

    pub(super) fn record(&mut self, name: &'static str, outcome: Outcome) {
        self.report.add(name, outcome);
    }

    /// Runs all remaining steps, once the capabilities were queried.
    pub(crate) async fn finish(mut self) -> Conformance {
        if self.capabilities.is_none() {
            return self.report.finish("its capabilities are unknown");
        }
        self.run_steps().await;
        self.stop_running().await;
        let reason = format!("the step was not reached: {}", self.not_running);
        self.report.finish(&reason)
    }

    pub(super) fn is_ours(&self) -> bool {
        let dialect = self.capabilities.as_ref().map(|capabilities| capabilities.dialect);
        matches!(dialect, Some(Dialect::Ours { .. }))
    }

    /// Skips the step unless the program speaks our own protocol.
    pub(super) fn ours(&self) -> Result<&Capabilities, StepFailure> {
        match &self.capabilities {
            Some(capabilities) if self.is_ours() => Ok(capabilities),
            _ => skipped("older dialect"),
        }
    }

    /// Returns the running process, or skips the step.
    pub(super) fn live(&self) -> Result<&Started, StepFailure> {
        match &self.running {
            Some(started) => Ok(started),
            None => skipped(format!("it was not started: {}", self.not_running)),
        }
    }

    /// Stops the process, and starts a new one; without `idle_timeout` it never exits by itself.
    pub(super) async fn start_again(&mut self, idle_timeout: Option<Duration>) {
        self.stop_running().await;
        if let Err(NotStarted { reason, .. }) = self.start(idle_timeout).await {
            self.not_running = reason.message;
        }
    }

    pub(super) async fn start(&mut self, idle_timeout: Option<Duration>) -> Result<(), NotStarted> {
        let Some(capabilities) = &self.capabilities else { return Ok(()) };
        self.program.limits.idle_timeout = idle_timeout.unwrap_or_default();
        let started = start::start(&self.program, capabilities, &self.observer).await?;
        self.running = Some(started);
        Ok(())
    }

    async fn stop_running(&mut self) {
        if let Some(started) = self.running.take() {
            let _ = started.child.stop(Duration::ZERO).await;
        }
    }

    /// Sends a request and waits for the response, up to the timeout.
    pub(super) async fn send(&self, raw_request: RawRequest) -> Result<HttpResponse, StepFailure> {
        let line = format!("{} /{}", raw_request.method, raw_request.endpoint);
        let client = &self.live()?.live.client;
        match timeout(RESPONSE_TIMEOUT, client.send::<Async>(&raw_request.into_http())).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => failed(format!("`{line}` was not answered: {}", error.message)),
            Err(_) => {
                let waited = RESPONSE_TIMEOUT.as_secs();
                failed(format!("`{line}` was not answered within {waited} s"))
            }
        }
    }

    /// Records the outcome of a step, and makes sure that a process runs for the next one.
    pub(super) async fn conclude(&mut self, name: &'static str, outcome: Outcome) {
        let has_failed = matches!(outcome, Err(StepFailure::Failed(_)));
        let outcome = match self.take_crash(has_failed).await {
            None => outcome,
            Some(how) => match outcome {
                Ok(_) | Err(StepFailure::Skipped(_)) => failed(how),
                Err(StepFailure::Failed(Diagnosis { message, hint })) => failed(Diagnosis {
                    message: format!("{message}; {}", how.message),
                    hint: how.hint.or(hint),
                }),
            },
        };
        self.record(name, outcome);
        if has_failed && self.running.is_some() && !self.still_serves().await {
            self.start_again(None).await;
        }
    }

    /// Returns how the process exited, if it did unexpectedly, and starts a new one.
    async fn take_crash(&mut self, may_just_fall: bool) -> Option<Diagnosis> {
        let started = self.running.as_mut()?;
        let status = match may_just_fall {
            true => timeout(CRASH_TIMEOUT, started.child.wait()).await.ok()?,
            false => started.child.try_wait()?,
        };
        let path = self.program.staged.path();
        let how = diagnose::of_exit(status, &path, &lock(&started.tail));
        self.start_again(None).await;
        Some(how.map_message(|how| format!("the process exited unexpectedly: {how}")))
    }

    /// Returns whether it responds on a new connection.
    pub(super) async fn still_serves(&self) -> bool {
        let Some(started) = &self.running else { return false };
        let client = &started.live.client;
        let exchange = async {
            let mut connection = client.connect::<Async>().await?;
            let request = client.request(&RawRequest::get("healthz").into_http())?;
            connection.exchange(request, MAX_RESPONSE_BYTES).await
        };
        matches!(timeout(LIVENESS_TIMEOUT, exchange).await, Ok(Ok(_)))
    }
}

/// Discards log output: failure messages quote the last lines from the tail instead.
struct SilentObserver;

impl ProcessObserver for SilentObserver {
    fn wrote(&self, _: &Record<'_>) {}

    fn log(&self, _: &Record<'_>) -> Result<(), ServiceError> {
        Ok(())
    }

    fn log_level(&self) -> u32 {
        5
    }

    fn thread_panicked(&self, _: &str, _: &str) {}

    fn exited(&self, _: u32, _: Diagnosis) {}

    fn listens_beyond_loopback(&self, _: u32, _: std::net::SocketAddr) {}

    fn restarted(&self, _: u32, _: Duration) {}

    fn not_restarted(&self, _: &Diagnosis) {}
}
