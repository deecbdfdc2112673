//! The test kit: the program, its capabilities, the running process, and the results so far; and the
//! classes of responses that the protocol allows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hotbay_plugin::ServiceError;
use hotbay_plugin::abi::Record;
use hotbay_plugin::contract::{CallError, CallErrorKind};
use hotbay_process::unsupervised::{self, HttpRequest, HttpResponse, Started, config_channel};
use hotbay_process::{
    Capabilities, ContractCall, ContractFuture, Diagnosis, Error, ObserverRef, ProcessObserver,
    Program,
};
use hotbay_protocol::{CONFIG_ARGUMENT, endpoint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use crate::report::{Outcome, Report, StepFailure, failed, skipped};

/// Time limit of one request.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// An input that the program is known to accept.
#[derive(Clone, Debug)]
pub struct Sample {
    pub(crate) content_type: HeaderValue,
    pub(crate) bytes: Bytes,
}

impl Sample {
    /// Copies an input.
    pub fn new(content_type: &str, bytes: &[u8]) -> Self {
        let content_type = HeaderValue::try_from(content_type);
        Self {
            content_type: content_type
                .unwrap_or(HeaderValue::from_static("application/octet-stream")),
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    pub(crate) fn empty() -> Self {
        Self::text("")
    }

    pub(crate) fn text(text: &'static str) -> Self {
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        Self { content_type, bytes: Bytes::from_static(text.as_bytes()) }
    }

    pub(crate) fn json(text: String) -> Self {
        Self { content_type: HeaderValue::from_static("application/json"), bytes: text.into() }
    }
}

/// Time to wait for the exit of a process that just misbehaved.
const CRASH_TIMEOUT: Duration = Duration::from_millis(300);
/// Time in which a process must prove that it still serves.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest response that is read.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// Checks one program against the protocol.
pub(crate) struct TestKit {
    pub(crate) program: Program,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) sample: Option<Sample>,
    pub(crate) report: Report,
    pub(crate) running: Option<Started>,
    /// The reason no process runs.
    pub(crate) not_running: String,
    observer: ObserverRef,
    /// Descendants left behind by the exits so far.
    left: Mutex<Vec<String>>,
}

/// One request, mostly defaults.
#[derive(Clone)]
pub(crate) struct RawRequest {
    pub(crate) method: Method,
    pub(crate) endpoint: String,
    pub(crate) content_type: HeaderValue,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) deadline: Option<Instant>,
}

impl RawRequest {
    pub(crate) fn get(endpoint: &str) -> Self {
        Self {
            method: Method::GET,
            endpoint: endpoint.to_owned(),
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::new(),
            headers: Vec::new(),
            deadline: None,
        }
    }

    pub(crate) fn post(endpoint: &str, sample: Sample) -> Self {
        let Sample { content_type, bytes: body } = sample;
        Self { method: Method::POST, content_type, body, ..Self::get(endpoint) }
    }

    pub(crate) fn into_http(self) -> HttpRequest {
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
            left: Mutex::default(),
        }
    }

    pub(crate) fn record(&mut self, name: &'static str, outcome: Outcome) {
        self.report.add(name, outcome);
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.capabilities.as_ref().is_some_and(Capabilities::is_ours)
    }

    /// Skips the step unless the program speaks our own protocol.
    pub(crate) fn ours(&self) -> Result<&Capabilities, StepFailure> {
        match &self.capabilities {
            Some(capabilities) if self.is_ours() => Ok(capabilities),
            _ => skipped("older dialect"),
        }
    }

    /// Returns the running process, or skips the step.
    pub(crate) fn live(&self) -> Result<&Started, StepFailure> {
        match &self.running {
            Some(started) => Ok(started),
            None => skipped(format!("it was not started: {}", self.not_running)),
        }
    }

    /// Stops the process, and starts a new one; without `idle_timeout` it never exits by itself.
    pub(crate) async fn start_again(&mut self, idle_timeout: Option<Duration>) {
        self.stop_running().await;
        if let Err(error) = self.start(idle_timeout).await {
            self.not_running = error.to_string();
        }
    }

    pub(crate) async fn start(&mut self, idle_timeout: Option<Duration>) -> Result<(), Error> {
        let Some(capabilities) = &self.capabilities else { return Ok(()) };
        self.program.limits.idle_timeout = idle_timeout.unwrap_or_default();
        let started = unsupervised::start(&self.program, capabilities, &self.observer).await?;
        self.running = Some(started);
        Ok(())
    }

    pub(crate) async fn stop_running(&mut self) {
        if let Some(started) = self.running.take() {
            let _ = started.stop(Duration::ZERO).await;
        }
    }

    /// Sends a request and waits for the response, up to the timeout.
    pub(crate) async fn send(&self, raw_request: RawRequest) -> Result<HttpResponse, StepFailure> {
        let line = format!("{} /{}", raw_request.method, raw_request.endpoint);
        let client = self.live()?.client();
        match timeout(RESPONSE_TIMEOUT, client.request(&raw_request.into_http())).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => failed(format!("`{line}` was not answered: {}", error.message)),
            Err(_) => {
                let waited = RESPONSE_TIMEOUT.as_secs();
                failed(format!("`{line}` was not answered within {waited} s"))
            }
        }
    }

    /// Records the outcome of a step, and makes sure that a process runs for the next one.
    pub(crate) async fn conclude(&mut self, name: &'static str, outcome: Outcome) {
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
            true => timeout(CRASH_TIMEOUT, started.wait()).await.ok()?,
            false => started.try_wait()?,
        };
        let how = started.explain_exit(status, &self.program.copy.path());
        self.start_again(None).await;
        Some(how.map_message(|how| format!("the process exited unexpectedly: {how}")))
    }

    /// Returns the descendants left behind by the exits so far.
    pub(crate) fn left(&self) -> MutexGuard<'_, Vec<String>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the name of the channel by which the program gets its config.
    pub(crate) fn config_channel(&self) -> &'static str {
        let capabilities = self.capabilities.as_ref();
        capabilities.map_or(CONFIG_ARGUMENT, |found| config_channel(&self.program, found))
    }

    /// Returns the endpoint to call: `execute`, or the first of the plugin's own endpoints.
    pub(crate) fn call_endpoint(&self) -> String {
        let endpoints = self.capabilities.iter().flat_map(|capabilities| &capabilities.endpoints);
        let mut calls = endpoints.filter(|name| !endpoint::OF_PROTOCOL.contains(&name.as_str()));
        let first = calls.clone().next();
        let execute = calls.find(|name| *name == endpoint::EXECUTE);
        execute.or(first).cloned().unwrap_or_else(|| endpoint::HEALTH.to_owned())
    }

    /// Returns the token of this launch.
    pub(crate) fn token(&self) -> Option<&str> {
        let client = self.running.as_ref()?.client();
        client.token().and_then(|token| token.to_str().ok())
    }

    /// Returns the sample, or an empty input.
    pub(crate) fn sample_or_empty(&self) -> Sample {
        self.sample.clone().unwrap_or_else(Sample::empty)
    }

    pub(crate) async fn call(&self, what: &str, raw_request: RawRequest) -> Outcome {
        let response = self.send(raw_request).await?;
        match parse_reply(&response) {
            Ok(parse_reply) => Ok(format!("{what} returned {}", parse_reply.describe())),
            Err(problem) => failed(format!("{what}: {problem}")),
        }
    }

    /// Returns whether it responds on a new connection.
    pub(crate) async fn still_serves(&self) -> bool {
        let Some(started) = &self.running else { return false };
        let client = started.client();
        let exchange = async {
            let request = RawRequest::get(endpoint::HEALTH).into_http();
            client.open().await?.request(&request).await
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

    fn call_contract(&self, _: ContractCall) -> ContractFuture {
        let message = "the check of a program offers no contracts";
        let error = CallError::new(CallErrorKind::Unavailable, message);
        Box::pin(std::future::ready(Err(error)))
    }

    fn exited(&self, _: u32, _: Diagnosis) {}

    fn listens_beyond_loopback(&self, _: u32, _: std::net::SocketAddr) {}

    fn restarted(&self, _: u32, _: Duration) {}

    fn not_restarted(&self, _: &Diagnosis) {}
}

/// Characters of a body shown in messages.
const MAX_SHOWN_CHARS: usize = 80;

/// A response that the protocol allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedReply {
    Output,
    Error { status: u16, message: String },
}

