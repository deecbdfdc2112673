//! Unusual but valid starts: every kind of location, slow and noisy starts, and the two older
//! dialects.

use hotbay::Request;
use hotbay_tests::block_on;
use serde_json::{Value, json};

use crate::process_fixture::{ProcessFixture, is_private};

#[track_caller]
fn works(behavior: Value) {
    let running = ProcessFixture::new().run(behavior);
    running.serves();
    assert_eq!(running.fixture.started().len(), 1);
    running.end();
}

#[test]
fn every_local_location_kind_works() {
    for kind in ["unix", "tcp", "http", "any", "any6"] {
        works(json!({ "location": { "kind": kind } }));
    }
}

#[test]
fn noise_before_location_is_ignored() {
    let noise = json!(["starting", "main.go:42", "", "http://", "{\"level\":\"info\"}"]);
    works(json!({ "location": { "noise": noise, "stderr": "a warning\n" } }));
    // More than a pipe or the host buffers.
    works(json!({ "location": { "noise": vec!["x".repeat(100_000); 5] } }));
}

#[test]
fn slow_program_is_awaited() {
    let no = json!({ "status": 503, "body": "not yet" });
    let close = json!({ "how": "close" });
    works(json!({ "serve": { "healthz": [no, no, close, no, null] } }));
}

#[test]
fn grandchild_holding_capabilities_output_blocks_nothing() {
    works(json!({ "capabilities": { "held": true } }));
}

#[test]
fn unknown_fields_are_ignored() {
    works(json!({ "capabilities": { "hotbay": { "future": [1] }, "json": { "other": {} } } }));
}

#[test]
fn program_without_environment_gets_config_argument() {
    let behavior = json!({ "capabilities": { "hotbay": { "config": null } } });
    let running =
        ProcessFixture::new().run_with(behavior, |it| it.config(json!({ "depth": 3 })), |it| it);
    let reply = running.call_json(&json!({ "do": "report" }));
    assert_eq!(reply["arguments"][1], "--config");
    assert_eq!(reply["environment"]["HOTBAY_CONFIG"], Value::Null);
    assert_eq!(reply["config"]["configTypes"][0]["data"], "eyJkZXB0aCI6M30=");
    running.end();
}

#[test]
fn older_dialects_are_supported() {
    for dialect in ["older", "newer"] {
        let behavior = json!({
            "capabilities": { "dialect": dialect },
            "serve": { "needs_no_token": true, "spec/v1/validate": { "body": { "ok": true } } },
        });
        let running = ProcessFixture::new().run(behavior);
        running.serves();
        let message = running.call_json(&json!({ "do": "report" }));
        assert_eq!(message["arguments"][1], "--config", "{dialect}");
        let environment = &message["environment"];
        assert_eq!(environment["HOTBAY_SOCKET_DIR"], Value::Null);
        assert_eq!(environment["HOTBAY_TOKEN"], Value::Null);
        let folder = environment["TMPDIR"].as_str().expect("a folder").to_owned();
        assert!(is_private(folder.as_ref()), "{folder}");
        let socket = format!("{folder}/{}-plugin.socket", running.fixture.name);
        assert!(std::path::Path::new(&socket).exists(), "{socket}");
        // Contracts name their endpoints; the program decides which ones it supports.
        let request = || Request::json_text("{}").with_endpoint("spec/v1/validate");
        assert_eq!(running.handle.call(request()).unwrap().as_bytes(), b"{\"ok\":true}");
        let reply = block_on(running.handle.execute(request())).unwrap();
        assert_eq!(reply.as_bytes(), b"{\"ok\":true}");
        let unknown = running.handle.call(Request::text("x").with_endpoint("unknown")).unwrap_err();
        assert!(unknown.full_message().contains("no such endpoint"), "{unknown}");
        running.end();
        assert!(!std::path::Path::new(&folder).exists());
    }
}
