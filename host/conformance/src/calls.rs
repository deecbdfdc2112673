//! Steps that call the program as a host does: empty input, a sample, concurrently, large input,
//! with a deadline, in batches; and steps that transfer the state from one process to the next:
//! `/snapshot`, then `/restore` before any call.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hotbay_process::Diagnosis;
use hotbay_process::unsupervised::{HttpResponse, SNAPSHOT_VERSION};
use hotbay_protocol::endpoint;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::kit::{
    ParsedReply, RESPONSE_TIMEOUT, RawRequest, Sample, TestKit, error_message, parse_reply, shown,
};
use crate::report::{Outcome, StepFailure, failed, skipped};

/// Number of concurrent requests.
const CONCURRENT_REQUESTS: usize = 8;
const LARGE_BYTES: usize = 1 << 20;
/// A deadline that is never reached.
const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) async fn empty_input(kit: &TestKit) -> Outcome {
    kit.ours()?;
    kit.call(
        "a request with an empty body",
        RawRequest::post(&kit.call_endpoint(), Sample::empty()),
    )
    .await
}

pub(crate) async fn sample(kit: &TestKit) -> Outcome {
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
pub(crate) async fn concurrency(kit: &TestKit) -> Outcome {
    let client = kit.live()?.client();
    let raw_request = match kit.is_ours() {
        true => RawRequest::post(&kit.call_endpoint(), kit.sample_or_empty()),
        false => RawRequest::get(endpoint::HEALTH),
    };
    let http_request = raw_request.into_http();
    let mut responding = JoinSet::new();
    for _ in 0..CONCURRENT_REQUESTS {
        let Ok(Ok(mut connection)) = timeout(RESPONSE_TIMEOUT, client.open()).await else {
            let open = responding.len();
            return failed(Diagnosis::new(
                format!(
                    "the program accepted only {open} of {CONCURRENT_REQUESTS} concurrent connections"
                ),
                "accept connections at any time",
            ));
        };
        let http_request = http_request.clone();
        responding.spawn(async move {
            let response = connection.request(&http_request).await;
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

pub(crate) async fn large_body(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let large = Sample { bytes: vec![b'x'; LARGE_BYTES].into(), ..Sample::empty() };
    kit.call("a request with a body of 1 MiB", RawRequest::post(&kit.call_endpoint(), large)).await
}

/// Sends a call with the deadline header.
pub(crate) async fn deadline(kit: &TestKit) -> Outcome {
    kit.ours()?;
    let mut raw_request = RawRequest::post(&kit.call_endpoint(), kit.sample_or_empty());
    raw_request.deadline = Some(Instant::now() + DEADLINE);
    kit.call("a call with `Hotbay-Deadline-Ms`", raw_request).await
}

/// The outcome of one input.
#[derive(Debug, PartialEq, Eq)]
enum SingleReply {
    Output(Vec<u8>),
    Error,
}

pub(crate) async fn batch(kit: &TestKit) -> Outcome {
    if !kit.ours()?.endpoints.contains(endpoint::BATCH) {
        return skipped("the program has no endpoint `batch`");
    }
    if kit.call_endpoint() != endpoint::EXECUTE {
        return skipped("the program has no endpoint `execute`, which a batch calls");
    }
    let inputs = inputs(kit);
    let before = single_replies(kit, &inputs).await?;
    let requests: Vec<_> = inputs.iter().map(entry).collect();
    let replies = replies(kit, &json!({ "requests": requests })).await?;
    let after = single_replies(kit, &inputs).await?;
    if replies.len() != inputs.len() {
        return failed(format!(
            "{} requests got {} replies; expected one reply per request, in order",
            inputs.len(),
            replies.len()
        ));
    }
    let mut errors = 0;
    for (at, reply) in replies.iter().enumerate() {
        let in_batch = parse(reply).map_err(|problem| format!("reply {at} {problem}"))?;
        errors += usize::from(in_batch == SingleReply::Error);
        // Responses that differ from call to call cannot be compared.
        if before[at] == after[at] && in_batch != before[at] {
            return failed(format!(
                "reply {at} is {}, but the same request to `/execute` returns {}; expected equal \
                 replies, in the order of the requests",
                in_batch.describe(),
                before[at].describe()
            ));
        }
    }
    malformed(kit).await?;
    Ok(format!("{} requests got {} replies, {errors} of them errors", inputs.len(), replies.len()))
}

/// Returns inputs with probably different outcomes, with an invalid one in the middle.
fn inputs(kit: &TestKit) -> Vec<Sample> {
    let bad = Sample {
        content_type: HeaderValue::from_static("application/json"),
        bytes: Bytes::from_static(b"\xff\xfe not JSON, not text"),
    };
    vec![kit.sample_or_empty(), Sample::text("a"), bad, Sample::text("a b c"), Sample::empty()]
}

fn entry(sample: &Sample) -> Value {
    let content_type = sample.content_type.to_str().unwrap_or("application/octet-stream");
    json!({ "contentType": content_type, "body": STANDARD.encode(&sample.bytes) })
}

async fn single_replies(kit: &TestKit, inputs: &[Sample]) -> Result<Vec<SingleReply>, StepFailure> {
    let mut all = Vec::new();
    for input in inputs {
        let response = kit.send(RawRequest::post(endpoint::EXECUTE, input.clone())).await?;
        all.push(match parse_reply(&response)? {
            ParsedReply::Output => SingleReply::Output(response.body),
            ParsedReply::Error { .. } => SingleReply::Error,
        });
    }
    Ok(all)
}

async fn replies(kit: &TestKit, batch: &Value) -> Result<Vec<Value>, StepFailure> {
    let response =
        kit.send(RawRequest::post(endpoint::BATCH, Sample::json(batch.to_string()))).await?;
    if response.status != StatusCode::OK {
        return failed(format!(
            "`POST /batch` returned {} with {}; expected 200 even if some of the calls fail",
            response.status.as_u16(),
            shown(&response.body)
        ));
    }
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    match body["replies"].as_array() {
        Some(replies) => Ok(replies.clone()),
        None => failed(format!(
            "`POST /batch` returned {}; expected {{\"replies\":[…]}}",
            shown(&response.body)
        )),
    }
}

/// Parses one reply of a batch.
fn parse(reply: &Value) -> Result<SingleReply, String> {
    if let Some(error) = reply.get("error").filter(|error| !error.is_null()) {
        return match error_message(error) {
            Some(_) => Ok(SingleReply::Error),
            None => {
                let error = shown(error.to_string().as_bytes());
                Err(format!("has the error {error}; expected `code` and `message` in it"))
            }
        };
    }
    let Some(body) = reply["body"].as_str() else {
        let reply = shown(reply.to_string().as_bytes());
        return Err(format!("is {reply}; expected `contentType` and `body`, or `error`"));
    };
    STANDARD
        .decode(body)
        .map(SingleReply::Output)
        .map_err(|error| format!("has a `body` that is not base64: {error}"))
}

/// Sends malformed batches, which may be rejected as a whole.
async fn malformed(kit: &TestKit) -> Result<(), StepFailure> {
    let bad = r#"{"requests":[{"contentType":"text/plain","body":"?"}]}"#;
    for text in ["[]", bad] {
        let context = |problem| format!("after the malformed batch `{text}`: {problem}");
        let response =
            kit.send(RawRequest::post(endpoint::BATCH, Sample::json(text.to_owned()))).await;
        let response = response.map_err(|failure| match failure {
            StepFailure::Failed(problem) => StepFailure::Failed(problem.map_message(context)),
            skipped => skipped,
        })?;
        parse_reply(&response).map_err(context)?;
    }
    Ok(())
}

impl SingleReply {
    fn describe(&self) -> String {
        match self {
            Self::Output(bytes) => shown(bytes),
            Self::Error => "an error".to_owned(),
        }
    }
}

/// A state as returned by the program.
pub(crate) struct State {
    version: u32,
    bytes: Vec<u8>,
}

/// Queries the state that the calls so far have produced.
pub(crate) async fn snapshot(kit: &TestKit) -> (Outcome, Option<State>) {
    match query_snapshot(kit).await {
        Ok(Some(state)) => {
            let found = format!("{} bytes of version {}", state.bytes.len(), state.version);
            (Ok(found), Some(state))
        }
        Ok(None) => (Ok("it has no state".to_owned()), None),
        Err(not) => (Err(not), None),
    }
}

async fn query_snapshot(kit: &TestKit) -> Result<Option<State>, StepFailure> {
    if !kit.ours()?.endpoints.contains(endpoint::SNAPSHOT) {
        return skipped("the program has no endpoint `snapshot`");
    }
    let response = kit.send(RawRequest::get(endpoint::SNAPSHOT)).await?;
    check_ok(&response, "GET /snapshot")?;
    let Some(version) = response.headers.get(SNAPSHOT_VERSION) else {
        return match response.body.is_empty() {
            true => Ok(None),
            false => failed(
                "`GET /snapshot` returned bytes without the header `Hotbay-Snapshot-Version`; \
                 expected the header with a whole number, or an empty body if there is no state",
            ),
        };
    };
    let number = version.to_str().ok().and_then(|version| version.parse().ok());
    match number {
        Some(version) => Ok(Some(State { version, bytes: response.body })),
        None => failed(format!(
            "the header `Hotbay-Snapshot-Version` is {version:?}; expected a whole number below 2^32"
        )),
    }
}

/// Restores the state of another process in a new one, and queries it again.
pub(crate) async fn restore(kit: &TestKit, state: Option<State>) -> Outcome {
    if !kit.ours()?.endpoints.contains(endpoint::RESTORE) {
        return skipped("the program has no endpoint `restore`");
    }
    let Some(state) = state else {
        let hint = "pass a sample that creates a state";
        return skipped(Diagnosis::new("the snapshot has no state to restore", hint));
    };
    let mut request = RawRequest::get(endpoint::RESTORE);
    request.method = Method::POST;
    request.content_type = HeaderValue::from_static("application/octet-stream");
    request.headers = vec![(SNAPSHOT_VERSION, HeaderValue::from(state.version))];
    request.body = state.bytes.clone().into();
    check_ok(&kit.send(request).await?, "POST /restore")?;
    match query_snapshot(kit).await {
        Ok(Some(again)) if again.bytes == state.bytes => {
            Ok("a new process restored the state and returned the same snapshot".to_owned())
        }
        // Other content, such as the time, may differ.
        Ok(Some(_)) => Ok("a new process restored the state".to_owned()),
        Ok(None) => {
            failed("after `/restore`, `/snapshot` returned no state; expected the restored state")
        }
        Err(StepFailure::Skipped(_)) => Ok("a new process restored the state".to_owned()),
        Err(failure) => Err(failure),
    }
}

fn check_ok(response: &HttpResponse, request: &str) -> Result<(), String> {
    if response.status == StatusCode::OK {
        return Ok(());
    }
    Err(format!(
        "`{request}` returned {} with {}; expected 200",
        response.status.as_u16(),
        shown(&response.body)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_is_an_output_or_an_error() {
        assert_eq!(parse(&json!({ "body": "aGk=" })), Ok(SingleReply::Output(b"hi".to_vec())));
        let error = json!({ "error": { "code": 7, "message": "no" } });
        assert_eq!(parse(&error), Ok(SingleReply::Error));
        assert!(parse(&json!({ "error": "no" })).unwrap_err().contains("expected `code`"));
        assert!(parse(&json!({ "body": "?" })).unwrap_err().contains("not base64"));
        assert!(parse(&json!({})).unwrap_err().contains("expected `contentType` and `body`"));
    }
}