impl ParsedReply {
    /// Describes the response, to complete the sentence "it returned …".
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Output => "200".to_owned(),
            Self::Error { status, message } => format!("{status}: {message}"),
        }
    }
}

/// Classifies a response.
///
/// # Errors
///
/// Describes a response that is neither an output nor a well-formed error.
pub(crate) fn parse_reply(response: &HttpResponse) -> Result<ParsedReply, String> {
    let status = response.status;
    if status == StatusCode::OK {
        return Ok(ParsedReply::Output);
    }
    let shown = shown(&response.body);
    if !(status.is_client_error() || status.is_server_error()) {
        return Err(format!(
            "it returned {}; expected 200 for an output, or 4xx or 5xx for an error",
            status.as_u16()
        ));
    }
    let message = error_message(&error_body(&response.body));
    message.map(|message| ParsedReply::Error { status: status.as_u16(), message }).ok_or_else(
        || {
            format!(
                "it returned {} with {shown}; expected JSON with the reason: \
             {{\"code\":…,\"message\":\"…\"}} for an error of the plugin, \
             {{\"message\":\"…\",\"statusCode\":…}} for a request that cannot be served",
                status.as_u16()
            )
        },
    )
}

/// The longest body that is parsed as an error: JSON may take a hundred times as much memory.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// Parses the body of an error; `null` if it is not JSON or too long.
pub(crate) fn error_body(body: &[u8]) -> Value {
    let body = Some(body).filter(|body| body.len() <= MAX_ERROR_BYTES);
    body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default()
}

