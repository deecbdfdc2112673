//! Schemas and inputs whose check would take too long or too much memory. No time is measured: a
//! check that hangs runs into the limit of the test.

use std::time::Duration;

use hotbay::{ErrorKind, Host, PluginHandle, Request};
use hotbay_tests::{Plugins, block_on, host, limits, loaded, refused};
use serde_json::{Map, Value, json};

/// Returns a schema in which `d0` refers twice to `d1`, and so on.
fn doubled(keyword: &str) -> Value {
    let twice = |i: usize| {
        let target = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
        (format!("d{i}"), json!({ keyword: [target, target] }))
    };
    let mut links: Map<_, _> = (0..40).map(twice).collect();
    links.insert("d40".to_owned(), json!({ "type": "object" }));
    json!({ "$ref": "#/$defs/d0", "$defs": links })
}

fn dynamic() -> Value {
    let alternative = json!({ "properties": { "a": { "$dynamicRef": "#n" } } });
    json!({
        "$defs": { "x": {
            "$dynamicAnchor": "n",
            "anyOf": [alternative, alternative],
            "unevaluatedProperties": false,
        } },
        "$ref": "#/$defs/x",
    })
}

fn nested(levels: usize, key: &str, inner: Value) -> Value {
    (0..levels).fold(inner, |inner, _| json!({ key: inner }))
}

/// Returns many alternatives for each of many elements; each must be tried.
fn wide() -> (Value, String) {
    let alternatives: Vec<_> = (0..5_000).map(|n| json!({ "minimum": n, "maximum": n })).collect();
    let schema = json!({ "items": { "anyOf": alternatives } });
    (schema, json!(vec![4_999; 20_000]).to_string())
}

fn with_input_schema(plugins: &Plugins, host: &Host, schema: Value) -> PluginHandle {
    loaded(host, plugins.add("checked", "faulty").set("input_schema", schema).write())
}

#[track_caller]
fn check(handle: &PluginHandle, input: &str, kind: ErrorKind, expected: &str) {
    let outcomes =
        [handle.call(Request::text(input)), block_on(handle.execute(Request::json_text(input)))];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        let message = error.full_message();
        assert_eq!(error.kind(), kind, "{message}");
        assert!(message.contains(expected), "`{expected}` in: {message}");
    }
}

#[test]
fn config_check_over_budget_refuses_load() {
    let limits = limits(|limits| limits.start_timeout = Duration::from_secs(30));
    let host = Host::builder().limits(limits).build().unwrap();
    let deep = nested(41, "a", json!({ "z": 1 }));
    for (schema, config) in
        [(doubled("allOf"), json!({})), (doubled("anyOf"), json!({})), (dynamic(), deep)]
    {
        let plugins = Plugins::new();
        let plugin = plugins.add("checked", "faulty").set("config_schema", schema);
        let error = refused(&host, plugin.config(config).write());
        let message = error.full_message();
        assert_eq!(error.kind(), ErrorKind::Config, "{message}");
        assert!(message.contains("budget of "), "{message}");
    }
    assert!(host.list().is_empty());
}

#[test]
fn start_timeout_covers_config_check() {
    let limits = limits(|limits| limits.start_timeout = Duration::from_nanos(1));
    let host = Host::builder().limits(limits).build().unwrap();
    let plugins = Plugins::new();
    let plugin = plugins.add("checked", "faulty").set("config_schema", json!({ "type": "object" }));
    let error = refused(&host, plugin.write());
    let message = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Config, "{message}");
    assert!(message.contains("`start_timeout`") || message.contains("deadline"), "{message}");
}

#[test]
fn input_check_over_budget_is_invalid_input() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handle = with_input_schema(&plugins, &host, doubled("allOf"));
    check(&handle, "{}", ErrorKind::InvalidInput, "exceed its budget of ");
    block_on(host.unload("checked")).unwrap();
    let (schema, input) = wide();
    let handle = with_input_schema(&plugins, &host, schema);
    check(&handle, &input, ErrorKind::InvalidInput, "exceeded its budget of ");
    assert!(handle.call(Request::text("[1, 2, 4999]")).is_ok());
}

#[test]
fn recursive_alternatives_are_decided() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let not = json!({ "not": { "$ref": "#/$defs/expr" } });
    let object = |properties: Value| {
        json!({
            "type": "object", "properties": properties, "required": ["not"],
            "additionalProperties": false,
        })
    };
    let mut noted = not.clone();
    noted["note"] = json!({ "type": "string" });
    let schema = json!({
        "$ref": "#/$defs/expr",
        "$defs": { "expr": { "anyOf": [{ "type": "string" }, object(not), object(noted)] } },
    });
    let handle = with_input_schema(&plugins, &host, schema);
    for levels in [18, 60] {
        let input = |inner| nested(levels, "not", inner).to_string();
        assert!(handle.call(Request::text(&input(json!("x")))).is_ok());
        check(&handle, &input(json!(7)), ErrorKind::InvalidInput, "does not match");
    }
}

#[test]
fn input_check_past_deadline_is_aborted() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let (schema, input) = wide();
    let handle = with_input_schema(&plugins, &host, schema);
    let soon = || Request::text(&input).with_timeout(Duration::from_millis(2));
    let errors = [handle.call(soon()).unwrap_err(), block_on(handle.execute(soon())).unwrap_err()];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.full_message());
    }
}

/// Runs as the command does, with less memory than the errors of all alternatives would need.
#[test]
#[cfg(target_os = "linux")]
#[allow(clippy::disallowed_methods, reason = "the memory limit applies to a subprocess")]
fn config_check_uses_bounded_memory() {
    let plugins = Plugins::new();
    let plugin = plugins.add("checked", "faulty").set("config_schema", dynamic());
    let folder = plugin.config(nested(41, "a", json!({ "z": 1 }))).write();
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 1500000; exec \"$0\" check --allow-unverified \"$1\""])
        .arg(hotbay_tests::binary("hotbay-cli", "hotbay"))
        .arg(folder)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("budget of "), "{message}");
}
