//! `hotbay check` as a conformance kit: a conforming program passes every step; a program with one
//! defect fails the matching step, with a helpful message.

use std::path::{Path, PathBuf};

use hotbay_tests::{Plugins, ProgramFolder};
use serde_json::{Value, json};

use crate::hotbay_command::hotbay;

/// Checks the only program in `folder`, and returns the failed steps with their messages and hints.
fn failed(folder: &Path, args: &[&str]) -> Vec<(String, String)> {
    let folder = folder.to_str().unwrap();
    let run = hotbay(Path::new("."), &[&["check", folder, "--json"], args].concat());
    let plugin = run.json()["plugins"][0].clone();
    let steps = plugin["steps"].as_array().unwrap_or_else(|| panic!("no steps: {plugin}"));
    assert_eq!(steps.len(), 25, "{plugin}");
    let text = |step: &Value, field: &str| step[field].as_str().unwrap().to_owned();
    let failed = steps.iter().filter(|step| step["outcome"] == "failed");
    let message = |step: &Value| match step["hint"].as_str() {
        Some(hint) => format!("{}\nhint: {hint}", text(step, "message")),
        None => text(step, "message"),
    };
    let failed: Vec<_> = failed.map(|step| (text(step, "name"), message(step))).collect();
    let has_passed = failed.is_empty() && plugin["problem"].is_null();
    assert_eq!(run.code, Some(i32::from(!has_passed)), "{plugin}");
    failed
}

/// Installs the fixture with one defect, and checks that exactly this step fails with these texts.
#[track_caller]
fn check(behavior: Value, args: &[&str], step: &str, parts: &[&str]) {
    let plugins = Plugins::new();
    let mut action = behavior;
    if action["serve"]["conforms"].is_null() {
        action["serve"]["conforms"] = true.into();
    }
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(action).install();
    let failed = failed(&folder, args);
    let names: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [step], "{failed:?}");
    for part in parts {
        assert!(failed[0].1.contains(part), "`{part}` in: {}", failed[0].1);
    }
}

fn installed(plugins: &Plugins, package: &str) -> PathBuf {
    let folder = ProgramFolder::new(plugins.dir(), package).built(package, package);
    folder.behavior(json!({ "serve": { "conforms": true, "state": true } })).install()
}

