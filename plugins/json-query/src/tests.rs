//! What the plugin answers, and how it refuses.

use hotbay_plugin::PluginError;
use hotbay_plugin::prelude::Payload;
use hotbay_plugin::testing::FakeHost;
use serde_json::{Value, json};

use crate::JsonQuery;

fn answer(config: Value, input: &str) -> Result<Value, PluginError> {
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
fn check(query: &str, wanted: Value) {
    let store = store();
    assert_eq!(answer(json!({ "query": query }), &store.to_string()).unwrap(), wanted, "{query}");
    let asked = json!({ "query": query, "document": store });
    assert_eq!(answer(json!({}), &asked.to_string()).unwrap(), wanted, "{query}");
}

#[test]
fn a_query_finds_what_the_standard_says() {
    check("$.store.book[*].title", json!(["Sayings", "Moby Dick"]));
    check("$..book[-1].price", json!([12.99]));
    check("$.store.book[?@.price < 10].title", json!(["Sayings"]));
    check("$.store.book[?match(@.title, 'M.*')].price", json!([12.99]));
    check("$.store.book[?length(@.tags) == 1].title", json!(["Sayings"]));
    check("$.nothing", json!([]));
    check("$", json!([store()]));
}

#[test]
fn paths_tell_where_values_were_found() {
    let config = json!({ "query": "$..title", "paths": true });
    let found = answer(config, &store().to_string()).unwrap();
    let second = json!({ "path": "$['store']['book'][1]['title']", "value": "Moby Dick" });
    assert_eq!(found[1], second);
}

#[track_caller]
fn check_refused(config: Value, input: &str, code: i32, details: Value, says: &str) {
    let error = answer(config, input).unwrap_err();
    assert_eq!((error.code(), error.details()), (code, Some(&details)), "{error}");
    assert!(error.message().contains(says), "{error}");
}

#[test]
fn a_query_that_is_none_is_refused_with_its_position() {
    let mistake = |query: &str, position: usize| json!({ "query": query, "position": position });
    let input = json!({ "query": "$.ü[", "document": 1 }).to_string();
    check_refused(json!({}), &input, 422, mistake("$.ü[", 3), "from character 3");
    let config = json!({ "query": "store" });
    check_refused(config, "{}", 422, mistake("store", 0), "`store` is no JSONPath query");
}

#[test]
fn queries_have_limits() {
    let deep = format!("$[?{}@.a{}]", "(".repeat(2000), ")".repeat(2000));
    let error = answer(json!({ "query": deep }), "{}").unwrap_err();
    assert!(error.message().contains("more than 16 brackets"), "{error}");
    let deepest = format!("$[?{}@.a{}]", "(".repeat(15), ")".repeat(15));
    answer(json!({ "query": deepest }), "{}").unwrap();
    let long = format!("$.{}", "a".repeat(5000));
    let error = answer(json!({ "query": long }), "{}").unwrap_err();
    assert!(error.message().contains("more than 4096"), "{error}");
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    let place = |line: u32, column: u32| json!({ "line": line, "column": column });
    check_refused(json!({ "query": "$" }), "{\n  x", 400, place(2, 3), "wanted a document");
    check_refused(json!({}), r#"{"query": "$"}"#, 400, place(1, 14), "missing field `document`");
}
