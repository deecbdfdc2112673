//! Tests the plugin as a host uses it, without a library.

use super::*;
use hotbay_plugin::Level;
use hotbay_plugin::testing::{FakeHost, Started};
use serde_json::{Value, json};

fn start(config: Value) -> Started<Counter> {
    FakeHost::new().start::<Counter>(config).unwrap()
}

#[track_caller]
fn check(counter: &Started<Counter>, input: &str, expected: &str) {
    let output = counter.execute(Payload::text(input)).unwrap();
    assert_eq!(output.as_text().unwrap(), expected, "after `{input}`");
    assert_eq!(output.content_type(), "application/json");
}

#[track_caller]
fn check_rejected(counter: &Started<Counter>, input: &str, code: i32, expected: &str) {
    let error = counter.execute(Payload::text(input)).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(expected), "{error}");
}

#[test]
fn call_adds_its_input_or_the_step() {
    let counter = start(json!({}));
    for (input, total) in [("", "1"), ("5", "6"), ("+20", "26"), (" 0 \n", "26"), ("\n", "27")] {
        check(&counter, input, total);
    }
    let counter = start(json!({ "start": 100, "step": 10 }));
    for (input, total) in [("", "110"), ("+1", "111")] {
        check(&counter, input, total);
    }
}

#[test]
fn invalid_input_is_rejected_and_not_counted() {
    let counter = start(json!({ "start": 7 }));
    for input in ["-1", "++1", "+", "1.5", "one", "18446744073709551616"] {
        check_rejected(&counter, input, 400, "expected a number such as");
    }
    check_rejected(&counter, "18446744073709551615", 422, "count overflow: ");
    check(&counter, "0", "7");
}

#[test]
fn invalid_config_is_rejected() {
    for config in [json!({ "step": -1 }), json!({ "start": "1" }), json!({ "stop": 1 })] {
        assert_eq!(FakeHost::new().start::<Counter>(config).unwrap_err().code(), 400);
    }
}

#[test]
fn total_survives_a_reload_and_start_is_ignored() {
    let host = FakeHost::new();
    let first = start(json!({ "start": 40 }));
    check(&first, "", "41");
    let mut second = host.start::<Counter>(json!({ "start": 7, "step": 10 })).unwrap();
    let state = first.hand_over(&mut second).unwrap().expect("state");
    assert_eq!((state.version(), state.as_bytes()), (2, br#"{"total":41}"#.as_slice()));
    check(&second, "", "51");
    assert_eq!(host.logs(), [(Level::Info, "restored the total 41".to_owned())]);
}

#[track_caller]
fn check_state(snapshot: Snapshot, expected: Result<u64, (i32, &str)>) {
    match (state::read(&snapshot), expected) {
        (Ok(total), Ok(expected)) => assert_eq!(total, expected),
        (Err(error), Err((code, expected))) => {
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(expected), "{error}");
        }
        (found, expected) => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn both_state_versions_are_restored_and_others_rejected() {
    check_state(Snapshot::new(1, 258_u64.to_le_bytes()), Ok(258));
    check_state(Snapshot::new(1, [1, 0, 0]), Err((400, "expected 8 bytes, found 3")));
    check_state(Snapshot::new(2, r#"{"total":258}"#), Ok(258));
    check_state(Snapshot::new(2, r#"{"sum":258}"#), Err((400, "missing field `total`")));
    check_state(Snapshot::new(2, 258_u64.to_le_bytes()), Err((400, "invalid state: ")));
    check_state(Snapshot::new(3, ""), Err((409, "unknown state version 3: expected 1 or 2")));
}
