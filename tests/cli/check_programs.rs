//! `hotbay check` as a conformance kit: a conforming program, such as the example in Python, passes
//! every step; a program with one defect fails the matching step, with a helpful message.

use std::path::{Path, PathBuf};
use std::process::Command;

use hotbay_tests::{Plugins, ProgramFolder, go_environment, go_program, has_interpreter};
use serde_json::{Value, json};
use snapbox::{IntoData, str};

use crate::command::{assert_shows, command, hotbay, run};

/// Checks the only program in `folder`, and returns the failed steps with their messages and hints.
fn failed(folder: &Path, args: &[&str]) -> Vec<(String, String)> {
    let folder = folder.to_str().unwrap();
    let run = hotbay(Path::new("."), &[&["check", folder, "--json"], args].concat());
    let plugin = run.json()["plugins"][0].clone();
    let steps = plugin["steps"].as_array().unwrap_or_else(|| panic!("no steps: {plugin}"));
    assert_eq!(steps.len(), 26, "{plugin}");
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

/// Installs the fixture with one defect, and checks that exactly this step fails with this message
/// and hint.
#[track_caller]
fn check(behavior: Value, args: &[&str], step: &str, message: impl IntoData) {
    let plugins = Plugins::new();
    let mut action = behavior;
    if action["serve"]["conforms"].is_null() {
        action["serve"]["conforms"] = true.into();
    }
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(action).install();
    let failed = failed(&folder, args);
    let names: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [step], "{failed:?}");
    assert_shows(&failed[0].1, &folder, message);
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

/// The example plugin in Python.
fn wordcount() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/wordcount")
}

#[test]
fn conforming_python_program_passes_every_step() {
    if !has_interpreter("python3") {
        return; // The plugin is written in Python.
    }
    assert_eq!(failed(&wordcount(), &["--text", "a b a", "--allow-writable"]), []);
}

