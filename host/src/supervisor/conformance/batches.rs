//! Step `batch`: one reply per request, in order, each the same as for a separate call.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Value, json};

use super::answers::{self, ParsedReply, parse_reply, shown};
use super::kit::{RawRequest, TestKit};
use super::{Outcome, Sample, StepFailure, failed, skipped};

/// The outcome of one input.
#[derive(Debug, PartialEq, Eq)]
enum SingleReply {
    Output(Vec<u8>),
    Error,
}

pub(super) async fn batch(kit: &TestKit) -> Outcome {
    if !kit.ours()?.endpoints.contains("batch") {
        return skipped("the program has no endpoint `batch`");
    }
    if kit.call_endpoint() != "execute" {
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
        let response = kit.send(RawRequest::post("execute", input.clone())).await?;
        all.push(match parse_reply(&response)? {
            ParsedReply::Output => SingleReply::Output(response.body),
            ParsedReply::Error { .. } => SingleReply::Error,
        });
    }
    Ok(all)
}

async fn replies(kit: &TestKit, batch: &Value) -> Result<Vec<Value>, StepFailure> {
    let response = kit.send(RawRequest::post("batch", json_sample(batch.to_string()))).await?;
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
        return match answers::error(error) {
            Some(_) => Ok(SingleReply::Error),
            None => Err(format!("has the error {error}; expected `code` and `message` in it")),
        };
    }
    let Some(body) = reply["body"].as_str() else {
        let reply = shown(reply.to_string().as_bytes());
        return Err(format!("is {reply}; expected `contentType` and `body`, or `error`"));
    };
    STANDARD
        .decode(body)
        .map(SingleReply::Output)
        .map_err(|error| format!("is not base64: {error}"))
}

/// Sends malformed batches, which may be rejected as a whole.
async fn malformed(kit: &TestKit) -> Result<(), StepFailure> {
    let bad = r#"{"requests":[{"contentType":"text/plain","body":"?"}]}"#;
    for text in ["[]", bad] {
        let context = |problem| format!("after the malformed batch `{text}`: {problem}");
        let response = kit.send(RawRequest::post("batch", json_sample(text.to_owned()))).await;
        let response = response.map_err(|failure| match failure {
            StepFailure::Failed(problem) => StepFailure::Failed(problem.map_message(context)),
            skipped => skipped,
        })?;
        parse_reply(&response).map_err(context)?;
    }
    Ok(())
}

fn json_sample(text: String) -> Sample {
    Sample { content_type: HeaderValue::from_static("application/json"), bytes: text.into() }
}

impl SingleReply {
    fn describe(&self) -> String {
        match self {
            Self::Output(bytes) => shown(bytes),
            Self::Error => "an error".to_owned(),
        }
    }
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
