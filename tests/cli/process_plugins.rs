//! The `hotbay` command with a process plugin: list, inspect, call and pipe.

use std::fs;

use hotbay_tests::{Plugins, ProgramFolder};
use serde_json::{Value, json};

use crate::command::{hotbay, with_input};

/// Installs the fixture as a library and as a process, in a folder that the command searches.
fn plugins() -> Plugins {
    let plugins = Plugins::new();
    let folder = plugins.dir().join("plugins");
    fs::create_dir(&folder).unwrap();
    plugins.add_in("plugins/library", "library", "served").write();
    let program = ProgramFolder::new(&folder, "process").built("served", "served");
    program.set("package", "served").config(json!({ "start": 41 })).install();
    plugins
}

#[test]
fn list_and_inspect_describe_process_plugin() {
    let plugins = plugins();
    let json = hotbay(plugins.dir(), &["list", "--json"]).exits(0).json();
    let message = |at: usize| (&json["plugins"][at]["name"], &json["plugins"][at]["kind"]);
    assert_eq!(message(0), (&json!("library"), &json!("library")));
    assert_eq!(message(1), (&json!("process"), &json!("process")));
    assert_eq!(json["plugins"][1]["state"], "ready");
    assert_eq!(json["plugins"][1]["api"], Value::Null, "a program has no stamp");

    let text = hotbay(plugins.dir(), &["inspect", "process"]).exits(0).text();
    for part in
        ["process 0.1.0 (process)", "program", "SHA-256", "matches the manifest", "state: ready"]
    {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
    assert!(!text.contains("rustc") && !text.contains("library  "), "{text}");
    let json = hotbay(plugins.dir(), &["inspect", "process", "--json"]).exits(0).json();
    assert_eq!((&json["kind"], &json["built"]), (&json!("process"), &Value::Null));
    assert_eq!(json["manifest"]["command"], json!(["program"]));
    let file = &json["program"];
    assert!(file["path"].as_str().unwrap().ends_with("process/program"), "{json}");
    assert_eq!(file["sha256"], file["stated_sha256"]);
    assert_eq!((&file["verified"], &json["library"]), (&json!(true), &Value::Null));
    // The program is not opened, so there is nothing to compare.
    let json = hotbay(plugins.dir(), &["inspect", "process", "--verbose", "--json"]).exits(0);
    assert_eq!(json.json()["abi"], Value::Null);
}

#[test]
fn call_and_pipe_reach_both_kinds() {
    let plugins = plugins();
    let count = r#"{ "do": "count" }"#;
    let call = hotbay(plugins.dir(), &["call", "process", "--text", count]).exits(0);
    assert_eq!(call.text().trim(), "42");
    let fails = r#"{ "do": "fail", "code": 7, "message": "no" }"#;
    hotbay(plugins.dir(), &["call", "process", "--text", fails]).exits(1).says_only(&["no"]);
    let panics = r#"{ "do": "panic", "message": "oh no" }"#;
    hotbay(plugins.dir(), &["call", "process", "--text", panics]).exits(1).says_only(&["oh no"]);
    let steps = ["pipe", "library", "process", "library"];
    let piped = with_input(plugins.dir(), &steps, b"a text").exits(0);
    assert_eq!(piped.text(), "a text");
}

#[test]
fn tampered_program_is_refused_with_both_digests() {
    let plugins = Plugins::new();
    let program = ProgramFolder::new(plugins.dir(), "bad").built("served", "served");
    program.set("package", "served").set("sha256", "ab".repeat(32)).install();
    let args = ["inspect", "bad", "--dir", ".", "--json"];
    let json = hotbay(plugins.dir(), &args).exits(1).json();
    assert_eq!(json["problem"]["step"], "digest");
    assert_eq!(json["program"]["verified"], false);
    let call = ["call", "bad", "--dir", ".", "--text", "x"];
    hotbay(plugins.dir(), &call).exits(1).says_only(&["error:", "because:", "SHA-256"]);
}
