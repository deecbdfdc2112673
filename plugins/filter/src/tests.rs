//! Tests the plugin as a host uses it: configs, payloads, errors and the manifest.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hotbay_plugin::prelude::*;
use hotbay_plugin::testing::FakeHost;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::Filter;

fn run(config: Value, input: &str) -> Result<Output, PluginError> {
    let host = FakeHost::new();
    let plugin = host.start::<Filter>(config).expect("valid config");
    plugin.execute(Payload::json_text(input))
}

#[track_caller]
fn check(config: Value, input: &str, expected: &str) {
    let output = run(config.clone(), input).unwrap();
    assert_eq!(output.as_text().unwrap(), expected, "{config} of {input}");
    assert_eq!(output.content_type(), "application/json");
}

#[track_caller]
fn check_rejected(config: Value, input: &str, code: i32, expected: &str) {
    let error = run(config, input).unwrap_err();
    assert_eq!((error.code(), error.message()), (code, expected), "of {input}");
    assert!(!error.is_retryable());
}

#[test]
fn rules_keep_passing_elements_unchanged() {
    check(json!({"rule": "positive"}), "[3, -1, 0, 2.50, 1e400, \"7\"]", "[3,2.50,1e400]");
    check(
        json!({"rule": "regex", "pattern": "^(?i)straße", "field": "/ort"}),
        r#"[{"ort":"STRASSE"}, {"ort" : "Straße 5"}, {"ort":7}, {"z":1,"ort":"stra\u00dfe"}]"#,
        r#"[{"ort" : "Straße 5"},{"z":1,"ort":"stra\u00dfe"}]"#,
    );
    check(
        json!({"rule": "range", "min": 9007199254740992_i64, "field": "/id"}),
        r#"[{"id":9007199254740991},{"id":9007199254740993},{"id":1.0}]"#,
        r#"[{"id":9007199254740993}]"#,
    );
}

#[test]
fn element_must_pass_all_rules() {
    let rules = json!({"rules": [
        {"rule": "positive", "field": "/price"},
        {"rule": "range", "max": 100, "field": "/price"},
        {"rule": "regex", "pattern": "^test", "field": "/name", "invert": true},
    ]});
    check(
        rules,
        r#"[{"name":"tea","price":3.20},{"name":"test tea","price":3},{"name":"car","price":1e4}]"#,
        r#"[{"name":"tea","price":3.20}]"#,
    );
    check(json!({"rules": []}), "[1, \"a\"]", "[1,\"a\"]");
    check(json!({"rule": "positive"}), "[]", "[]");
}

#[test]
fn wrong_type_is_dropped_or_reported_if_strict() {
    let input = r#"[1, {"price": 2}, null]"#;
    check(json!({"rule": "positive", "field": "/price"}), input, r#"[{"price": 2}]"#);
    let strict = json!({"rules": [{"rule": "positive", "field": "/price"}], "strict": true});
    check_rejected(
        strict.clone(),
        input,
        422,
        "element 0: rule 0 (`positive`) expected a number at `/price`, found nothing; \
         without `strict`, such elements are dropped",
    );
    let error = run(strict, r#"[{"price":1},{"price":"2"}]"#).unwrap_err();
    assert_eq!(error.details(), Some(&json!({"index": 1, "rule": 0})));
}

#[test]
fn other_input_than_an_array_is_rejected() {
    let positive = || json!({"rule": "positive"});
    for (input, found) in [
        (r#" {"a": 1}"#, "an object"),
        ("\"text\"", "a string"),
        ("-1", "a number"),
        ("true", "a boolean"),
        ("null", "null"),
        (" \n", "nothing"),
    ] {
        let message = format!("invalid input: expected a JSON array, found {found}");
        check_rejected(positive(), input, 400, &message);
    }
    for input in ["[1, 2", "[1,]", "[01]", "[1] 2", "nonsense", "[NaN]", "\u{feff}[]"] {
        let error = run(positive(), input).unwrap_err();
        assert_eq!(error.code(), 400, "{input}");
        assert!(error.message().starts_with("the input is not JSON: "), "{}", error.message());
        assert!(error.message().contains("line 1 column"), "{}", error.message());
    }
}

#[test]
fn invalid_utf8_is_rejected() {
    let host = FakeHost::new();
    let plugin = host.start::<Filter>(json!({"rule": "positive"})).unwrap();
    assert_eq!(plugin.execute(Payload::bytes(b"[\"\xff\"]")).unwrap_err().code(), 400);
}

#[test]
fn cancelled_call_returns_an_error() {
    let host = FakeHost::new();
    let plugin = host.start::<Filter>(json!({"rule": "positive"})).unwrap();
    let cancelled = AtomicBool::new(true);
    let reply =
        plugin.execute_within(Duration::from_secs(1), &cancelled, Payload::json_text("[1]"));
    assert_eq!(reply.unwrap_err().code(), 499);
}

#[test]
fn invalid_config_is_rejected_by_validation_and_init() {
    for (wrong, place) in [
        (json!({}), "`rule` is missing"),
        (json!({"rule": "regex", "pattern": "("}), "`pattern`"),
        (json!({"rules": [{"rule": "range", "min": 2, "max": 1}]}), "`rules[0].min`"),
        (json!({"rules": [{"rule": "even"}]}), "`rules[0].rule`"),
    ] {
        let error = Filter::validate_config(&Config::from(wrong.clone())).unwrap_err();
        assert_eq!(error.code(), 400);
        assert!(error.message().contains(place), "{}", error.message());
        let host = FakeHost::new();
        let at_init = Filter::init(&Config::from(wrong), host.services()).unwrap_err();
        assert_eq!(at_init, error);
        assert!(host.logs().is_empty());
    }
}

#[test]
fn manifest_matches_the_crate() {
    let manifest: Value = serde_json::from_str(include_str!("../plugin.json")).unwrap();
    assert_eq!(manifest["name"], env!("CARGO_PKG_NAME"));
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["description"], env!("CARGO_PKG_DESCRIPTION"));
    Filter::validate_config(&Config::from(manifest["config"].clone())).unwrap();
}

proptest! {
    #[test]
    fn no_input_causes_a_panic(
        bytes in any::<Vec<u8>>(),
        text in any::<String>(),
        close in "[\\[\\]{}\",:0-9eE \\\\ud-]{0,40}",
    ) {
        let host = FakeHost::new();
        let rules = json!([
            {"rule": "range", "min": 0, "field": "/0"},
            {"rule": "regex", "pattern": "."},
        ]);
        for strict in [false, true] {
            let plugin = host.start::<Filter>(json!({"rules": rules, "strict": strict})).unwrap();
            let _ = plugin.execute(Payload::bytes(&bytes));
            let _ = plugin.execute(Payload::json_text(&text));
            let _ = plugin.execute(Payload::json_text(&close));
        }
    }
}