/// Returns the message of an error in the protocol's form.
pub(crate) fn error_message(value: &Value) -> Option<String> {
    let has_code = ["code", "statusCode"].iter().any(|name| value[name].is_i64());
    let message = value["message"].as_str().filter(|_| has_code)?;
    Some(match value["fault"]["message"].as_str() {
        Some(fault) => format!("{message}: {fault}"),
        None => message.to_owned(),
    })
}

/// Returns the start of a body, for messages.
pub(crate) fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_SHOWN_CHARS)]);
    let text = text.trim();
    if text.is_empty() {
        return "an empty body".to_owned();
    }
    let mut shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderMap;

    fn check(status: u16, body: &str, expect: Result<ParsedReply, &str>) {
        let status = StatusCode::from_u16(status).unwrap();
        let response = HttpResponse { status, headers: HeaderMap::new(), body: body.into() };
        match (parse_reply(&response), expect) {
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned)),
        }
    }

    #[test]
    fn response_is_an_output_or_an_error_with_code_and_message() {
        let error =
            |status, message: &str| ParsedReply::Error { status, message: message.to_owned() };
        check(200, "", Ok(ParsedReply::Output));
        check(422, r#"{"code":7,"message":"no"}"#, Ok(error(422, "no")));
        check(413, r#"{"message":"long","statusCode":413}"#, Ok(error(413, "long")));
        let fault = r#"{"code":500,"message":"panicked","fault":{"message":"oh"}}"#;
        check(500, fault, Ok(error(500, "panicked: oh")));
        check(500, "", Err("returned 500 with an empty body; expected JSON"));
        check(500, "oops", Err("`oops`"));
        check(400, r#"{"error":"no"}"#, Err("expected JSON"));
        check(400, r#"{"message":"no"}"#, Err("expected JSON"));
        check(204, "", Err("returned 204; expected 200"));
    }
}
