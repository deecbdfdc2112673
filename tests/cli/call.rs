//! `hotbay call` and `hotbay pipe` with one input, as users run them.

use std::fs;
use std::path::{Path, PathBuf};

use hotbay_tests::{HOSTILE, Plugins, steers};
use serde_json::json;
use snapbox::str;
use tempfile::TempDir;

use crate::command::{Run, command, examples, hotbay, with_input};

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
    hotbay(dir, &["call", "transform", "--input", "gone"]).exits(1).shows(str![[r#"
$ hotbay call transform --input gone
--- stderr
error: cannot read `gone`
  because: No such file or directory (os error [ERRNO])
--- exit code 1
"#]]);

    let repeated = ["call", "transform", "--text", "a", "--repeat", "3"];
    hotbay(dir, &repeated).exits(0).shows(str![[r#"
$ hotbay call transform --text a --repeat 3
A
\ no newline at the end
--- stderr
3 calls, [DURATION] each
"#]]);
    hotbay(dir, &["call", "transform", "--text", "a", "--json"]).exits(0).shows(str![[r#"
$ hotbay call transform --text a --json
{
  "content_type": "text/plain; charset=utf-8",
  "generation": 1,
  "text": "A"
}
"#]]);
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
    hotbay(plugins.dir(), &args).exits(1).shows(str![[r#"
$ hotbay call sad --text x --dir .
--- stderr
error: plugin `sad` returned an error
  because: busy (code 503)
  details: {"a":1}
--- exit code 1
"#]]);
    let args = ["call", "sad", "--text", "x", "--dir", ".", "--json"];
    hotbay(plugins.dir(), &args).exits(1).shows(str![[r#"
$ hotbay call sad --text x --dir . --json
{
  "error": {
    "code": 503,
    "details": {
      "a": 1
    },
    "generation": 1,
    "hint": null,
    "kind": "plugin",
    "location": null,
    "message": "busy",
    "plugin": "sad",
    "retryable": true,
    "step": null
  }
}
--- exit code 1
"#]]);
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
    hotbay(plugins.dir(), &args).exits(1).shows(str![[r#"
$ hotbay call top --text x --dir .
--- stderr
warning: plugin `base` failed to load at step `init`
  because: in init, on request (code 500)
error: plugin `top` failed to load at step `requires`
  because: it requires `base` *, which is not loaded
--- exit code 1
"#]]);
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
    let dir = plugins.dir();
    let args = ["call", "stuck", "--text", "x", "--dir", ".", "--deadline", "50ms"];
    hotbay(dir, &args).exits(1).shows(str![[r#"
$ hotbay call stuck --text x --dir . --deadline 50ms
--- stderr
error: plugin `stuck` did not answer before the deadline; the call is still running, and its result is discarded
--- exit code 1
"#]]);
    let args =
        ["call", "stuck", "--text", "x", "--dir", ".", "--deadline", "0.05s", "--repeat", "2"];
    hotbay(dir, &args).exits(1).shows(str![[r#"
$ hotbay call stuck --text x --dir . --deadline 0.05s --repeat 2
--- stderr
error: plugin `stuck` did not answer before the deadline; the call is still running, and its result is discarded
--- exit code 1
"#]]);
    let args = ["pipe", "stuck", "--dir", ".", "--deadline", "50ms"];
    hotbay(dir, &args).exits(1).shows(str![[r#"
$ hotbay pipe stuck --dir . --deadline 50ms
--- stderr
error: plugin `stuck` did not answer before the deadline; the call is still running, and its result is discarded
--- exit code 1
"#]]);
    let args = ["call", "stuck", "--text", "x", "--dir", ".", "--deadline", "50ms", "--json"];
    let json = hotbay(plugins.dir(), &args).exits(1).json();
    assert_eq!(json["error"]["kind"], "deadline_exceeded");
    let wrong = |deadline: &str| {
        let deadline = format!("--deadline={deadline}");
        let args = ["call", "stuck", "--text", "x", "--dir", ".", &deadline];
        hotbay(plugins.dir(), &args).exits(2)
    };
    wrong("0ms").shows(str![[r#"
$ hotbay call stuck --text x --dir . --deadline=0ms
--- stderr
error: invalid value '0ms' for '--deadline <TIME>': expected a duration longer than zero

For more information, try '--help'.
--- exit code 2
"#]]);
    wrong("soon").shows(str![[r#"
$ hotbay call stuck --text x --dir . --deadline=soon
--- stderr
error: invalid value 'soon' for '--deadline <TIME>': expected a duration such as 50ms, 1.5s or 2m

For more information, try '--help'.
--- exit code 2
"#]]);
    wrong("-1s").shows(str![[r#"
$ hotbay call stuck --text x --dir . --deadline=-1s
--- stderr
error: invalid value '-1s' for '--deadline <TIME>': expected a duration longer than zero

For more information, try '--help'.
--- exit code 2
"#]]);
    wrong("5").shows(str![[r#"
$ hotbay call stuck --text x --dir . --deadline=5
--- stderr
error: invalid value '5' for '--deadline <TIME>': expected a duration such as 50ms, 1.5s or 2m

For more information, try '--help'.
--- exit code 2
"#]]);
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

#[cfg(unix)]
#[test]
fn command_keeps_copies_on_request() {
    let (plugins, temp) = (Plugins::new(), TempDir::new().unwrap());
    plugins.add("echo", "faulty").write();
    for (option, left) in [(None, 0), (Some("--keep-staged"), 1)] {
        let mut command = command(plugins.dir(), &["call", "echo", "--text", "hi", "--dir", "."]);
        command.args(option).env("TMPDIR", temp.path());
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
    hotbay(plugins.dir(), &args).exits(1).shows(str![[r#"
$ hotbay call hostile --dir . --text '{"error":{"message":"one\nerror: two"},"error_in":"execute"}'
--- stderr
error: plugin `hostile` returned an error
  because: one
    error: two (code 500)
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn call_and_pipe_reach_both_kinds() {
    let plugins = crate::command::both_kinds();
    let count = r#"{ "do": "count" }"#;
    let call = hotbay(plugins.dir(), &["call", "process", "--text", count]).exits(0);
    assert_eq!(call.text().trim(), "42");
    let fails = r#"{ "do": "fail", "code": 7, "message": "no" }"#;
    hotbay(plugins.dir(), &["call", "process", "--text", fails]).exits(1).shows(str![[r#"
$ hotbay call process --text '{ "do": "fail", "code": 7, "message": "no" }'
--- stderr
error: plugin `process` returned an error
  because: no (code 7)
--- exit code 1
"#]]);
    let panics = r#"{ "do": "panic", "message": "oh no" }"#;
    hotbay(plugins.dir(), &["call", "process", "--text", panics]).exits(1).shows(str![[r#"
$ hotbay call process --text '{ "do": "panic", "message": "oh no" }'
--- stderr
error: plugin `process` failed
  because: panicked: oh no (at tests/fixtures/served/src/lib.rs:[POSITION])
--- exit code 1
"#]]);
    let steps = ["pipe", "library", "process", "library"];
    let piped = with_input(plugins.dir(), &steps, b"a text").exits(0);
    assert_eq!(piped.text(), "a text");
}

#[cfg(unix)]
#[test]
fn call_reports_why_folder_was_skipped() {
    use std::os::unix::fs::PermissionsExt;
    let plugins = Plugins::new();
    plugins.add_in("open/below", "below", "faulty").write();
    let open = plugins.dir().join("open");
    fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    let call = ["call", "below", "--dir", ".", "--text", "hi"];
    hotbay(plugins.dir(), &call).exits(1).shows(str![[r#"
$ hotbay call below --dir . --text hi
--- stderr
error: plugin `below` not found in `.`
  because: a folder was skipped: `[ROOT]/open` is writable by other users (mode 0777)
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &["call", "below", "--dir", "gone"]).exits(1).shows(str![[r#"
$ hotbay call below --dir gone
--- stderr
error: plugin `below` not found in `gone`
  because: a folder was skipped: cannot read `gone`: No such file or directory (os error [ERRNO])
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn call_of_a_refused_plugin_gives_the_reason() {
    let plugins = Plugins::new();
    fs::create_dir(plugins.dir().join("other")).unwrap();
    fs::write(plugins.dir().join("other/plugin.json"), r#"{ "name": "s" }"#).unwrap();
    hotbay(plugins.dir(), &["call", "s", "--dir", "."]).exits(1).shows(str![[r#"
$ hotbay call s --dir .
--- stderr
error: plugin `s` not found in `.`
  because: cannot load a plugin from `./other`: ./other/plugin.json has 2 mistakes:
      1:1: `version` is missing; expected MAJOR.MINOR.PATCH, for example `1.0.0`
      1:1: `api` is missing; expected a semver requirement, for example `^1.0`
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn files_writable_by_others_are_refused_unless_allowed() {
    use std::os::unix::fs::PermissionsExt;
    let plugins = examples();
    let manifest = plugins.dir().join("plugins/transform/plugin.json");
    fs::set_permissions(manifest, fs::Permissions::from_mode(0o666)).unwrap();
    let args = ["call", "transform", "--text", "a"];
    hotbay(plugins.dir(), &args).exits(1).shows(str![[r#"
$ hotbay call transform --text a
--- stderr
error: cannot load a plugin from `[ROOT]/plugins/transform`
  because: `[ROOT]/plugins/transform/plugin.json` is writable by other users (mode 0666)
  hint: run `chmod go-w [ROOT]/plugins/transform/plugin.json`, or turn this check off with `.allow_writable_by_others(true)` / `--allow-writable`
--- exit code 1
"#]]);
    let args = ["call", "transform", "--text", "a", "--allow-writable"];
    assert_eq!(hotbay(plugins.dir(), &args).exits(0).text(), "A");
}

#[test]
fn log_goes_to_stderr_only_when_requested() {
    let plugins = Plugins::new();
    let logging = plugins.add("logging", "faulty").config(json!({ "log": ["hello there"] }));
    logging.set("permissions", json!(["log"])).write();
    let quiet = hotbay(plugins.dir(), &["call", "logging", "--text", "a", "--dir", "."]).exits(0);
    assert_eq!(quiet.stderr, "");
    let args = ["call", "logging", "--text", "a", "--dir", ".", "-v"];
    let loud = hotbay(plugins.dir(), &args).exits(0);
    assert_eq!(loud.text(), quiet.text());
    assert!(loud.stderr.contains("hello there"), "{}", loud.stderr);
}
