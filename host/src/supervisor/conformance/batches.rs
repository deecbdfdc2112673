//! `/batch`: as many replies as requests, in their order, each what a call of its own comes to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Value, json};

use super::answers::{self, Proper, proper, shown};
use super::kit::{RawRequest, TestKit};
use super::{Outcome, Sample, StepFailure, failed, skipped};

/// What one input comes to on its own.
#[derive(Debug, PartialEq, Eq)]
enum Alone {
    Output(Vec<u8>),
    Error,
}

pub(super) async fn batch(kit: &TestKit) -> Outcome {
    if !kit.ours()?.endpoints.contains("batch") {
        return skipped("`batch` is not among its endpoints");
    }
    if kit.call_endpoint() != "execute" {
        return skipped("`execute`, which a batch calls, is not among its endpoints");
    }
    let inputs = inputs(kit);
    let before = alone(kit, &inputs).await?;
    let requests: Vec<_> = inputs.iter().map(entry).collect();
    let replies = replies(kit, &json!({ "requests": requests })).await?;
    let after = alone(kit, &inputs).await?;
    if replies.len() != inputs.len() {
        return failed(format!(
            "{} requests were answered by {} replies; wanted one for each, in their order",
            inputs.len(),
            replies.len()
        ));
    }
    let mut errors = 0;
    for (at, reply) in replies.iter().enumerate() {
        let in_batch = read(reply).map_err(|why| format!("reply {at} {why}"))?;
        errors += usize::from(in_batch == Alone::Error);
        // What differs from call to call cannot be compared.
        if before[at] == after[at] && in_batch != before[at] {
            return failed(format!(
                "reply {at} is {}; the same request comes to {} on its own; wanted replies in the \
                 order of the requests, each as `/execute` answers it",
                in_batch.told(),
                before[at].told()
            ));
        }
    }
    unreadable(kit).await?;
    Ok(format!("{} requests, {} replies, {errors} of them errors", inputs.len(), replies.len()))
}

/// Inputs that are likely to be answered differently, a bad one in their middle.
fn inputs(kit: &TestKit) -> Vec<Sample> {
    let bad = Sample {
        content_type: HeaderValue::from_static("application/json"),
        bytes: Bytes::from_static(b"\xff\xfe no JSON, no text"),
    };
    vec![kit.usual(), Sample::text("a"), bad, Sample::text("a b c"), Sample::empty()]
}

fn entry(sample: &Sample) -> Value {
    let content_type = sample.content_type.to_str().unwrap_or("application/octet-stream");
    json!({ "contentType": content_type, "body": STANDARD.encode(&sample.bytes) })
}

async fn alone(kit: &TestKit, inputs: &[Sample]) -> Result<Vec<Alone>, StepFailure> {
    let mut all = Vec::new();
    for input in inputs {
        let answer = kit.ask(RawRequest::post("execute", input.clone())).await?;
        all.push(match proper(&answer)? {
            Proper::Output => Alone::Output(answer.body),
            Proper::Error { .. } => Alone::Error,
        });
    }
    Ok(all)
}

async fn replies(kit: &TestKit, batch: &Value) -> Result<Vec<Value>, StepFailure> {
    let answer = kit.ask(RawRequest::post("batch", json_sample(batch.to_string()))).await?;
    if answer.status != StatusCode::OK {
        return failed(format!(
            "`POST /batch` was answered {} with {}; wanted 200, also where some of the calls fail",
            answer.status.as_u16(),
            shown(&answer.body)
        ));
    }
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match said["replies"].as_array() {
        Some(replies) => Ok(replies.clone()),
        None => failed(format!(
            "`POST /batch` was answered with {}; wanted {{\"replies\":[…]}}",
            shown(&answer.body)
        )),
    }
}

/// Reads one reply of a batch.
fn read(reply: &Value) -> Result<Alone, String> {
    if let Some(error) = reply.get("error").filter(|error| !error.is_null()) {
        return match answers::error(error) {
            Some(_) => Ok(Alone::Error),
            None => Err(format!("has the error {error}; wanted one with `code` and `message`")),
        };
    }
    let Some(body) = reply["body"].as_str() else {
        let reply = shown(reply.to_string().as_bytes());
        return Err(format!("is {reply}; wanted `contentType` and `body`, or `error`"));
    };
    STANDARD.decode(body).map(Alone::Output).map_err(|error| format!("is no base64: {error}"))
}

/// A batch that is none, which may be refused as a whole.
async fn unreadable(kit: &TestKit) -> Result<(), StepFailure> {
    let bad = r#"{"requests":[{"contentType":"text/plain","body":"?"}]}"#;
    for text in ["[]", bad] {
        let of_it = |why| format!("the batch `{text}`, which cannot be read: {why}");
        let answer = kit.ask(RawRequest::post("batch", json_sample(text.to_owned()))).await;
        let answer = answer.map_err(|not| match not {
            StepFailure::Failed(why) => StepFailure::Failed(of_it(why)),
            not => not,
        })?;
        proper(&answer).map_err(of_it)?;
    }
    Ok(())
}

fn json_sample(text: String) -> Sample {
    Sample { content_type: HeaderValue::from_static("application/json"), bytes: text.into() }
}

impl Alone {
    fn told(&self) -> String {
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
    fn a_reply_is_an_output_or_an_error() {
        assert_eq!(read(&json!({ "body": "aGk=" })), Ok(Alone::Output(b"hi".to_vec())));
        let error = json!({ "error": { "code": 7, "message": "no" } });
        assert_eq!(read(&error), Ok(Alone::Error));
        assert!(read(&json!({ "error": "no" })).unwrap_err().contains("wanted one with `code`"));
        assert!(read(&json!({ "body": "?" })).unwrap_err().contains("no base64"));
        assert!(read(&json!({})).unwrap_err().contains("wanted `contentType` and `body`"));
    }
}
