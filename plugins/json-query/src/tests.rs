//! Tests the results and errors of the plugin.

use hotbay_plugin::PluginError;
use hotbay_plugin::prelude::Payload;
use hotbay_plugin::testing::FakeHost;
use serde_json::{Value, json};

use crate::JsonQuery;

fn run(config: Value, input: &str) -> Result<Value, PluginError> {
    let host = FakeHost::new();
    let plugin = host.start::<JsonQuery>(config)?;
    let output = plugin.execute(Payload::json_text(input))?;
    assert_eq!(output.content_type(), "application/json");
    output.parse_json()
}

fn store() -> Value {
    json!({ "store": { "book": [
        { "title": "Sayings", "price": 8.95, "tags": ["old"] },
        { "title": "Moby Dick", "price": 12.99, "tags": [] },
    ] } })
}

#[track_caller]
fn check(query: &str, expected: Value) {
    let store = store();
    assert_eq!(run(json!({ "query": query }), &store.to_string()).unwrap(), expected, "{query}");
    let request = json!({ "query": query, "document": store });
    assert_eq!(run(json!({}), &request.to_string()).unwrap(), expected, "{query}");
}

#[test]
fn query_finds_values_as_in_the_standard() {
    check("$.store.book[*].title", json!(["Sayings", "Moby Dick"]));
    check("$..book[-1].price", json!([12.99]));
    check("$.store.book[?@.price < 10].title", json!(["Sayings"]));
    check("$.store.book[?match(@.title, 'M.*')].price", json!([12.99]));
    check("$.store.book[?length(@.tags) == 1].title", json!(["Sayings"]));
    check("$.nothing", json!([]));
    check("$", json!([store()]));
}

#[test]
fn paths_are_returned_if_configured() {
    let config = json!({ "query": "$..title", "paths": true });
    let found = run(config, &store().to_string()).unwrap();
    let second = json!({ "path": "$['store']['book'][1]['title']", "value": "Moby Dick" });
    assert_eq!(found[1], second);
}

#[track_caller]
fn check_rejected(config: Value, input: &str, code: i32, details: Value, expected: &str) {
    let error = run(config, input).unwrap_err();
    assert_eq!((error.code(), error.details()), (code, Some(&details)), "{error}");
    assert!(error.message().contains(expected), "{error}");
}

#[test]
fn invalid_query_is_rejected_with_its_position() {
    let error = |query: &str, position: usize| json!({ "query": query, "position": position });
    let input = json!({ "query": "$.ü[", "document": 1 }).to_string();
    check_rejected(json!({}), &input, 422, error("$.ü[", 3), "at character 3 ");
    let config = json!({ "query": "store" });
    check_rejected(config, "{}", 422, error("store", 0), "invalid JSONPath query `store`");
}

#[test]
fn queries_have_limits() {
    let deep = format!("$[?{}@.a{}]", "(".repeat(2000), ")".repeat(2000));
    let error = run(json!({ "query": deep }), "{}").unwrap_err();
    assert!(error.message().contains("at most 16 nested brackets"), "{error}");
    let deepest = format!("$[?{}@.a{}]", "(".repeat(15), ")".repeat(15));
    run(json!({ "query": deepest }), "{}").unwrap();
    let long = format!("$.{}", "a".repeat(5000));
    let error = run(json!({ "query": long }), "{}").unwrap_err();
    assert!(error.message().contains("at most 4096 bytes"), "{error}");
}

#[test]
fn invalid_json_is_rejected_with_its_position() {
    let place = |line: u32, column: u32| json!({ "line": line, "column": column });
    check_rejected(json!({ "query": "$" }), "{\n  x", 400, place(2, 3), "expected a JSON document");
    check_rejected(json!({}), r#"{"query": "$"}"#, 400, place(1, 14), "missing field `document`");
}
