//! Invalid responses of a process: each becomes an error of its kind, and the same process serves
//! the next call.

use std::time::Duration;

use hotbay::{Error, ErrorKind, Reply, Request};
use hotbay_tests::block_on;
use serde_json::{Value, json};

use super::fixture::{ProcessFixture, Running};

/// A short deadline for a response that never comes.
const SOON: Duration = Duration::from_millis(100);

fn start() -> Running {
    start_with(100_000)
}

fn start_with(output_bytes: u64) -> Running {
    let limits = json!({ "output_bytes": output_bytes });
    ProcessFixture::new().run_with(
        json!({}),
        |program| program.set("limits", limits),
        |builder| builder.quarantine(None),
    )
}

/// Requests such a response by both call methods, and checks that the process keeps serving.
#[track_caller]
fn check(
    running: &Running,
    action: Value,
    deadline: Option<Duration>,
    check_reply: impl Fn(Result<Reply, Error>),
) {
    let text = action.to_string();
    let request = || match deadline {
        Some(timeout) => Request::json_text(&text).with_timeout(timeout),
        None => Request::json_text(&text),
    };
    check_reply(running.handle.call(request()));
    running.serves();
    check_reply(block_on(running.handle.execute(request())));
    running.serves();
    assert_eq!(running.fixture.started().len(), 1, "{text}");
}

/// Checks responses that become errors of this kind with these messages.
#[track_caller]
fn fails(running: &Running, answer: Value, kind: ErrorKind, expected: &[&str]) {
    fails_by(running, answer, None, kind, expected);
}

#[track_caller]
fn fails_by(
    running: &Running,
    mut answer: Value,
    deadline: Option<Duration>,
    kind: ErrorKind,
    expected: &[&str],
) {
    answer["do"] = json!("answer");
    let reported = answer.to_string();
    check(running, answer, deadline, |outcome| {
        let error = outcome.expect_err(&reported);
        let message = error.full_message();
        assert_eq!(error.kind(), kind, "{reported}: {message}");
        for part in expected {
            assert!(message.contains(part), "`{part}` in: {message} ({reported})");
        }
    });
}

#[test]
fn only_status_200_is_success() {
    let running = start();
    fails(&running, json!({ "status": 204 }), ErrorKind::Protocol, &["204", "expected 200"]);
    let elsewhere = json!({ "status": 302, "headers": { "location": "http://example.com/" } });
    fails(&running, elsewhere, ErrorKind::Protocol, &["302", "expected 200"]);
    fails(&running, json!({ "status": 201, "body": "x" }), ErrorKind::Protocol, &["201"]);
    let text = json!({ "status": 500, "type": "text/plain", "body": "no database" });
    fails(&running, text, ErrorKind::Plugin, &["no database", "500"]);
    let gone = json!({ "status": 404, "body": { "message": "no such row", "statusCode": 404 } });
    fails(&running, gone, ErrorKind::Plugin, &["no such row", "404"]);
    running.end();
}

#[test]
fn author_error_arrives_with_all_parts() {
    let running = start();
    let action = json!({
        "do": "error", "code": -7, "message": "no space", "retryable": true,
        "details": { "rows": [1, 2] },
    });
    check(&running, action, None, |outcome| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plugin);
        let own = error.plugin_error().expect("the plugin's own error");
        assert_eq!((own.code(), own.message()), (-7, "no space"));
        assert!(own.is_retryable());
        assert_eq!(own.details(), Some(&json!({ "rows": [1, 2] })));
    });
    running.end();
}

#[test]
fn invalid_http_is_reported() {
    let running = start();
    fails(
        &running,
        json!({ "how": "malformed" }),
        ErrorKind::Protocol,
        &["invalid HTTP/1.1 response"],
    );
    fails(
        &running,
        json!({ "how": "headers" }),
        ErrorKind::Protocol,
        &["invalid HTTP/1.1 response"],
    );
    running.end();
}

#[test]
fn invalid_chunks_and_trailers_are_reported() {
    let running = start();
    for how in ["bad-chunk", "trailers"] {
        let expected = ["its response was rejected", "invalid HTTP/1.1 response"];
        fails(&running, json!({ "how": how, "body": "x" }), ErrorKind::Protocol, &expected);
    }
    running.end();
}

#[test]
fn truncated_response_is_disconnected() {
    // More than the content length.
    let running = start_with(2_000_000);
    for how in ["close", "half-head", "short"] {
        let expected = ["may have run", "before the response arrived"];
        fails(&running, json!({ "how": how }), ErrorKind::Disconnected, &expected);
    }
    running.end();
}

#[test]
fn endless_response_ends_at_limit_or_deadline() {
    let running = start();
    let expected = ["100000 bytes", "limits.output_bytes"];
    fails(&running, json!({ "how": "endless" }), ErrorKind::InvalidOutput, &expected);
    fails(&running, json!({ "bytes": 100_001 }), ErrorKind::InvalidOutput, &expected);
    for how in ["never", "unended", "drip"] {
        let answer = json!({ "how": how, "body": "x" });
        fails_by(&running, answer, Some(SOON), ErrorKind::DeadlineExceeded, &["before"]);
    }
    running.end();
}

#[test]
fn unusual_but_valid_responses_are_accepted() {
    let running = start();
    for how in ["sound", "chunked", "continue", "twice"] {
        let action = json!({ "do": "answer", "how": how, "body": "on request" });
        check(&running, action, None, |outcome| match outcome {
            Ok(reply) => assert_eq!(reply.as_bytes(), b"on request"),
            Err(error) => panic!("{how}: {}", error.full_message()),
        });
    }
    // As large as the limit.
    let action = json!({ "do": "bytes", "bytes": 100_000 });
    check(&running, action, None, |outcome| assert_eq!(outcome.unwrap().as_bytes().len(), 100_000));
    running.end();
}

#[test]
fn error_body_over_output_limit_is_harmless() {
    let running = start();
    let large = json!({ "status": 500, "bytes": 100_001, "type": "text/plain" });
    fails(&running, large, ErrorKind::InvalidOutput, &["limits.output_bytes"]);
    let long = json!({ "status": 500, "bytes": 90_000, "type": "text/plain" });
    fails(&running, long, ErrorKind::Plugin, &["xxxx"]);
    running.end();
}

#[test]
fn panic_is_reported_with_location_and_process_survives() {
    let running = start();
    check(&running, json!({ "do": "panic", "message": "on request" }), None, |outcome| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let fault = error.fault().expect("a fault");
        assert_eq!(fault.message(), "on request");
        assert_eq!(fault.location(), Some("src/actions.rs:1:1"));
    });
    running.end();
}
