//! `hotbay call` and `hotbay pipe` with one input, as users run them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hotbay_tests::{HOSTILE, Plugins, binary, steers};
use serde_json::json;
use tempfile::TempDir;

use crate::command::{Run, examples, hotbay, with_input};

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

/// Returns the files under a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[allow(clippy::disallowed_methods, reason = "the test runs the command")]
#[test]
fn command_keeps_copies_on_request() {
    let (plugins, temp) = (Plugins::new(), TempDir::new().unwrap());
    plugins.add("echo", "faulty").write();
    for (option, left) in [(None, 0), (Some("--keep-staged"), 1)] {
        let mut command = Command::new(binary("hotbay-cli", "hotbay"));
        command.args(["call", "echo", "--text", "hi", "--dir", "."]).args(option);
        command.current_dir(plugins.dir()).env("TMPDIR", temp.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stdout == b"hi", "{output:?}");
        let files = files_below(temp.path());
        assert_eq!(files.len(), left, "{option:?}: {files:?}");
    }
}

#[test]
fn command_escapes_control_characters_of_plugins() {
    let plugins = Plugins::new();
    let config = json!({ "scripted": true });
    let folder = plugins.add("hostile", "faulty").set("config", config);
    folder.set("description", json!(HOSTILE)).set("authors", json!([HOSTILE])).write();
    let error = json!({ "message": HOSTILE, "details": { HOSTILE: HOSTILE } });
    let fails = json!({ "error_in": "execute", "error": error }).to_string();
    let panics = json!({ "panic_in": "execute", "panic_message": HOSTILE }).to_string();
    for input in [&fails, &panics] {
        for more in [&[][..], &["--json"]] {
            let args =
                [&["call", "hostile", "--dir", ".", "--text", input.as_str()], more].concat();
            let run = hotbay(plugins.dir(), &args).exits(1);
            let (text, stderr) = (run.text().to_owned(), run.stderr.clone());
            assert!(!steers(&text) && !steers(&stderr), "{text:?} {stderr:?}");
            assert!(text.contains("031") || text.contains("1b") || stderr.contains("\\u{1b}"));
        }
    }
    for args in [&["list", "--dir", "."][..], &["inspect", "hostile", "--dir", "."]] {
        for more in [&[][..], &["--json"]] {
            let run = hotbay(plugins.dir(), &[args, more].concat()).exits(0);
            assert!(!steers(&run.text()), "{:?}", run.text());
        }
    }
    let two = json!({ "error_in": "execute", "error": { "message": "one\nerror: two" } });
    let args = ["call", "hostile", "--dir", ".", "--text", &two.to_string()];
    let run = hotbay(plugins.dir(), &args).exits(1);
    assert!(run.stderr.contains("one\n    error: two"), "{}", run.stderr);
}