/// Runs the tests of a plugin or an SDK, which are written in its language.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "these tests are not written in Rust")]
fn passes_its_own_tests(folder: &Path, command: &[&str]) {
    if !has_interpreter(command[0]) {
        return;
    }
    let mut tests = Command::new(command[0]);
    let output = tests.args(&command[1..]).current_dir(folder).envs(go_environment()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

const UNITTEST: &[&str] = &["python3", "-B", "-m", "unittest", "-q"];
const NODE_TEST: &[&str] = &["node", "--test"];
const GO_TEST: &[&str] = &["go", "test", "./..."];

#[test]
fn sdks_and_python_plugin_pass_their_own_tests() {
    let sdks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api");
    passes_its_own_tests(&wordcount(), UNITTEST);
    passes_its_own_tests(&sdks.join("python"), UNITTEST);
    passes_its_own_tests(&sdks.join("node"), NODE_TEST);
    passes_its_own_tests(&sdks.join("go"), GO_TEST);
}

#[test]
fn new_plugin_of_each_language_passes_every_step() {
    for (language, tests) in [("python", UNITTEST), ("node", NODE_TEST), ("go", GO_TEST)] {
        if !has_interpreter(tests[0]) {
            continue;
        }
        let root = Plugins::new();
        let new = ["new", "greet", "--process", "--language", language];
        hotbay(root.dir(), &new).exits(0);
        let source = root.dir().join("greet");
        passes_its_own_tests(&source, tests);
        if language != "go" {
            hotbay(root.dir(), &["seal", "greet"]).exits(0);
            assert_eq!(failed(&source, &["--text", "Ada", "--allow-writable"]), []);
        }
        let output = command(root.dir(), &["build", "greet"]).envs(go_environment()).output();
        run(root.dir(), &["build", "greet"], output).exits(0);
        let built = root.dir().join("target/plugins/greet");
        let manifest = std::fs::read(built.join("plugin.json")).unwrap();
        hotbay(root.dir(), &["seal", "target/plugins/greet"]).exits(0);
        assert_eq!(std::fs::read(built.join("plugin.json")).unwrap(), manifest, "it was sealed");
        assert_eq!(failed(&built, &["--text", "Ada"]), []);
        let call = hotbay(root.dir(), &["call", "greet", "--text", "you"]);
        call.exits(0).shows(str![[r#"
$ hotbay call greet --text you
Hello, you!
\ no newline at the end
"#]]);
    }
}

#[test]
fn programs_with_sdks_pass_every_step() {
    let script = include_str!("../it/contracts/sdk.py");
    let sdk = include_str!("../../plugin-api/python/hotbay.py");
    let python = |folder: ProgramFolder| folder.bytes(script).beside("hotbay.py", sdk);
    let script = include_str!("../it/contracts/sdk.mjs");
    let sdk = include_str!("../../plugin-api/node/hotbay.mjs");
    let node = |folder: ProgramFolder| folder.bytes(script).beside("hotbay.mjs", sdk);
    let new = |plugins: &Plugins, file| ProgramFolder::new(plugins.dir(), "program").file(file);
    for kind in ["unix", "tcp"] {
        let plugins = (Plugins::new(), Plugins::new());
        let python = python(new(&plugins.0, "sdk.py")).set("type", kind).install();
        let node = node(new(&plugins.1, "sdk.mjs")).set("type", kind).install();
        for (folder, interpreter) in [(python, "python3"), (node, "node")] {
            if has_interpreter(interpreter) {
                assert_eq!(failed(&folder, &["--text", "a b"]), [], "{interpreter} {kind}");
            }
        }
        if has_interpreter("go") {
            let plugins = Plugins::new();
            let go = ProgramFolder::new(plugins.dir(), "program").bytes(go_program("sdk"));
            assert_eq!(failed(&go.set("type", kind).install(), &["--text", "a b"]), [], "{kind}");
        }
    }
}

#[test]
fn programs_that_serve_contracts_pass_that_step() {
    let plugins = Plugins::new();
    let rust = ProgramFolder::new(plugins.dir(), "analyst").built("analyst", "analyst").install();
    let script = include_str!("../it/contracts/analyst.py");
    let python = ProgramFolder::new(plugins.dir(), "program").bytes(script).install();
    let script = include_str!("../it/contracts/tables.py");
    let streams = ProgramFolder::new(plugins.dir(), "table-reader");
    let streams = streams.built("table-reader", "table-reader");
    let python_streams = ProgramFolder::new(plugins.dir(), "tables").bytes(script).install();
    for (folder, is_python) in
        [(rust, false), (python, true), (streams.install(), false), (python_streams, true)]
    {
        let failed = failed(&folder, &[]);
        // The script leaves out other parts of the protocol.
        let mut failed = failed.iter().filter(|(name, _)| !is_python || name == "contracts");
        assert_eq!(failed.next(), None);
    }
}

#[test]
fn violated_contract_fails_that_step() {
    let text = "contract a 1.0\nfn f(n: u8) -> string\n";
    let with = |answers: Value| {
        json!({
            "capabilities": { "hotbay": { "contracts": [{ "text": text }] } },
            "serve": { "contract/a/f": answers },
        })
    };
    let rejected = json!({ "status": 400, "body": { "message": "no", "statusCode": 400 } });
    let check = |answers, message| check(with(answers), &[], "contracts", message);
    check(
        json!(null),
        str![[r#"
`POST /contract/a/f` with the invalid arguments 7 returned 404 with `{"message":"no such endpoint","statusCode":404}`; expected 400 with {"message":"…","statusCode":400}
"#]],
    );
    check(
        json!([rejected, rejected, { "body": 7 }]),
        str![[r#"
`POST /contract/a/f` with {"n":1}: `7`: 7 is not of type "string"; expected a result of the type `string`
"#]],
    );
    check(
        json!([rejected]),
        str![[r#"
`POST /contract/a/f` with {"n":1}: it returned 400 with `{"message":"no","statusCode":400}`; expected a result, or an error with 422
"#]],
    );
}

#[test]
fn violated_stream_of_a_contract_fails_that_step() {
    let text = "contract a 1.0\nstream fn f(n: u8) -> string\n";
    let rejected = json!({ "status": 400, "body": { "message": "no", "statusCode": 400 } });
    let lines = |lines: &str| json!({ "type": "application/x-ndjson", "body": lines });
    let check = |answer: Value, message| {
        let behavior = json!({
            "capabilities": { "hotbay": { "contracts": [{ "text": text }] } },
            "serve": { "contract/a/f": [rejected, rejected, answer] },
        });
        check(behavior, &[], "contracts", message);
    };
    check(
        json!({ "body": "a" }),
        str![[r#"
`POST /contract/a/f` with {"n":1}: it returned a stream of the type `application/json`; expected `application/x-ndjson`
"#]],
    );
    check(
        lines("{\"item\":\"a\"}\n{\"item\":7}\n{\"end\":true}\n"),
        str![[r#"
`POST /contract/a/f` with {"n":1}: `7`: 7 is not of type "string"; expected a result of the type `string`
"#]],
    );
    check(
        lines("{\"item\":\"a\"}\n"),
        str![[r#"
`POST /contract/a/f` with {"n":1}: it was called, but its stream ended without a last line
"#]],
    );
}

#[test]
fn each_step_prints_one_line_with_findings() {
    let plugins = Plugins::new();
    let folder = installed(&plugins, "program");
    hotbay(&folder, &["check", "."]).exits(0).shows(str![[r#"
$ hotbay check .
NAME     VERSION  RESULT  LIBRARY  NOTES
program  [VER]    passed  -

protocol conformance of program:
  ok       manifest          `program`
  ok       digest            the SHA-256 matches plugin.json
  ok       capabilities      batch, execute, restore, snapshot, in [DURATION]
  ok       identity          name and version match plugin.json
  skipped  config            the capabilities contain no `configSchema`
  ok       launch            the config was passed via HOTBAY_CONFIG
  ok       location          [SOCKET]
  ok       ready             `/healthz` returned 200, [DURATION] after the launch
  ok       token             401 without the token and with a wrong one
  ok       keep-alive        two requests were answered on one connection
  ok       unknown-endpoint  404
  ok       empty-input       a request with an empty body returned 200
  skipped  sample            no sample was given
                             hint: pass a sample with `--text` or `--input`
  ok       concurrency       8 requests on 8 connections were answered
  ok       large-body        a request with a body of 1 MiB returned 200
  ok       deadline          a call with `Hotbay-Deadline-Ms` returned 200
  ok       batch             5 requests got 5 replies, 0 of them errors
  skipped  contracts         the capabilities contain no `contracts`
  ok       half-request      the program survives peers that disconnect in the middle of a request
  ok       malformed-http    the program survives 5 kinds of invalid HTTP
  ok       snapshot          2 bytes of version 1
  ok       sigterm           it exited with code 0, [DURATION] after SIGTERM
  ok       restore           a new process restored the state and returned the same snapshot
  ok       shutdown          it exited with code 0, [DURATION] after `/shutdown`
  ok       idle-exit         it exited with code 0, [DURATION] after an `idleTimeout` of 200000000 ns, passed via HOTBAY_CONFIG
  ok       leftovers         none of its descendants outlived it
--- stderr
1 of 1 passed
"#]]);
    let behavior = json!({ "serve": { "conforms": true, "needs_no_token": true } });
    hotbay_tests::set_behavior(&folder, &behavior);
    hotbay(&folder, &["check", "."]).exits(1).shows(str![[r#"
$ hotbay check .
NAME     VERSION  RESULT  LIBRARY  NOTES
program  [VER]    failed  -        protocol step `token` failed

protocol conformance of program:
  ok       manifest          `program`
  ok       digest            the SHA-256 matches plugin.json
  ok       capabilities      batch, execute, in [DURATION]
  ok       identity          name and version match plugin.json
  skipped  config            the capabilities contain no `configSchema`
  ok       launch            the config was passed via HOTBAY_CONFIG
  ok       location          [SOCKET]
  ok       ready             `/healthz` returned 200, [DURATION] after the launch
  FAILED   token             `GET /healthz` without the token returned 200; expected 401: a program started with HOTBAY_TOKEN compares the header `Hotbay-Token` with it on every path
  ok       keep-alive        two requests were answered on one connection
  ok       unknown-endpoint  404
  ok       empty-input       a request with an empty body returned 200
  skipped  sample            no sample was given
                             hint: pass a sample with `--text` or `--input`
  ok       concurrency       8 requests on 8 connections were answered
  ok       large-body        a request with a body of 1 MiB returned 200
  ok       deadline          a call with `Hotbay-Deadline-Ms` returned 200
  ok       batch             5 requests got 5 replies, 0 of them errors
  skipped  contracts         the capabilities contain no `contracts`
  ok       half-request      the program survives peers that disconnect in the middle of a request
  ok       malformed-http    the program survives 5 kinds of invalid HTTP
  skipped  snapshot          the program has no endpoint `snapshot`
  ok       sigterm           it exited with code 0, [DURATION] after SIGTERM
  skipped  restore           the program has no endpoint `restore`
  ok       shutdown          it exited with code 0, [DURATION] after `/shutdown`
  ok       idle-exit         it exited with code 0, [DURATION] after an `idleTimeout` of 200000000 ns, passed via HOTBAY_CONFIG
  ok       leftovers         none of its descendants outlived it
--- stderr
0 of 1 passed
--- exit code 1
"#]]);
}

#[test]
fn missing_authentication_fails_token_step() {
    let behavior = json!({ "serve": { "needs_no_token": true } });
    check(
        behavior,
        &[],
        "token",
        str![
            "`GET /healthz` without the token returned 200; expected 401: a program started with HOTBAY_TOKEN compares the header `Hotbay-Token` with it on every path"
        ],
    );
}

#[test]
fn crash_on_malformed_http_fails_that_step() {
    let behavior = json!({ "serve": { "exits_when_malformed": true } });
    check(
        behavior,
        &[],
        "malformed-http",
        str![[r#"
after a line that is not an HTTP request it no longer answers `/healthz` on a new connection; expected only the connection with the invalid bytes to end; the process exited unexpectedly: `[COPIES]/program-0/program` exited with code 3
no output on stderr
"#]],
    );
}

#[test]
fn chatter_on_stdout_fails_step_that_reads_it() {
    let behavior = json!({ "capabilities": { "noise": ["loading"] } });
    check(
        behavior,
        &[],
        "capabilities",
        str![[r#"
`capabilities` printed invalid capabilities: the output of the command `capabilities` has text that is not JSON: "loading\n{\"hotbay\":{\"config\":[\"env\"],\"endpoints\":[\"execute\",\"batch\"],\"name\":\"prog…"; expected only JSON
hint: write logs to stderr
"#]],
    );
    let behavior = json!({ "location": { "noise": ["starting"] } });
    check(
        behavior,
        &[],
        "location",
        str![[r#"
the first line on stdout is `starting`; expected the location there
hint: write logs to stderr
"#]],
    );
}

#[test]
fn ignored_sigterm_fails_stop_step() {
    let behavior = json!({ "serve": { "conforms": false, "idle_exit_ms": 200 } });
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(behavior).install();
    let failed = failed(&folder, &[]);
    let sigterm = failed.iter().find(|(name, _)| name == "sigterm").unwrap();
    assert_shows(
        &sigterm.1,
        &folder,
        str![[r#"
after SIGTERM it was expected to finish running calls, remove its socket and lock, and exit with code 0: `[COPIES]/program-0/program` was killed by SIGTERM
it was stopped by a signal that it does not handle
no output on stderr
"#]],
    );

    let behavior = json!({ "serve": { "keeps_running": true } });
    check(
        behavior,
        &[],
        "shutdown",
        str![
            "it did not exit within 5 s after `/shutdown`; expected it to finish running calls, remove its socket and lock, and exit with code 0"
        ],
    );
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
    assert_shows(
        &failed[0].1,
        &folder,
        str![[
            r#"a request with an empty body: it returned 500 with `oops`; expected JSON with the reason: {"code":…,"message":"…"} for an error of the plugin, {"message":"…","statusCode":…} for a request that cannot be served"#
        ]],
    );
}

#[test]
fn connection_close_per_response_fails_keep_alive_step() {
    let plugins = Plugins::new();
    let behavior = json!({ "serve": { "conforms": true, "close_after_calls": 1 } });
    let folder = ProgramFolder::new(plugins.dir(), "program").behavior(behavior).install();
    // The outcome of other steps that meet a closing connection is not predictable.
    let (name, message) = failed(&folder, &[]).swap_remove(0);
    assert_eq!(name, "keep-alive", "{message}");
    assert_shows(
        &message,
        &folder,
        str![
            "the connection ended after one request: [..]; expected HTTP/1.1 with persistent connections: otherwise the host connects for every call"
        ],
    );
}

#[test]
fn wrong_reply_count_fails_batch_step() {
    let behavior = json!({ "serve": { "replies": 2 } });
    check(
        behavior,
        &[],
        "batch",
        str!["5 requests got 2 replies; expected one reply per request, in order"],
    );
}

#[test]
fn non_loopback_port_fails_location_step() {
    let behavior = json!({ "location": { "kind": "any6" } });
    if cfg!(target_os = "linux") {
        check(
            behavior,
            &[],
            "location",
            str![[r#"
port [PORT] is bound to ::, where other machines can reach it
hint: bind it to 127.0.0.1, or use a Unix socket
"#]],
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
            str![
                "its descendants outlived it: [COUNT] after SIGTERM; expected it to stop them and wait for them before it exits (the host kills them)"
            ],
        );
    }
}

#[test]
fn program_that_is_never_ready_skips_later_steps() {
    let behavior = json!({ "location": { "exit": 4, "stderr": "no license\n" } });
    check(
        behavior,
        &[],
        "location",
        str![[r#"
`[ROOT]/program` exited with code 4
output: no license
"#]],
    );
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
