//! Refused programs: the step, the message, and that nothing is left.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, LoadStep};
use hotbay_tests::{Plugins, ProgramFolder, limits, lines_of, refused};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixture::ProcessFixture;

type Step = (ErrorKind, LoadStep);

const CAPABILITIES: Step = (ErrorKind::StartFailed, LoadStep::Capabilities);
const LAUNCH: Step = (ErrorKind::StartFailed, LoadStep::Launch);
const LOCATION: Step = (ErrorKind::StartFailed, LoadStep::Location);
const READY: Step = (ErrorKind::StartFailed, LoadStep::Ready);

/// Loads a program with this behavior. Checks that it is refused as expected and leaves nothing.
#[track_caller]
fn check(
    behavior: &Value,
    corrupt: impl FnOnce(ProgramFolder) -> ProgramFolder,
    timeout: Duration,
    step: Step,
    expected: &[&str],
) {
    let (fixture, staging) = (ProcessFixture::new(), TempDir::new().expect("a folder"));
    let folder = corrupt(fixture.program(behavior.clone())).install();
    let limits = limits(|limits| limits.start_timeout = timeout);
    let builder = Host::builder().staging_dir(staging.path()).limits(limits);
    let host = builder.build().expect("a host");
    let error = refused(&host, folder);
    let message = error.full_message();
    let hint = error.hint().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
    let text = format!("{message}{hint}");
    assert_eq!((error.kind(), error.step()), (step.0, Some(step.1)), "{behavior}: {message}");
    for part in expected {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
    assert!(lines_of(&error) <= 17 && message.len() < 2000, "{message}");
    assert!(host.retained().is_empty() && host.list().is_empty(), "{message}");
    fixture.assert_nothing_left();
    assert_eq!(files_below(staging.path()), 0, "a copy is left: {message}");
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_below(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(count).sum()
}

/// For failures that need no timeout.
const LONG: Duration = Duration::from_secs(30);
/// For timeouts; long enough for successful steps to finish well before.
const SHORT: Duration = Duration::from_secs(4);

#[track_caller]
fn corrupted(corrupt: impl FnOnce(ProgramFolder) -> ProgramFolder, step: Step, expected: &[&str]) {
    check(&json!({}), corrupt, LONG, step, expected);
}

#[track_caller]
fn fails(behavior: Value, step: Step, expected: &[&str]) {
    check(&behavior, |it| it, LONG, step, expected);
}

/// Runs all cases at once, since each takes its whole timeout.
fn time_out(cases: &[(Value, Step, &[&str])]) {
    thread::scope(|scope| {
        for (behavior, step, expected) in cases {
            scope.spawn(move || check(behavior, |it| it, SHORT, *step, expected));
        }
    });
}

#[test]
fn file_that_cannot_run_is_refused_with_reason() {
    let missing = (ErrorKind::Integrity, LoadStep::Stage);
    corrupted(ProgramFolder::without_program, missing, &["program"]);
    corrupted(ProgramFolder::not_executable, LAUNCH, &["is not executable"]);
    let here = std::env::consts::ARCH;
    corrupted(ProgramFolder::for_another_processor, CAPABILITIES, &["built for", here]);
    let expected = ["`/nowhere/bin/interpreter`", "interpreter"];
    corrupted(ProgramFolder::without_interpreter, CAPABILITIES, &expected);
    // A shell reads it, and rejects it.
    let python = |it: ProgramFolder| it.bytes("import sys\nprint(sys.argv[1:])\n");
    corrupted(
        python,
        CAPABILITIES,
        &["a script without a `#!` line", "\nhint: begin it with the interpreter"],
    );
    corrupted(
        |it| it.bytes(""),
        CAPABILITIES,
        &["the file is empty", "\nhint: build or install the program again"],
    );
}

#[test]
fn failing_script_is_reported_with_last_output() {
    let script = "#!/bin/sh\necho 'no such database' >&2\nexit 9\n";
    corrupted(|it| it.bytes(script), CAPABILITIES, &["exited with code 9", "no such database"]);
    let script = "#!/bin/sh\nexec hotbay-no-such-command \"$@\"\n";
    corrupted(
        |it| it.bytes(script),
        CAPABILITIES,
        &["hotbay-no-such-command", "\nhint: install it, or fix PATH"],
    );
}

#[test]
fn failed_start_shows_first_and_last_lines() {
    // As Node writes it: the error comes first, followed by a long stack trace.
    let script = "#!/bin/sh\n[ \"$1\" = capabilities ] && [ -z \"$AT_ONCE\" ] && \
                  { echo '{\"hotbay\":{\"protocol\":1,\"endpoints\":[\"execute\"]}}'; exit; }\n\
                  echo '/app/main.js:3' >&2\necho 'const = 1;' >&2\necho 'SyntaxError: no name' >&2\n\
                  i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo \"    at frame $i\" >&2; done\n\
                  echo 'Node.js v20' >&2; exit 1\n";
    let expected = [
        "exited with code 1",
        "output:\n  /app/main.js:3\n  const = 1;\n  SyntaxError: no name\n",
        "\n  …\n",
        "at frame 40\n  Node.js v20",
    ];
    let lines = |step: Step, script: String| {
        let fixture = ProcessFixture::new();
        let host = Host::builder().build().expect("a host");
        let error = refused(&host, fixture.program(json!({})).bytes(script).install());
        let message = error.full_message();
        assert_eq!((error.kind(), error.step()), (step.0, Some(step.1)), "{message}");
        for part in expected {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
        assert!(!message.contains("\\n") && lines_of(&error) <= 20, "{message}");
    };
    lines(LOCATION, script.to_owned());
    lines(CAPABILITIES, script.replace("-z \"$AT_ONCE\"", "-n \"$AT_ONCE\""));
}

#[test]
fn invalid_capabilities_are_named_by_field() {
    let ours = |name: &str, value: Value| json!({ "hotbay": { name: value } });
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({ "nothing": true }), &["is empty", "a JSON object"]),
        (json!({ "text": "\n" }), &["is empty"]),
        (
            json!({ "noise": ["starting up"] }),
            &["text that is not JSON", "starting up", "\nhint: write logs to stderr"],
        ),
        (json!({ "text": "{}" }), &["no fields", "`hotbay`"]),
        (json!({ "text": "[]" }), &["`hotbay`"]),
        (json!({ "text": r#"{"hotbay":"#, "stderr": "oh no\n" }), &["not JSON", "oh no"]),
        (json!({ "text": r#"{"hotbay":{}} done"# }), &["text after", "done"]),
        (json!({ "text": r#"{"hotbay":1}"# }), &["`hotbay`", "is 1", "`protocol`"]),
        (ours("protocol", json!(2)), &["`hotbay.protocol` is 2", "\nhint: update the host"]),
        (ours("protocol", json!("1")), &["`hotbay.protocol`"]),
        (ours("protocol", Value::Null), &["`hotbay.protocol` is missing"]),
        (ours("endpoints", json!("execute")), &["`hotbay.endpoints`", "a list of endpoints"]),
        (ours("endpoints", json!([])), &["`hotbay.endpoints` is empty"]),
        (ours("endpoints", json!(["snapshot"])), &["has only `snapshot`"]),
        (ours("endpoints", json!(["execute", 7])), &["`hotbay.endpoints[1]` is 7"]),
        (ours("endpoints", json!(["/execute"])), &["`hotbay.endpoints[0]`", "without `/`"]),
        (
            ours("endpoints", json!(["execute", "a<b"])),
            &["`hotbay.endpoints[1]` is \"a<b\"", "URL"],
        ),
        (ours("config", json!("env")), &["`hotbay.config`"]),
        (ours("name", json!("")), &["`hotbay.name`"]),
        (ours("name", json!(7)), &["`hotbay.name` is 7"]),
        (ours("version", json!({})), &["`hotbay.version` is an object"]),
        (ours("configSchema", json!(7)), &["configSchema"]),
        (
            ours("configSchema", json!({ "type": "no-such-type" })),
            &["configSchema", "no-such-type"],
        ),
        (ours("inputSchema", json!({ "type": 7 })), &["inputSchema"]),
        (json!({ "bytes": 2 << 20 }), &["more than 1048576 bytes"]),
        (json!({ "exit": 3, "stderr": "no license\n" }), &["exited with code 3", "no license"]),
        (json!({ "signal": 6 }), &["SIGABRT"]),
    ];
    for (message, expected) in cases {
        fails(json!({ "capabilities": message }), CAPABILITIES, expected);
    }
}

#[test]
fn program_reporting_another_name_is_refused() {
    let step = (ErrorKind::Incompatible, LoadStep::Version);
    let other = json!({ "capabilities": { "hotbay": { "name": "other" } } });
    fails(other, step, &["`other`", "`program`", "plugin.json"]);
    let newer = json!({ "capabilities": { "hotbay": { "version": "7.0.0" } } });
    fails(newer, step, &["`7.0.0`", "`0.1.0`"]);
}

#[test]
fn config_rejected_by_program_is_refused_before_start() {
    let schema = json!({
        "type": "object", "properties": { "depth": { "type": "integer" } }, "required": ["depth"],
    });
    let behavior = json!({ "capabilities": { "hotbay": { "configSchema": schema } } });
    let step = (ErrorKind::Config, LoadStep::Config);
    let wrong = |it: ProgramFolder| it.config(json!({ "depth": "deep" }));
    check(&behavior, wrong, LONG, step, &["depth", "deep"]);
    check(&behavior, |it| it, LONG, step, &["depth"]);
}

#[test]
fn declared_schema_over_budget_refuses_config() {
    let twice = |i: usize| {
        let target = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
        (format!("d{i}"), json!({ "anyOf": [target, target] }))
    };
    let links: serde_json::Map<_, _> =
        (0..40).map(twice).chain([("d40".into(), json!({}))]).collect();
    let schema = json!({ "$ref": "#/$defs/d0", "$defs": links });
    let behavior = json!({ "capabilities": { "hotbay": { "configSchema": schema } } });
    check(&behavior, |it| it, LONG, (ErrorKind::Config, LoadStep::Config), &["budget of "]);
}

#[test]
fn long_config_requires_program_that_reads_file() {
    let step = (ErrorKind::StartFailed, LoadStep::Config);
    let large = |it: ProgramFolder| it.config(json!({ "text": "x".repeat(200 << 10) }));
    for (channels, named) in [(json!(["env"]), "HOTBAY_CONFIG"), (json!([]), "--config")] {
        let behavior = json!({ "capabilities": { "hotbay": { "config": channels } } });
        let expected = ["bytes, more than the 1310", named, "\nhint: shorten the config"];
        check(&behavior, large, LONG, step, &expected);
    }
    let older = json!({ "capabilities": { "dialect": "older" } });
    check(&older, large, LONG, step, &["--config", "more than the 1310"]);
}

#[test]
fn invalid_argument_is_manifest_error() {
    for (argument, expected) in
        [("a\0b".to_owned(), "without NUL"), ("x".repeat(200 << 10), "131071 bytes")]
    {
        let fixture = ProcessFixture::new();
        let folder = fixture.program(json!({})).arguments(&[&argument]).install();
        let error = refused(&Host::builder().build().expect("a host"), folder);
        let message = error.full_message();
        assert!(error.kind() == ErrorKind::Manifest && message.contains(expected), "{message}");
        assert!(message.contains("`command[1]`") && message.len() < 2000, "{message}");
    }
}

#[test]
fn program_exiting_before_ready_is_reported_with_exit() {
    let stderr = "thread 'main' panicked at src/main.rs:1:2:\nno port\n";
    let location = |action: Value| json!({ "location": action });
    let panics = location(json!({ "stderr": stderr, "exit": 101 }));
    fails(panics, LOCATION, &["exited with code 101", "the program panicked\n", "no port"]);
    fails(location(json!({ "exit": 0 })), LOCATION, &["exited with code 0", "keeps running"]);
    fails(location(json!({ "signal": 9 })), LOCATION, &["SIGKILL"]);
    let noise = json!({ "noise": ["one"], "text": "two", "then": { "exit": 5 } });
    fails(location(noise), LOCATION, &["exited with code 5", "one\n  two"]);
    let late = location(json!({ "then": { "exit": 6 } }));
    fails(late, READY, &["exited with code 6"]);
    let noisy = location(json!({ "noise": ["one", "two"], "then": { "exit": 7 } }));
    fails(noisy, READY, &["exited with code 7", "one\n  two"]);
}

#[test]
fn unsafe_location_is_refused() {
    let location = |text: String| json!({ "location": { "text": text } });
    for text in ["http://example.com:80", "192.0.2.7:8080", "http://192.0.2.7:8080/"] {
        fails(location(text.to_owned()), LOCATION, &["not this machine", "loopback"]);
    }
    let long = format!("http+unix:///tmp/{}.socket", "x".repeat(120));
    fails(location(long), LOCATION, &["its socket path", "the system allows 107"]);
}

#[test]
fn program_never_ready_is_killed_at_start_timeout() {
    let location = |action: Value| json!({ "location": action });
    let health = |action: Value| json!({ "serve": { "healthz": action } });
    let unhealthy = json!({ "status": 503, "body": { "message": "no database" } });
    time_out(&[
        (
            json!({ "capabilities": { "hang": true } }),
            CAPABILITIES,
            &["did not exit within 4000 ms"],
        ),
        (location(json!({ "silent": true })), LOCATION, &["did not print its location", "4000 ms"]),
        (
            location(json!({ "flood": true })),
            LOCATION,
            &["did not print its location", "still getting"],
        ),
        (location(json!({ "text": "listening on port 80" })), LOCATION, &["listening on port 80"]),
        (location(json!({ "text": "http+unix://x.sock" })), LOCATION, &["absolute path"]),
        (location(json!({ "text": "http://127.0.0.1:0" })), LOCATION, &["the port 0"]),
        (location(json!({ "unbound": true })), READY, &["was not ready within", "no connection"]),
        (json!({ "serve": { "mute": true } }), READY, &["was not ready", "no response"]),
        (health(unhealthy), READY, &["503", "no database"]),
        (health(json!({ "status": 500, "body": "oops" })), READY, &["500", "oops"]),
        (health(json!({ "status": 204 })), READY, &["204"]),
        (health(json!({ "how": "malformed" })), READY, &["invalid HTTP/1.1 response"]),
        (health(json!({ "how": "endless" })), READY, &["larger than 65536 bytes"]),
        (health(json!({ "how": "never" })), READY, &["no response"]),
    ]);
}

#[test]
fn program_ignoring_stop_request_is_killed() {
    let behavior = json!({ "serve": { "ignore_sigterm": true }, "location": { "silent": true } });
    check(&behavior, |it| it, Duration::from_secs(3), LOCATION, &["3000 ms"]);
}

fn host_of(plugins: &Plugins, start_timeout: Duration, drain_timeout: Duration) -> Host {
    let limits = limits(|limits| {
        limits.start_timeout = start_timeout;
        limits.drain_timeout = drain_timeout;
    });
    Host::builder().plugin_dir(plugins.dir()).limits(limits).quarantine(None).build().unwrap()
}

fn load_error(start_timeout: Duration, location: Value) -> String {
    let plugins = Plugins::new();
    let host = host_of(&plugins, start_timeout, Duration::from_secs(30));
    let program = ProgramFolder::new(plugins.dir(), "program");
    let folder = program.behavior(json!({ "location": location })).install();
    let error = refused(&host, folder);
    assert_eq!(error.kind(), ErrorKind::StartFailed, "{}", error.full_message());
    error.full_message()
}

#[test]
fn start_without_socket_ends_at_start_timeout() {
    let message = load_error(Duration::from_millis(300), json!({ "unbound": true }));
    assert!(message.contains("was not ready within 300 ms: no connection to"), "{message}");
}

#[test]
fn program_exit_without_socket_is_detected() {
    let message =
        load_error(Duration::from_secs(600), json!({ "unbound": true, "then": { "exit": 3 } }));
    assert!(message.contains("exited with code 3"), "{message}");
}

#[track_caller]
fn works(behavior: Value) {
    let running = ProcessFixture::new().run(behavior);
    running.serves();
    assert_eq!(running.fixture.started().len(), 1);
    running.end();
}

#[test]
fn every_local_location_kind_works() {
    for kind in ["unix", "tcp", "http", "any", "any6"] {
        works(json!({ "location": { "kind": kind } }));
    }
}

#[test]
fn noise_before_location_is_ignored() {
    let noise = json!(["starting", "main.go:42", "", "http://", "{\"level\":\"info\"}"]);
    works(json!({ "location": { "noise": noise, "stderr": "a warning\n" } }));
    // More than a pipe or the host buffers.
    works(json!({ "location": { "noise": vec!["x".repeat(100_000); 5] } }));
}

#[test]
fn slow_program_is_awaited() {
    let no = json!({ "status": 503, "body": "not yet" });
    let close = json!({ "how": "close" });
    works(json!({ "serve": { "healthz": [no, no, close, no, null] } }));
}

#[test]
fn grandchild_holding_capabilities_output_blocks_nothing() {
    works(json!({ "capabilities": { "held": true } }));
}

#[test]
fn unknown_fields_are_ignored() {
    works(json!({ "capabilities": { "hotbay": { "future": [1] }, "json": { "other": {} } } }));
}
