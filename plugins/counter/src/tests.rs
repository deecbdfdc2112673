//! The plugin as a host runs it, without a library.

use super::*;
use hotbay_plugin::Level;
use hotbay_plugin::testing::{FakeHost, Started};
use serde_json::{Value, json};

fn start(config: Value) -> Started<Counter> {
    FakeHost::new().start::<Counter>(config).unwrap()
}

#[track_caller]
fn check(counter: &Started<Counter>, input: &str, wanted: &str) {
    let output = counter.execute(Payload::text(input)).unwrap();
    assert_eq!(output.as_text().unwrap(), wanted, "after `{input}`");
    assert_eq!(output.content_type(), "application/json");
}

#[track_caller]
fn check_refused(counter: &Started<Counter>, input: &str, code: i32, says: &str) {
    let error = counter.execute(Payload::text(input)).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(says), "{error}");
}

#[test]
fn it_adds_what_is_asked_and_its_step_otherwise() {
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
fn what_is_no_number_is_refused_and_counts_nothing() {
    let counter = start(json!({ "start": 7 }));
    for input in ["-1", "++1", "+", "1.5", "one", "18446744073709551616"] {
        check_refused(&counter, input, 400, "is no number to add");
    }
    check_refused(&counter, "18446744073709551615", 422, "are more than");
    check(&counter, "0", "7");
}

#[test]
fn a_config_of_another_form_is_refused() {
    for config in [json!({ "step": -1 }), json!({ "start": "1" }), json!({ "stop": 1 })] {
        assert_eq!(FakeHost::new().start::<Counter>(config).unwrap_err().code(), 400);
    }
}

#[test]
fn the_total_goes_on_in_the_next_build_and_its_own_start_does_not_count() {
    let host = FakeHost::new();
    let first = start(json!({ "start": 40 }));
    check(&first, "", "41");
    let mut second = host.start::<Counter>(json!({ "start": 7, "step": 10 })).unwrap();
    let state = first.hand_over(&mut second).unwrap().expect("a state");
    assert_eq!((state.version(), state.as_bytes()), (2, br#"{"total":41}"#.as_slice()));
    check(&second, "", "51");
    assert_eq!(host.logs(), [(Level::Info, "goes on from 41".to_owned())]);
}

#[track_caller]
fn check_state(snapshot: Snapshot, wanted: Result<u64, (i32, &str)>) {
    match (state::read(&snapshot), wanted) {
        (Ok(total), Ok(wanted)) => assert_eq!(total, wanted),
        (Err(error), Err((code, says))) => {
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(says), "{error}");
        }
        (found, wanted) => panic!("{found:?}, wanted {wanted:?}"),
    }
}

#[test]
fn states_of_both_versions_are_read_and_no_other() {
    check_state(Snapshot::new(1, 258_u64.to_le_bytes()), Ok(258));
    check_state(Snapshot::new(1, [1, 0, 0]), Err((400, "3 bytes, wanted 8")));
    check_state(Snapshot::new(2, r#"{"total":258}"#), Ok(258));
    check_state(Snapshot::new(2, r#"{"sum":258}"#), Err((400, "missing field `total`")));
    check_state(Snapshot::new(2, 258_u64.to_le_bytes()), Err((400, "the state cannot be read")));
    check_state(Snapshot::new(3, ""), Err((409, "a state of version 3, wanted 1 or 2")));
}
