//! Calls as a host makes them: empty, as asked for, many at once, large, with a deadline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::http::Async;
use super::answers::{Proper, proper};
use super::kit::{RawRequest, TestKit};
use super::{ANSWER_WAIT_MAX, Outcome, Sample, failed, skipped};

/// Requests at once.
const AT_ONCE: usize = 8;
const LARGE_BYTES: usize = 1 << 20;
/// A deadline that leaves time enough.
const DEADLINE_IN: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// What the protocol itself has at these names; none of them is a use for the plugin.
const OF_THE_PROTOCOL: [&str; 5] = ["batch", "healthz", "restore", "shutdown", "snapshot"];

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
    /// The endpoint that calls go to: `execute`, or the first of the plugin's own.
    pub(super) fn call_endpoint(&self) -> String {
        let endpoints = self.capabilities.iter().flat_map(|told| &told.endpoints);
        let mut calls = endpoints.filter(|name| !OF_THE_PROTOCOL.contains(&name.as_str()));
        let first = calls.clone().next();
        let execute = calls.find(|name| *name == "execute");
        execute.or(first).cloned().unwrap_or_else(|| "healthz".to_owned())
    }

    /// The token of this launch.
    pub(super) fn token(&self) -> Option<&str> {
        let client = &self.running.as_ref()?.live.client;
        client.token().and_then(|token| token.to_str().ok())
    }

    /// The input that is known to be good, or none at all.
    pub(super) fn usual(&self) -> Sample {
        self.sample.clone().unwrap_or_else(Sample::empty)
    }

    async fn call(&self, what: &str, knock: RawRequest) -> Outcome {
        let answer = self.ask(knock).await?;
        match proper(&answer) {
            Ok(proper) => Ok(format!("{what} was answered {}", proper.told())),
            Err(why) => failed(format!("{what}: {why}")),
        }
    }
}

pub(super) async fn empty_input(kit: &TestKit) -> Outcome {
    kit.ours()?;
    kit.call("an empty body", RawRequest::post(&kit.call_endpoint(), Sample::empty())).await
}

pub(super) async fn sample(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let Some(sample) = kit.sample.clone() else {
        return skipped("there is no sample; give one by --text or --input");
    };
    let answer = kit.ask(RawRequest::post(&kit.call_endpoint(), sample)).await?;
    match proper(&answer) {
        Ok(Proper::Output) => {
            let bytes = answer.body.len();
            Ok(format!(
                "the sample was answered 200 with {bytes} bytes of {}",
                answer.content_type()
            ))
        }
        Ok(error) => Ok(format!("the sample was answered {}", error.told())),
        Err(why) => failed(format!("the sample: {why}")),
    }
}

/// Several requests at once, each on a connection of its own that stays open until all are
/// answered, as those of a host do.
pub(super) async fn at_once(kit: &TestKit) -> Outcome {
    let client = &kit.live()?.live.client;
    let knock = match kit.is_ours() {
        true => RawRequest::post(&kit.call_endpoint(), kit.usual()),
        false => RawRequest::get("healthz"),
    };
    let ask = knock.ask();
    let mut answering = JoinSet::new();
    for _ in 0..AT_ONCE {
        let connects = timeout(ANSWER_WAIT_MAX, client.connect::<Async>()).await;
        let (Ok(Ok(mut connection)), Ok(request)) = (connects, client.request(&ask)) else {
            return failed(format!(
                "a new connection is not accepted while {} are open; accept each as it comes",
                answering.len()
            ));
        };
        answering.spawn(async move {
            let answer = connection.exchange(request, ANSWER_BYTES_MAX).await;
            (answer, connection)
        });
    }
    let mut open = Vec::new();
    let all = async {
        while let Some(Ok((answer, connection))) = answering.join_next().await {
            let answer = answer.map_err(|broken| format!("one was lost: {}", broken.message))?;
            proper(&answer)?;
            open.push(connection);
        }
        Ok::<_, String>(())
    };
    match timeout(ANSWER_WAIT_MAX, all).await {
        Ok(Ok(())) => Ok(format!("{AT_ONCE} on {AT_ONCE} connections were answered")),
        Ok(Err(why)) => failed(format!("of {AT_ONCE} requests at once, {why}")),
        Err(_) => failed(format!(
            "of {AT_ONCE} requests at once, only {} were answered within {} s; serve each \
             connection on a thread or task of its own, since a host keeps them open",
            open.len(),
            ANSWER_WAIT_MAX.as_secs()
        )),
    }
}

pub(super) async fn large_body(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let large = Sample { bytes: vec![b'x'; LARGE_BYTES].into(), ..Sample::empty() };
    kit.call("1 MiB", RawRequest::post(&kit.call_endpoint(), large)).await
}

/// The header that says how many milliseconds are left, and a trace.
pub(super) async fn deadline(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let mut knock = RawRequest::post(&kit.call_endpoint(), kit.usual());
    knock.deadline = Some(Instant::now() + DEADLINE_IN);
    kit.call("a call with `Hotbay-Deadline-Ms`", knock).await
}
