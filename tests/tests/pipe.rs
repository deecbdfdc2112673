//! `hotbay call` and `hotbay pipe` with one input, as users run them.

use std::fs;

use hotbay_tests::Plugins;
use serde_json::json;

use crate::hotbay_command::{Run, examples, hotbay, with_input};

#[test]
fn call_reads_input_from_argument_file_or_stdin() {
    let plugins = examples();
    let dir = plugins.dir();
    let check = |run: Run| assert_eq!(run.exits(0).text(), "ÄB");
    check(hotbay(dir, &["call", "transform", "--text", "äb"]));
    fs::write(dir.join("input.txt"), "äb").unwrap();
    check(hotbay(dir, &["call", "transform", "--input", "input.txt"]));
    check(with_input(dir, &["call", "transform", "--input", "-"], "äb".as_bytes()));
    check(with_input(dir, &["call", "transform"], "äb".as_bytes()));
    hotbay(dir, &["call", "transform", "--input", "gone"]).exits(1).says_only(&["`gone`"]);

    let repeated = hotbay(dir, &["call", "transform", "--text", "a", "--repeat", "3"]).exits(0);
    assert_eq!(repeated.text(), "A");
    assert!(repeated.stderr.starts_with("3 calls, "), "{}", repeated.stderr);
    let json = hotbay(dir, &["call", "transform", "--text", "a", "--json"]).exits(0).json();
    let expected = json!({ "content_type": json["content_type"], "text": "A", "generation": 1 });
    assert_eq!(json, expected);
}

#[test]
fn pipe_passes_non_utf8_bytes_unchanged() {
    let plugins = Plugins::new();
    plugins.add("echo", "faulty").write();
    let bytes = [0, 255, 10, 254, 13];
    let args = ["call", "echo", "--dir", "."];
    assert_eq!(with_input(plugins.dir(), &args, &bytes).exits(0).stdout, bytes);
    let args = ["call", "echo", "--dir", ".", "--json"];
    assert_eq!(with_input(plugins.dir(), &args, &bytes).exits(0).json()["bytes"], json!(bytes));
}

#[test]
fn plugin_error_is_printed_with_code_and_details() {
    let plugins = Plugins::new();
    let action = json!({
        "error_in": "execute",
        "error": { "code": 503, "message": "busy", "retryable": true, "details": { "a": 1 } },
    });
    plugins.add("sad", "faulty").config(action).write();
    let args = ["call", "sad", "--text", "x", "--dir", "."];
    let run = hotbay(plugins.dir(), &args).exits(1);
    assert_eq!(run.stderr.lines().count(), 3, "{}", run.stderr);
    run.says_only(&["error: plugin `sad` returned an error", "busy", "503", "{\"a\":1}"]);
    let args = ["call", "sad", "--text", "x", "--dir", ".", "--json"];
    let json = hotbay(plugins.dir(), &args).exits(1).json();
    let error = &json["error"];
    assert_eq!((&error["kind"], &error["plugin"]), (&json!("plugin"), &json!("sad")));
    assert_eq!((&error["code"], &error["retryable"]), (&json!(503), &json!(true)));
    assert_eq!((&error["message"], &error["details"]), (&json!("busy"), &json!({ "a": 1 })));
}

#[test]
fn call_loads_only_plugin_and_its_requirements() {
    let plugins = Plugins::new();
    plugins.add("bomb", "faulty").config(json!({ "abort_in": "init" })).write();
    plugins.add("base", "faulty").write();
    plugins.add("top", "faulty").set("requires", json!({ "base": "*" })).write();
    let args = ["call", "top", "--text", "x", "--dir", "."];
    assert_eq!(hotbay(plugins.dir(), &args).exits(0).text(), "x");
    plugins.add("base", "faulty").config(json!({ "error_in": "init" })).write();
    let run = hotbay(plugins.dir(), &args).exits(1);
    run.says_only(&["warning: plugin `base`", "error: plugin `top`", "`base`"]);
}

#[test]
fn pipe_sends_stdin_through_all_plugins_in_order() {
    let plugins = examples();
    let args = ["pipe", "filter", "transform"];
    assert_eq!(with_input(plugins.dir(), &args, b"[1, -2]\n").exits(0).text(), "[1]");
    let args = ["pipe", "transform", "transform", "--lines"];
    let run = with_input(plugins.dir(), &args, b"a\r\n\nlast").exits(0);
    assert_eq!(run.text(), "A\n\nLAST\n");
}

#[test]
fn hanging_plugin_times_out_at_deadline() {
    let plugins = Plugins::new();
    plugins.add("stuck", "faulty").config(json!({ "hang_in": "execute" })).write();
    let late = |args: &[&str]| {
        let run = hotbay(plugins.dir(), args).exits(1);
        run.says_only(&["error: plugin `stuck`", "deadline"]);
    };
    late(&["call", "stuck", "--text", "x", "--dir", ".", "--deadline", "50ms"]);
    late(&["call", "stuck", "--text", "x", "--dir", ".", "--deadline", "0.05s", "--repeat", "2"]);
    late(&["pipe", "stuck", "--dir", ".", "--deadline", "50ms"]);
    let args = ["call", "stuck", "--text", "x", "--dir", ".", "--deadline", "50ms", "--json"];
    let json = hotbay(plugins.dir(), &args).exits(1).json();
    assert_eq!(json["error"]["kind"], "deadline_exceeded");
    for wrong in ["0ms", "soon", "-1s", "5"] {
        let deadline = format!("--deadline={wrong}");
        let args = ["call", "stuck", "--text", "x", "--dir", ".", &deadline];
        hotbay(plugins.dir(), &args).exits(2).says_only(&[wrong]);
    }
}

#[test]
fn call_that_meets_deadline_prints_reply() {
    let plugins = examples();
    let args = ["call", "transform", "--text", "a", "--deadline", "1m", "--repeat", "3"];
    assert_eq!(hotbay(plugins.dir(), &args).exits(0).text(), "A");
    let args = ["pipe", "transform", "--deadline", "1m"];
    assert_eq!(with_input(plugins.dir(), &args, b"a").exits(0).text(), "A");
}
