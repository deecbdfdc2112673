//! Steps that call the program as a host does: empty input, a sample, concurrently, large input,
//! with a deadline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::http::Async;
use super::answers::{ParsedReply, parse_reply};
use super::kit::{RawRequest, TestKit};
use super::{Outcome, RESPONSE_TIMEOUT, Sample, failed, skipped};
use crate::error::Diagnosis;

/// Number of concurrent requests.
const CONCURRENT_REQUESTS: usize = 8;
const LARGE_BYTES: usize = 1 << 20;
/// A deadline that is never reached.
const DEADLINE: Duration = Duration::from_secs(5);
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// Endpoints of the protocol itself, which are not functions of the plugin.
const PROTOCOL_ENDPOINTS: [&str; 5] = ["batch", "healthz", "restore", "shutdown", "snapshot"];

impl Sample {
    pub(super) fn empty() -> Self {
        Self::text("")
    }

    pub(super) fn text(text: &'static str) -> Self {
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        Self { content_type, bytes: Bytes::from_static(text.as_bytes()) }
    }
}

impl TestKit {
    /// Returns the endpoint to call: `execute`, or the first of the plugin's own endpoints.
    pub(super) fn call_endpoint(&self) -> String {
        let endpoints = self.capabilities.iter().flat_map(|capabilities| &capabilities.endpoints);
        let mut calls = endpoints.filter(|name| !PROTOCOL_ENDPOINTS.contains(&name.as_str()));
        let first = calls.clone().next();
        let execute = calls.find(|name| *name == "execute");
        execute.or(first).cloned().unwrap_or_else(|| "healthz".to_owned())
    }

    /// Returns the token of this launch.
    pub(super) fn token(&self) -> Option<&str> {
        let client = &self.running.as_ref()?.live.client;
        client.token().and_then(|token| token.to_str().ok())
    }

    /// Returns the sample, or an empty input.
    pub(super) fn sample_or_empty(&self) -> Sample {
        self.sample.clone().unwrap_or_else(Sample::empty)
    }

    async fn call(&self, what: &str, raw_request: RawRequest) -> Outcome {
        let response = self.send(raw_request).await?;
        match parse_reply(&response) {
            Ok(parse_reply) => Ok(format!("{what} returned {}", parse_reply.describe())),
            Err(problem) => failed(format!("{what}: {problem}")),
        }
    }
}

pub(super) async fn empty_input(kit: &TestKit) -> Outcome {
    kit.ours()?;
    kit.call(
        "a request with an empty body",
        RawRequest::post(&kit.call_endpoint(), Sample::empty()),
    )
    .await
}

pub(super) async fn sample(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let Some(sample) = kit.sample.clone() else {
        let hint = "pass a sample with `--text` or `--input`";
        return skipped(Diagnosis::new("no sample was given", hint));
    };
    let response = kit.send(RawRequest::post(&kit.call_endpoint(), sample)).await?;
    match parse_reply(&response) {
        Ok(ParsedReply::Output) => {
            let bytes = response.body.len();
            Ok(format!("the sample returned 200 with {bytes} bytes of {}", response.content_type()))
        }
        Ok(error) => Ok(format!("the sample returned {}", error.describe())),
        Err(problem) => failed(format!("the sample: {problem}")),
    }
}

/// Sends several requests at once, each on its own connection that stays open until all are
/// answered, as a host does.
pub(super) async fn concurrency(kit: &TestKit) -> Outcome {
    let client = &kit.live()?.live.client;
    let raw_request = match kit.is_ours() {
        true => RawRequest::post(&kit.call_endpoint(), kit.sample_or_empty()),
        false => RawRequest::get("healthz"),
    };
    let http_request = raw_request.into_http();
    let mut responding = JoinSet::new();
    for _ in 0..CONCURRENT_REQUESTS {
        let connects = timeout(RESPONSE_TIMEOUT, client.connect::<Async>()).await;
        let (Ok(Ok(mut connection)), Ok(request)) = (connects, client.request(&http_request))
        else {
            let open = responding.len();
            return failed(Diagnosis::new(
                format!(
                    "the program accepted only {open} of {CONCURRENT_REQUESTS} concurrent connections"
                ),
                "accept connections at any time",
            ));
        };
        responding.spawn(async move {
            let response = connection.exchange(request, MAX_RESPONSE_BYTES).await;
            (response, connection)
        });
    }
    let mut open = Vec::new();
    let all = async {
        while let Some(Ok((response, connection))) = responding.join_next().await {
            let response = response.map_err(|error| error.message)?;
            parse_reply(&response)?;
            open.push(connection);
        }
        Ok::<_, String>(())
    };
    match timeout(RESPONSE_TIMEOUT, all).await {
        Ok(Ok(())) => Ok(format!(
            "{CONCURRENT_REQUESTS} requests on {CONCURRENT_REQUESTS} connections were answered"
        )),
        Ok(Err(problem)) => {
            failed(format!("one of {CONCURRENT_REQUESTS} concurrent requests failed: {problem}"))
        }
        Err(_) => failed(Diagnosis::new(
            format!(
                "the program answered only {} of {CONCURRENT_REQUESTS} concurrent requests within {} s",
                open.len(),
                RESPONSE_TIMEOUT.as_secs()
            ),
            "serve each connection on its own thread or task, since a host keeps connections open",
        )),
    }
}

pub(super) async fn large_body(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let large = Sample { bytes: vec![b'x'; LARGE_BYTES].into(), ..Sample::empty() };
    kit.call("a request with a body of 1 MiB", RawRequest::post(&kit.call_endpoint(), large)).await
}

/// Sends a call with the deadline header.
pub(super) async fn deadline(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let mut raw_request = RawRequest::post(&kit.call_endpoint(), kit.sample_or_empty());
    raw_request.deadline = Some(Instant::now() + DEADLINE);
    kit.call("a call with `Hotbay-Deadline-Ms`", raw_request).await
}