#[test]
fn conforming_programs_pass_every_step() {
    let plugins = Plugins::new();
    for package in ["program", "served"] {
        let folder = installed(&plugins, package);
        assert_eq!(failed(&folder, &["--text", r#"{"do":"count"}"#]), []);
    }
}

#[test]
fn conforming_python_program_passes_every_step() {
    let has_python = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("python3").exists()));
    if !has_python {
        return; // The plugin is written in Python.
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/wordcount");
    assert_eq!(failed(&folder, &["--text", "a b a", "--allow-writable"]), []);
}

#[test]
fn each_step_prints_one_line_with_findings() {
    let plugins = Plugins::new();
    let folder = installed(&plugins, "program");
    let text = hotbay(&folder, &["check", "."]).exits(0).text();
    for part in [
        "program  0.1.0    passed  -\n",
        "protocol conformance of program:",
        "ok       token             401 without the token and with a wrong one",
        "skipped  sample            no sample was given\n\
         \x20                            hint: pass a sample with `--text` or `--input`\n",
        "ok       sigterm           it exited with code 0",
    ] {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
    let behavior = json!({ "serve": { "conforms": true, "needs_no_token": true } });
    hotbay_tests::set_behavior(&folder, &behavior);
    let run = hotbay(&folder, &["check", "."]).exits(1);
    let text = run.text();
    assert!(text.contains("protocol step `token` failed"), "{text}");
    assert!(text.contains("FAILED   token             `GET /healthz` without"), "{text}");
    assert!(run.stderr.contains("0 of 1 passed"), "{}", run.stderr);
}

#[test]
fn missing_authentication_fails_token_step() {
    let behavior = json!({ "serve": { "needs_no_token": true } });
    let parts = ["without the token returned 200", "expected 401", "Hotbay-Token"];
    check(behavior, &[], "token", &parts);
}

#[test]
fn crash_on_malformed_http_fails_that_step() {
    let behavior = json!({ "serve": { "exits_when_malformed": true } });
    check(behavior, &[], "malformed-http", &["a line that is not an HTTP request", "code 3"]);
}

#[test]
fn chatter_on_stdout_fails_step_that_reads_it() {
    let behavior = json!({ "capabilities": { "noise": ["loading"] } });
    check(behavior, &[], "capabilities", &["text before the JSON", "\nhint: write logs to stderr"]);
    let behavior = json!({ "location": { "noise": ["starting"] } });
    check(behavior, &[], "location", &["`starting`", "\nhint: write logs to stderr"]);
}

#[test]
fn ignored_sigterm_fails_stop_step() {
    let behavior = json!({ "serve": { "conforms": false, "idle_exit_ms": 200 } });
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(behavior).install();
    let failed = failed(&folder, &[]);
    let sigterm = failed.iter().find(|(name, _)| name == "sigterm").unwrap();
    assert!(sigterm.1.contains("did not exit with code 0") && sigterm.1.contains("SIGTERM"));

    let behavior = json!({ "serve": { "keeps_running": true } });
    check(behavior, &[], "shutdown", &["did not exit within 5 s after `/shutdown`"]);
}

#[test]
fn leftover_socket_is_noted_at_each_stop() {
    let plugins = Plugins::new();
    let behavior = json!({ "serve": { "conforms": true, "leaves_socket": true } });
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(behavior).install();
    let failed = failed(&folder, &[]);
    let names: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["sigterm", "shutdown", "idle-exit"]);
    for (_, message) in &failed {
        assert!(message.contains(".socket` and `") && message.contains(".lock`"), "{message}");
    }
}

#[test]
fn malformed_error_body_fails_call_step() {
    let oops = json!({ "status": 500, "body": "oops" });
    let behavior = json!({ "serve": { "conforms": true, "execute": oops } });
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(behavior).install();
    let failed = failed(&folder, &[]);
    assert_eq!(failed[0].0, "empty-input", "{failed:?}");
    assert!(failed[0].1.contains("returned 500 with `oops`; expected JSON"), "{failed:?}");
}

#[test]
fn connection_close_per_response_fails_keep_alive_step() {
    let plugins = Plugins::new();
    let behavior = json!({ "serve": { "conforms": true, "close_after_calls": 1 } });
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(behavior).install();
    // The outcome of other steps that meet a closing connection is not predictable.
    let (name, message) = failed(&folder, &[]).swap_remove(0);
    assert_eq!(name, "keep-alive", "{message}");
    for part in ["ended after one request", "expected HTTP/1.1"] {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
}

#[test]
fn wrong_reply_count_fails_batch_step() {
    let behavior = json!({ "serve": { "replies": 2 } });
    check(behavior, &[], "batch", &["5 requests got 2 replies"]);
}

#[test]
fn non_loopback_port_fails_location_step() {
    let behavior = json!({ "location": { "kind": "any6" } });
    if cfg!(target_os = "linux") {
        check(
            behavior,
            &[],
            "location",
            &["other machines can reach it\nhint: bind it to 127.0.0.1"],
        );
    }
}

#[test]
fn processes_that_outlive_program_are_reported() {
    let sample = r#"{"do":"grandchild","own_session":true,"detach_pipes":true}"#;
    if cfg!(target_os = "linux") {
        check(
            json!({}),
            &["--text", sample],
            "leftovers",
            &["its descendants outlived it", "after SIGTERM"],
        );
    }
}

#[test]
fn program_that_is_never_ready_skips_later_steps() {
    let behavior = json!({ "location": { "exit": 4, "stderr": "no license\n" } });
    check(behavior, &[], "location", &["code 4", "no license"]);
}

#[test]
fn older_dialect_is_checked_against_its_features() {
    let plugins = Plugins::new();
    let behavior = json!({
        "capabilities": { "dialect": "older" },
        "serve": { "conforms": true, "needs_no_token": true },
    });
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(behavior).install();
    let json = hotbay(&folder, &["check", ".", "--json"]).json();
    let steps = json["plugins"][0]["steps"].as_array().unwrap();
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
    for name in ["token", "unknown-endpoint", "empty-input", "batch", "snapshot", "deadline"] {
        assert_eq!(
            (&step(name)["outcome"], &step(name)["message"]),
            (&json!("skipped"), &json!("older dialect")),
            "{name}"
        );
    }
    for name in ["capabilities", "location", "ready", "keep-alive", "concurrency", "sigterm"] {
        assert_eq!(step(name)["outcome"], "passed", "{}", step(name));
    }
}
