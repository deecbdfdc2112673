//! The kit itself: the program, what it says of itself, the process that is asked just now, and
//! what was told so far.

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
use super::{ANSWER_WAIT_MAX, Outcome, Sample, StepFailure, failed, skipped};
use crate::conformance::Conformance;
use crate::sync::lock;

/// How long a process that just misbehaved may take to be seen as ended.
const FALL_WAIT_MAX: Duration = Duration::from_millis(300);
/// How long a process may take to show that it still serves.
const LIFE_WAIT_MAX: Duration = Duration::from_secs(3);
/// An answer that is longer is not read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Holds one program against the protocol.
pub(crate) struct TestKit {
    pub(super) program: Program,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) sample: Option<Sample>,
    pub(crate) report: Report,
    pub(super) running: Option<Started>,
    /// Why nothing runs.
    pub(super) not_running: String,
    overseer: ObserverRef,
    /// What the ends of processes left behind.
    pub(super) left: Arc<Mutex<Vec<String>>>,
}

/// One request, of which most is usual.
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

    pub(super) fn ask(self) -> HttpRequest {
        let Self { method, endpoint, content_type, body, headers, deadline } = self;
        let answer_bytes_max = ANSWER_BYTES_MAX;
        HttpRequest { method, endpoint, content_type, body, deadline, headers, answer_bytes_max }
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
            not_running: "it was not started".to_owned(),
            overseer: Arc::new(SilentObserver),
            left: Arc::default(),
        }
    }

    pub(super) fn tell(&mut self, name: &'static str, outcome: Outcome) {
        self.report.add(name, outcome);
    }

    /// Everything else, once its capabilities were asked for.
    pub(crate) async fn finish(mut self) -> Conformance {
        if self.capabilities.is_none() {
            return self.report.finish("its capabilities are not known");
        }
        self.lead().await;
        self.end_what_runs().await;
        let why = format!("it could not be asked: {}", self.not_running);
        self.report.finish(&why)
    }

    pub(super) fn is_ours(&self) -> bool {
        let dialect = self.capabilities.as_ref().map(|capabilities| capabilities.dialect);
        matches!(dialect, Some(Dialect::Ours { .. }))
    }

    /// For steps that only our own protocol has.
    pub(super) fn ours(&self) -> Result<&Capabilities, StepFailure> {
        match &self.capabilities {
            Some(capabilities) if self.is_ours() => Ok(capabilities),
            _ => skipped("older dialect"),
        }
    }

    /// The process that is asked.
    pub(super) fn live(&self) -> Result<&Started, StepFailure> {
        match &self.running {
            Some(started) => Ok(started),
            None => skipped(format!("it could not be started: {}", self.not_running)),
        }
    }

    /// Starts it, if it does not run; `idle_max` none is for ever.
    pub(super) async fn start_again(&mut self, idle_max: Option<Duration>) {
        self.end_what_runs().await;
        if let Err(NotStarted { message, .. }) = self.start(idle_max).await {
            self.not_running = message;
        }
    }

    pub(super) async fn start(&mut self, idle_max: Option<Duration>) -> Result<(), NotStarted> {
        let Some(capabilities) = &self.capabilities else { return Ok(()) };
        self.program.limits.idle_max = idle_max.unwrap_or_default();
        let started = start::start(&self.program, capabilities, &self.overseer).await?;
        self.running = Some(started);
        Ok(())
    }

    async fn end_what_runs(&mut self) {
        if let Some(started) = self.running.take() {
            let _ = started.child.stop(Duration::ZERO).await;
        }
    }

    /// Asks, for so long as an answer may take.
    pub(super) async fn ask(&self, knock: RawRequest) -> Result<HttpResponse, StepFailure> {
        let asked = format!("{} /{}", knock.method, knock.endpoint);
        let client = &self.live()?.live.client;
        match timeout(ANSWER_WAIT_MAX, client.send::<Async>(&knock.ask())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(broken)) => failed(format!("`{asked}` was not answered: {}", broken.message)),
            Err(_) => {
                let waited = ANSWER_WAIT_MAX.as_secs();
                failed(format!("`{asked}` was not answered within {waited} s"))
            }
        }
    }

    /// Tells what came of a step, and sees that the process is fit for the next one.
    pub(super) async fn conclude(&mut self, name: &'static str, outcome: Outcome) {
        let has_failed = matches!(outcome, Err(StepFailure::Failed(_)));
        let outcome = match self.fallen(has_failed).await {
            None => outcome,
            Some(how) => match outcome {
                Ok(_) | Err(StepFailure::Skipped(_)) => failed(how),
                Err(StepFailure::Failed(why)) => failed(format!("{why}; {how}")),
            },
        };
        self.tell(name, outcome);
        if has_failed && self.running.is_some() && !self.still_serves().await {
            self.start_again(None).await;
        }
    }

    /// Whether it ended though nobody asked it to; how. It is started again.
    async fn fallen(&mut self, may_just_fall: bool) -> Option<String> {
        let started = self.running.as_mut()?;
        let status = match may_just_fall {
            true => timeout(FALL_WAIT_MAX, started.child.wait()).await.ok()?,
            false => started.child.try_wait()?,
        };
        let path = self.program.staged.path();
        let how = diagnose::of_exit(status, &path, &lock(&started.tail));
        self.start_again(None).await;
        Some(format!("it did not live through this: {how}"))
    }

    /// Whether it answers a new connection.
    pub(super) async fn still_serves(&self) -> bool {
        let Some(started) = &self.running else { return false };
        let client = &started.live.client;
        let asks = async {
            let mut connection = client.connect::<Async>().await?;
            let request = client.request(&RawRequest::get("healthz").ask())?;
            connection.exchange(request, ANSWER_BYTES_MAX).await
        };
        matches!(timeout(LIFE_WAIT_MAX, asks).await, Ok(Ok(_)))
    }
}

/// Takes what a program says, and keeps none of it: its last lines stand in what fails.
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

    fn exited(&self, _: u32, _: String) {}

    fn listens_beyond_loopback(&self, _: u32, _: std::net::SocketAddr) {}

    fn restarted(&self, _: u32, _: Duration) {}

    fn not_restarted(&self, _: &str) {}
}
