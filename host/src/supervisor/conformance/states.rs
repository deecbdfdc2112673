//! Steps that transfer the state from one process to the next: `/snapshot`, then `/restore` before
//! any call.

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};

use super::super::http::{HttpResponse, SNAPSHOT_VERSION};
use super::answers::shown;
use super::kit::{RawRequest, TestKit};
use super::{Outcome, failed, skipped};
use crate::error::Diagnosis;

/// A state as returned by the program.
pub(super) struct State {
    version: u32,
    bytes: Vec<u8>,
}

/// Queries the state that the calls so far have produced.
pub(super) async fn snapshot(kit: &TestKit) -> (Outcome, Option<State>) {
    match query_snapshot(kit).await {
        Ok(Some(state)) => {
            let found = format!("{} bytes of version {}", state.bytes.len(), state.version);
            (Ok(found), Some(state))
        }
        Ok(None) => (Ok("it has no state".to_owned()), None),
        Err(not) => (Err(not), None),
    }
}

async fn query_snapshot(kit: &TestKit) -> Result<Option<State>, super::StepFailure> {
    if !kit.ours()?.endpoints.contains("snapshot") {
        return skipped("the program has no endpoint `snapshot`");
    }
    let response = kit.send(RawRequest::get("snapshot")).await?;
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
pub(super) async fn restore(kit: &TestKit, state: Option<State>) -> Outcome {
    if !kit.ours()?.endpoints.contains("restore") {
        return skipped("the program has no endpoint `restore`");
    }
    let Some(state) = state else {
        let hint = "pass a sample that creates a state";
        return skipped(Diagnosis::new("the snapshot has no state to restore", hint));
    };
    let mut request = RawRequest::get("restore");
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
        Err(super::StepFailure::Skipped(_)) => Ok("a new process restored the state".to_owned()),
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
