//! What a program that serves answers.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Start, command, until};

#[test]
fn a_program_says_what_it_can_do_and_how_it_is_started() {
    let output = command().arg("capabilities").output().unwrap();
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let endpoints = ["execute", "snapshot", "restore", "batch", "rows", "v1/upper"];
    assert_eq!(told["hotbay"]["endpoints"], json!(endpoints));
    assert_eq!(told["hotbay"]["name"], "served");
    for arguments in [&[][..], &["serve"], &["--config"], &["--config", "{"]] {
        let output = command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_call_is_answered_with_its_bytes_and_their_type() {
    let program = Start::default().run();
    let mut client = program.connect().unwrap();
    for (content_type, body) in [("text/csv", "a,b"), ("application/json", "[1]"), ("x/y", "")] {
        let headers = [("Content-Type", content_type)];
        let answer = client.ask("POST", "/execute", &headers, body).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
        assert_eq!(answer.header("content-type"), Some(content_type));
    }
    let large = "x".repeat(3 << 20);
    assert_eq!(client.ask("POST", "/execute", &[], &large).unwrap().body, large);
}

#[test]
fn endpoints_of_its_own_are_served_and_unknown_ones_refused() {
    let program = Start::default().run();
    assert_eq!(program.ask("POST", "/rows", "2").json(), json!([{ "id": 0 }, { "id": 1 }]));
    assert_eq!(program.ask("POST", "/v1/upper", "abc").body, "ABC");
    for (method, path, status) in [
        ("POST", "/none", 404),
        ("POST", "/", 404),
        ("GET", "/rows", 405),
        ("GET", "/execute", 405),
        ("POST", "/healthz", 405),
    ] {
        let answer = program.ask(method, path, "");
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.json()["statusCode"], status);
    }
}

#[test]
fn errors_of_the_author_come_with_all_they_say() {
    let program = Start::default().run();
    let details = json!({ "row": 7 });
    let answer = program.execute(json!({
        "do": "fail", "code": -3, "message": "no such row", "details": details, "retryable": true,
    }));
    assert_eq!(answer.status, 422);
    let wanted = json!({
        "code": -3, "message": "no such row", "details": details, "retryable": true,
    });
    assert_eq!(answer.json(), wanted);
}

#[test]
fn a_panic_ends_one_call_and_nothing_else() {
    let program = Start::default().run();
    let mut client = program.connect().unwrap();
    let panics = json!({ "do": "panic", "message": "ouch" }).to_string();
    for _ in 0..2 {
        let answer = client.ask("POST", "/execute", &[], &panics).unwrap();
        assert_eq!(answer.status, 500);
        let told = answer.json();
        assert_eq!((&told["code"], &told["message"]), (&json!(500), &json!("panicked")));
        assert_eq!(told["fault"]["message"], "ouch");
        assert!(told["fault"]["location"].as_str().unwrap().contains("lib.rs:"));
    }
    assert_eq!(client.ask("POST", "/execute", &[], "hello").unwrap().body, "hello");
    assert_eq!(program.errors(), "");
}

#[test]
fn without_the_token_nothing_is_served() {
    let program = Start::default().run();
    for path in ["/execute", "/healthz", "/shutdown", "/none"] {
        for token in ["", "0123456789abcdee", "0123456789abcdef0"] {
            let mut client = program.connect().unwrap();
            let answer = client.ask("POST", path, &[("Hotbay-Token", token)], "").unwrap();
            assert_eq!((answer.status, &answer.json()["statusCode"]), (401, &json!(401)));
            assert!(client.receive().is_err(), "the connection is closed");
        }
    }
    assert_eq!(program.ask("GET", "/healthz", "").status, 200);
}

#[test]
fn a_call_knows_its_id_its_trace_and_its_deadline() {
    let program = Start::default().run();
    let mut client = program.connect().unwrap();
    let headers = [
        ("Hotbay-Call-Id", "18446744073709551615"),
        ("Hotbay-Deadline-Ms", "3600000"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let ask = json!({ "do": "context" }).to_string();
    let told = client.ask("POST", "/execute", &headers, &ask).unwrap().json();
    assert_eq!(told["callId"], u64::MAX);
    assert_eq!(told["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert!(told["remainingMs"].as_u64().is_some_and(|left| left <= 3_600_000));
    assert_eq!(told["isCancelled"], false);
    let told = client.ask("POST", "/execute", &[("Hotbay-Deadline-Ms", "0")], &ask).unwrap();
    assert_eq!(
        (&told.json()["remainingMs"], &told.json()["isCancelled"]),
        (&json!(0), &json!(true))
    );
    let wrong = client.ask("POST", "/execute", &[("Hotbay-Deadline-Ms", "soon")], &ask).unwrap();
    assert_eq!(wrong.status, 400);
}

#[test]
fn a_deadline_that_passes_cancels_the_call() {
    let (program, files) = (Start::default().run(), TempDir::new().unwrap());
    let ask = json!({ "do": "wait", "until": files.path().join("never") }).to_string();
    let mut client = program.connect().unwrap();
    let answer = client.ask("POST", "/execute", &[("Hotbay-Deadline-Ms", "30")], &ask).unwrap();
    assert_eq!(answer.body, "cancelled");
}

#[test]
fn hanging_up_cancels_the_call() {
    let (program, files) = (Start::default().run(), TempDir::new().unwrap());
    let [tells, cancelled] = ["tells", "cancelled"].map(|name| files.path().join(name));
    let ask = json!({
        "do": "wait", "until": files.path().join("never"), "tells": tells,
        "when_cancelled": cancelled,
    });
    let mut client = program.connect().unwrap();
    client.send("POST", "/execute", &[], &ask.to_string()).unwrap();
    until("the call runs", || tells.exists());
    drop(client);
    until("the call was cancelled", || cancelled.exists());
    assert_eq!(program.ask("GET", "/healthz", "").status, 200);
}

#[test]
fn a_batch_is_answered_in_order_whatever_becomes_of_each() {
    let program = Start::default().run();
    let one = |body: &str| json!({ "contentType": "text/plain; charset=utf-8", "body": body });
    // {"do":"panic","message":"ouch"} and {"do":"count"}, in base64.
    let requests = [
        one("aGVsbG8="),
        one("eyJkbyI6InBhbmljIiwibWVzc2FnZSI6Im91Y2gifQ=="),
        one("eyJkbyI6ImNvdW50In0="),
    ];
    let answer = program.ask("POST", "/batch", &json!({ "requests": requests }).to_string());
    let told = answer.json();
    let replies = told["replies"].as_array().unwrap();
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[0], one("aGVsbG8="));
    assert_eq!(replies[1]["error"]["fault"]["message"], "ouch");
    assert_eq!(replies[2], json!({ "contentType": "application/json", "body": "MQ==" }));
    for wrong in [json!({}), json!({ "requests": [{ "body": "!" }] })] {
        assert_eq!(program.ask("POST", "/batch", &wrong.to_string()).status, 400);
    }
}

#[test]
fn a_state_moves_from_program_to_program_before_the_first_call() {
    let count = json!({ "do": "count" });
    let first = Start::default().run();
    assert_eq!(first.ask("GET", "/snapshot", "").header("hotbay-snapshot-version"), None);
    assert_eq!(first.execute(count.clone()).body, "1");
    let state = first.ask("GET", "/snapshot", "");
    assert_eq!((state.header("hotbay-snapshot-version"), state.body.as_str()), (Some("3"), "1"));
    let second = Start::default().run();
    let version = [("Hotbay-Snapshot-Version", "3")];
    let mut client = second.connect().unwrap();
    assert_eq!(client.ask("GET", "/healthz", &[], "").unwrap().status, 200);
    assert_eq!(client.ask("POST", "/restore", &[], "1").unwrap().status, 400);
    assert_eq!(client.ask("POST", "/restore", &version, "x").unwrap().json()["code"], 409);
    assert_eq!(client.ask("POST", "/restore", &version, "1").unwrap().status, 200);
    assert_eq!(client.ask("POST", "/execute", &[], &count.to_string()).unwrap().body, "2");
    assert_eq!(client.ask("POST", "/restore", &version, "1").unwrap().status, 409);
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let program = Start::default().run();
    let length = ((64_u64 << 20) + 1).to_string();
    let mut client = program.connect().unwrap();
    let answer = client.ask("POST", "/execute", &[("Content-Length", &length)], "").unwrap();
    assert_eq!((answer.status, &answer.json()["statusCode"]), (413, &json!(413)));
}

#[test]
fn a_plugin_that_is_ill_says_so() {
    let files = TempDir::new().unwrap();
    let ill = files.path().join("ill");
    let program = Start::with(json!({ "ill_while": ill })).run();
    assert_eq!(program.ask("GET", "/healthz", "").status, 200);
    std::fs::write(&ill, "").unwrap();
    let answer = program.ask("GET", "/healthz", "");
    assert_eq!((answer.status, &answer.json()["message"]), (503, &json!("ill")));
}

#[test]
fn a_port_serves_as_a_socket_does_and_to_this_machine_only() {
    let program = Start { way: "tcp", ..Start::default() }.run();
    assert!(program.location().starts_with("http://127.0.0.1:"), "{}", program.location());
    assert_eq!(program.ask("POST", "/execute", "hello").body, "hello");
    assert!(program.files().is_empty());
}

#[test]
fn more_connections_than_there_is_room_for_wait_until_one_goes() {
    let program = Start::default().run();
    let asked = |mut client: crate::program::Client| {
        client.send("GET", "/healthz", &[], "").unwrap();
        client
    };
    let mut clients: Vec<_> = (0..256).map(|_| asked(program.connect().unwrap())).collect();
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().status, 200);
    }
    let mut waits = asked(program.connect().unwrap());
    clients.pop();
    assert_eq!(waits.receive().unwrap().status, 200);
}
