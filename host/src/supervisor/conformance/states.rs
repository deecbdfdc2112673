//! The state's way from one process into the next: `/snapshot`, and `/restore` before any call.

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};

use super::super::http::{HttpResponse, SNAPSHOT_VERSION};
use super::answers::shown;
use super::kit::{RawRequest, TestKit};
use super::{Outcome, failed, skipped};

/// A state as it was told.
pub(super) struct State {
    version: u32,
    bytes: Vec<u8>,
}

/// Asks for the state that all the calls before have made.
pub(super) async fn snapshot(kit: &TestKit) -> (Outcome, Option<State>) {
    match told(kit).await {
        Ok(Some(state)) => {
            let found = format!("{} bytes of version {}", state.bytes.len(), state.version);
            (Ok(found), Some(state))
        }
        Ok(None) => (Ok("it has no state".to_owned()), None),
        Err(not) => (Err(not), None),
    }
}

async fn told(kit: &TestKit) -> Result<Option<State>, super::StepFailure> {
    if !kit.ours()?.endpoints.contains("snapshot") {
        return skipped("`snapshot` is not among its endpoints");
    }
    let answer = kit.ask(RawRequest::get("snapshot")).await?;
    check_ok(&answer, "GET /snapshot")?;
    let Some(version) = answer.headers.get(SNAPSHOT_VERSION) else {
        return match answer.body.is_empty() {
            true => Ok(None),
            false => failed(
                "`GET /snapshot` was answered with bytes and without the header \
                 `Hotbay-Snapshot-Version`; wanted the header, a whole number, or an empty body \
                 where there is no state",
            ),
        };
    };
    let number = version.to_str().ok().and_then(|version| version.parse().ok());
    match number {
        Some(version) => Ok(Some(State { version, bytes: answer.body })),
        None => failed(format!(
            "the header `Hotbay-Snapshot-Version` is {version:?}; wanted a whole number below 2^32"
        )),
    }
}

/// Gives a new process the state of another, which then tells it again.
pub(super) async fn restore(kit: &TestKit, state: Option<State>) -> Outcome {
    if !kit.ours()?.endpoints.contains("restore") {
        return skipped("`restore` is not among its endpoints");
    }
    let Some(state) = state else {
        return skipped("there is no state to restore; a sample may make one");
    };
    let mut knock = RawRequest::get("restore");
    knock.method = Method::POST;
    knock.content_type = HeaderValue::from_static("application/octet-stream");
    knock.headers = vec![(SNAPSHOT_VERSION, HeaderValue::from(state.version))];
    knock.body = state.bytes.clone().into();
    check_ok(&kit.ask(knock).await?, "POST /restore")?;
    match told(kit).await {
        Ok(Some(again)) if again.bytes == state.bytes => {
            Ok("a new process took the state and told the same".to_owned())
        }
        // What else is in it, such as the time, may differ.
        Ok(Some(_)) => Ok("a new process took the state".to_owned()),
        Ok(None) => {
            failed("after `/restore`, `/snapshot` tells no state; wanted the one that was restored")
        }
        Err(super::StepFailure::Skipped(_)) => Ok("a new process took the state".to_owned()),
        Err(not) => Err(not),
    }
}

fn check_ok(answer: &HttpResponse, asked: &str) -> Result<(), String> {
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    Err(format!(
        "`{asked}` was answered {} with {}; wanted 200",
        answer.status.as_u16(),
        shown(&answer.body)
    ))
}
