//! Tests the responses of a running program.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Start, command, wait_until};

#[test]
fn program_prints_capabilities_and_rejects_invalid_arguments() {
    let output = command().arg("capabilities").output().unwrap();
    assert!(output.status.success());
    let reported: Value = serde_json::from_slice(&output.stdout).unwrap();
    let endpoints = ["execute", "snapshot", "restore", "batch", "rows", "v1/upper"];
    assert_eq!(reported["hotbay"]["endpoints"], json!(endpoints));
    assert_eq!(reported["hotbay"]["name"], "served");
    for arguments in [&[][..], &["serve"], &["--config"], &["--config", "{"]] {
        let output = command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn call_returns_bytes_and_content_type() {
    let program = Start::default().run();
    let mut client = program.connect().unwrap();
    for (content_type, body) in [("text/csv", "a,b"), ("application/json", "[1]"), ("x/y", "")] {
        let headers = [("Content-Type", content_type)];
        let response = client.request("POST", "/execute", &headers, body).unwrap();
        assert_eq!((response.status, response.body.as_str()), (200, body));
        assert_eq!(response.header("content-type"), Some(content_type));
    }
    let large = "x".repeat(3 << 20);
    assert_eq!(client.request("POST", "/execute", &[], &large).unwrap().body, large);
}

#[test]
fn additional_endpoints_are_served_and_unknown_ones_rejected() {
    let program = Start::default().run();
    assert_eq!(program.request("POST", "/rows", "2").json(), json!([{ "id": 0 }, { "id": 1 }]));
    assert_eq!(program.request("POST", "/v1/upper", "abc").body, "ABC");
    for (method, path, status) in [
        ("POST", "/none", 404),
        ("POST", "/", 404),
        ("GET", "/rows", 405),
        ("GET", "/execute", 405),
        ("POST", "/healthz", 405),
    ] {
        let response = program.request(method, path, "");
        assert_eq!(response.status, status, "{method} {path}");
        assert_eq!(response.json()["statusCode"], status);
    }
}

#[test]
fn plugin_error_arrives_with_all_members() {
    let program = Start::default().run();
    let details = json!({ "row": 7 });
    let response = program.execute(json!({
        "do": "fail", "code": -3, "message": "no such row", "details": details, "retryable": true,
    }));
    assert_eq!(response.status, 422);
    let expected = json!({
        "code": -3, "message": "no such row", "details": details, "retryable": true,
    });
    assert_eq!(response.json(), expected);
}

#[test]
fn panic_fails_one_call_only() {
    let program = Start::default().run();
    let mut client = program.connect().unwrap();
    let panics = json!({ "do": "panic", "message": "ouch" }).to_string();
    for _ in 0..2 {
        let response = client.request("POST", "/execute", &[], &panics).unwrap();
        assert_eq!(response.status, 500);
        let reported = response.json();
        assert_eq!((&reported["code"], &reported["message"]), (&json!(500), &json!("panicked")));
        assert_eq!(reported["fault"]["message"], "ouch");
        assert!(reported["fault"]["location"].as_str().unwrap().contains("lib.rs:"));
    }
    assert_eq!(client.request("POST", "/execute", &[], "hello").unwrap().body, "hello");
    assert_eq!(program.errors(), "");
}

#[test]
fn request_without_token_is_rejected() {
    let program = Start::default().run();
    for path in ["/execute", "/healthz", "/shutdown", "/none"] {
        for token in ["", "0123456789abcdee", "0123456789abcdef0"] {
            let mut client = program.connect().unwrap();
            let response = client.request("POST", path, &[("Hotbay-Token", token)], "").unwrap();
            assert_eq!((response.status, &response.json()["statusCode"]), (401, &json!(401)));
            assert!(client.receive().is_err(), "the connection is closed");
        }
    }
    assert_eq!(program.request("GET", "/healthz", "").status, 200);
}

#[test]
fn call_context_has_id_trace_and_deadline() {
    let program = Start::default().run();
    let mut client = program.connect().unwrap();
    let headers = [
        ("Hotbay-Call-Id", "18446744073709551615"),
        ("Hotbay-Deadline-Ms", "3600000"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let input = json!({ "do": "context" }).to_string();
    let reported = client.request("POST", "/execute", &headers, &input).unwrap().json();
    assert_eq!(reported["callId"], u64::MAX);
    assert_eq!(reported["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert!(reported["remainingMs"].as_u64().is_some_and(|left| left <= 3_600_000));
    assert_eq!(reported["isCancelled"], false);
    let reported =
        client.request("POST", "/execute", &[("Hotbay-Deadline-Ms", "0")], &input).unwrap();
    assert_eq!(
        (&reported.json()["remainingMs"], &reported.json()["isCancelled"]),
        (&json!(0), &json!(true))
    );
    let invalid =
        client.request("POST", "/execute", &[("Hotbay-Deadline-Ms", "soon")], &input).unwrap();
    assert_eq!(invalid.status, 400);
}

#[test]
fn passed_deadline_cancels_the_call() {
    let (program, files) = (Start::default().run(), TempDir::new().unwrap());
    let input = json!({ "do": "wait", "until": files.path().join("never") }).to_string();
    let mut client = program.connect().unwrap();
    let response =
        client.request("POST", "/execute", &[("Hotbay-Deadline-Ms", "30")], &input).unwrap();
    assert_eq!(response.body, "cancelled");
}

#[test]
fn closed_connection_cancels_the_call() {
    let (program, files) = (Start::default().run(), TempDir::new().unwrap());
    let [started, cancelled] = ["started", "cancelled"].map(|name| files.path().join(name));
    let input = json!({
        "do": "wait", "until": files.path().join("never"), "creates": started,
        "when_cancelled": cancelled,
    });
    let mut client = program.connect().unwrap();
    client.send("POST", "/execute", &[], input.to_string()).unwrap();
    wait_until("the call runs", || started.exists());
    drop(client);
    wait_until("the call was cancelled", || cancelled.exists());
    assert_eq!(program.request("GET", "/healthz", "").status, 200);
}

#[test]
fn batch_replies_are_in_order_despite_failures() {
    let program = Start::default().run();
    let request = |body: &str| json!({ "contentType": "text/plain; charset=utf-8", "body": body });
    // {"do":"panic","message":"ouch"} and {"do":"count"}, in base64.
    let requests = [
        request("aGVsbG8="),
        request("eyJkbyI6InBhbmljIiwibWVzc2FnZSI6Im91Y2gifQ=="),
        request("eyJkbyI6ImNvdW50In0="),
    ];
    let response = program.request("POST", "/batch", &json!({ "requests": requests }).to_string());
    let reported = response.json();
    let replies = reported["replies"].as_array().unwrap();
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[0], request("aGVsbG8="));
    assert_eq!(replies[1]["error"]["fault"]["message"], "ouch");
    assert_eq!(replies[2], json!({ "contentType": "application/json", "body": "MQ==" }));
    for invalid in [json!({}), json!({ "requests": [{ "body": "!" }] })] {
        assert_eq!(program.request("POST", "/batch", &invalid.to_string()).status, 400);
    }
}

#[test]
fn state_is_restored_before_the_first_call_only() {
    let count = json!({ "do": "count" });
    let first = Start::default().run();
    assert_eq!(first.request("GET", "/snapshot", "").header("hotbay-snapshot-version"), None);
    assert_eq!(first.execute(count.clone()).body, "1");
    let state = first.request("GET", "/snapshot", "");
    assert_eq!((state.header("hotbay-snapshot-version"), state.body.as_str()), (Some("3"), "1"));
    let second = Start::default().run();
    let version = [("Hotbay-Snapshot-Version", "3")];
    let mut client = second.connect().unwrap();
    assert_eq!(client.request("GET", "/healthz", &[], "").unwrap().status, 200);
    assert_eq!(client.request("POST", "/restore", &[], "1").unwrap().status, 400);
    assert_eq!(client.request("POST", "/restore", &version, "x").unwrap().json()["code"], 409);
    assert_eq!(client.request("POST", "/restore", &version, "1").unwrap().status, 200);
    assert_eq!(client.request("POST", "/execute", &[], count.to_string()).unwrap().body, "2");
    assert_eq!(client.request("POST", "/restore", &version, "1").unwrap().status, 409);
}

#[test]
fn oversized_body_is_rejected_before_it_is_read() {
    let program = Start::default().run();
    let length = ((64_u64 << 20) + 1).to_string();
    let mut client = program.connect().unwrap();
    let response = client.request("POST", "/execute", &[("Content-Length", &length)], "").unwrap();
    assert_eq!((response.status, &response.json()["statusCode"]), (413, &json!(413)));
}

#[test]
fn unhealthy_plugin_reports_its_error() {
    let files = TempDir::new().unwrap();
    let unhealthy = files.path().join("unhealthy");
    let program = Start::with(json!({ "unhealthy_while": unhealthy })).run();
    assert_eq!(program.request("GET", "/healthz", "").status, 200);
    std::fs::write(&unhealthy, "").unwrap();
    let response = program.request("GET", "/healthz", "");
    assert_eq!((response.status, &response.json()["message"]), (503, &json!("unhealthy")));
}

#[test]
fn tcp_listens_on_loopback_only() {
    let program = Start { transport: "tcp", ..Start::default() }.run();
    assert!(program.location().starts_with("http://127.0.0.1:"), "{}", program.location());
    assert_eq!(program.request("POST", "/execute", "hello").body, "hello");
    assert!(program.files().is_empty());
}

#[test]
fn connection_over_the_limit_waits_for_a_free_place() {
    let program = Start::default().run();
    let request_health = |mut client: crate::program::Client| {
        client.send("GET", "/healthz", &[], "").unwrap();
        client
    };
    let mut clients: Vec<_> =
        (0..256).map(|_| request_health(program.connect().unwrap())).collect();
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().status, 200);
    }
    let mut waiting = request_health(program.connect().unwrap());
    clients.pop();
    assert_eq!(waiting.receive().unwrap().status, 200);
}
