//! Programs with the SDKs of other languages: `sdk.py`, `sdk.mjs` and `sdk-go/sdk` do the same.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use hotbay::contract::{CallError, CallErrorKind, Json};
use hotbay::{
    CancellationToken, Error, ErrorKind, Host, HostEvent, LoadOptions, LoadStep, PluginError,
    PluginHandle, Request, RunOptions, Snapshot, TraceContext,
};
use hotbay_tests::{
    Plugins, ProgramFolder, block_on, event, go_program, has_interpreter, host, limits, loaded,
    refused, reloaded, under_load, unique, until,
};
use serde_json::json;
use tracing::Level;

use crate::logs::recorder;
use crate::process::fixture::signal;

const PYTHON_SDK: &str = include_str!("../../../plugin-api/python/hotbay.py");
const NODE_SDK: &str = include_str!("../../../plugin-api/node/hotbay.mjs");

/// A program with an SDK: its interpreter, its file, and the file and text of the SDK.
type Script = (&'static str, &'static str, &'static str, &'static str);

const PYTHON: Script = ("python3", "program.py", "hotbay.py", PYTHON_SDK);
const NODE: Script = ("node", "program.mjs", "hotbay.mjs", NODE_SDK);

/// Returns the programs whose languages are installed.
pub(super) fn programs(name: &str) -> Vec<(Plugins, ProgramFolder)> {
    let scripts = [(PYTHON, include_str!("sdk.py")), (NODE, include_str!("sdk.mjs"))];
    in_each_language(name, scripts, "sdk")
}

/// Returns the programs that call contracts.
pub(super) fn relays(name: &str) -> Vec<(Plugins, ProgramFolder)> {
    let scripts = [(PYTHON, include_str!("relay.py")), (NODE, include_str!("relay.mjs"))];
    in_each_language(name, scripts, "relay")
}

fn in_each_language(
    name: &str,
    scripts: [(Script, &str); 2],
    in_go: &str,
) -> Vec<(Plugins, ProgramFolder)> {
    let new = || {
        let plugins = Plugins::new();
        let folder = ProgramFolder::new(plugins.dir(), name).set("package", "program");
        (plugins, folder)
    };
    let mut programs = Vec::new();
    for ((interpreter, file, sdk, sdk_text), text) in scripts {
        if has_interpreter(interpreter) {
            let (plugins, folder) = new();
            programs.push((plugins, folder.file(file).bytes(text).beside(sdk, sdk_text)));
        }
    }
    if has_interpreter("go") {
        let (plugins, folder) = new();
        programs.push((plugins, folder.bytes(go_program(in_go))));
    }
    programs
}

/// Runs `check` with each program.
fn each(check: impl Fn(&Host, &PluginHandle)) {
    for (plugins, program) in programs("sdk") {
        let host = host(&plugins);
        let handle = loaded(&host, program.install());
        check(&host, &handle);
    }
}

fn text(handle: &PluginHandle, input: &str) -> Result<String, Error> {
    let reply = handle.call(Request::text(input))?;
    Ok(reply.as_text().unwrap().to_owned())
}

#[test]
fn outputs_have_content_types() {
    each(|_, handle| {
        let reply = handle.call(Request::text("héllo")).unwrap();
        let output = (reply.as_text().unwrap(), reply.content_type());
        assert_eq!(output, ("héllo", "text/plain; charset=utf-8"));
        let reply = handle.call(Request::bytes(b"\0\xff").with_endpoint("later")).unwrap();
        assert_eq!((reply.as_bytes(), reply.content_type()), (&b"\0\xff"[..], "application/x-own"));
        let reply = handle.call(Request::text("state").with_endpoint("keep")).unwrap();
        assert_eq!(reply.as_bytes(), b"");
        let unknown = handle.call(Request::text("").with_endpoint("none")).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::Unsupported);
    });
}

/// A contract with every kind of type, apart from enums with values.
#[hotbay_plugin::contract(name = "values", version = "1.0")]
trait EchoValues {
    fn echo(&self, values: &Values) -> Result<Values, CallError>;
    fn reverse(&self, bytes: &[u8]) -> Result<Vec<u8>, CallError>;
    fn more(&self, number: u64, by: i64) -> Result<i64, CallError>;
    fn letter(&self, code: u32) -> Result<char, CallError>;
}

#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
struct Values {
    narrow: (u8, i8, u16, i16),
    wide: (u32, i32, u64, i64),
    real: (f32, f64),
    bytes: Vec<u8>,
    letter: char,
    nothing: (),
    is_set: Option<bool>,
    names: BTreeSet<String>,
    by_number: BTreeMap<u16, Vec<String>>,
    colors: Vec<Option<Color>>,
    any: Json,
}

#[hotbay_plugin::data]
#[derive(Clone, Copy, Debug, PartialEq)]
enum Color {
    Red,
    Blue,
}

#[test]
fn values_of_all_types_are_unchanged() {
    let highest = Values {
        narrow: (u8::MAX, i8::MAX, u16::MAX, i16::MAX),
        wide: (u32::MAX, i32::MAX, u64::MAX, i64::MAX),
        real: (f32::MAX, 0.1 + 0.2),
        bytes: (0..=u8::MAX).collect(),
        letter: '\u{1f600}',
        nothing: (),
        is_set: Some(true),
        names: ["\"", "\\", "\0\u{2028}", "12345678901234567890"].map(String::from).into(),
        by_number: BTreeMap::from([(0, vec![]), (u16::MAX, vec!["a".to_owned()])]),
        colors: vec![Some(Color::Red), None, Some(Color::Blue)],
        any: Json(json!({ "__proto__": [1.5, null, { "a": "b" }], "constructor": -7 })),
    };
    let lowest = Values {
        narrow: (0, i8::MIN, 0, i16::MIN),
        wide: (0, i32::MIN, 0, i64::MIN),
        real: (f32::MIN_POSITIVE, f64::MIN_POSITIVE),
        bytes: Vec::new(),
        letter: '\0',
        is_set: None,
        names: BTreeSet::new(),
        by_number: BTreeMap::new(),
        colors: Vec::new(),
        any: Json(json!(null)),
        ..highest
    };
    each(|host, _| {
        let contract = host.contract::<dyn EchoValues>("sdk").expect("it serves the contract");
        for values in [&highest, &lowest] {
            assert_eq!(contract.echo(values).unwrap(), *values);
            assert_eq!(contract.pooled().echo(values).unwrap(), *values);
        }
        assert_eq!(contract.reverse(&[1, 2, 255]).unwrap(), [255, 2, 1]);
        let max = u64::try_from(i64::MAX).unwrap();
        assert_eq!(contract.more(max, -1).unwrap(), i64::MAX - 1);
        assert_eq!(contract.letter(0x1f600).unwrap(), '\u{1f600}');
        // Half of a character, which the result cannot be.
        let error = contract.letter(0xd800).unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::InvalidOutput);
    });
}

#[test]
fn error_has_code_details_and_retryable() {
    each(|_, handle| {
        let error = text(handle, "fail").unwrap_err();
        let error = error.plugin_error().expect("of the plugin");
        assert_eq!((error.code(), error.message(), error.is_retryable()), (8, "failed", true));
        assert_eq!(error.details(), Some(&json!({ "at": 1 })));
    });
}

#[test]
fn exception_is_a_fault_with_its_location() {
    each(|host, handle| {
        let error = text(handle, "panic").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let fault = error.fault().unwrap();
        assert!(fault.message().ends_with("execute failed"), "{fault:?}");
        let location = fault.location().unwrap();
        let is_of_the_program = ["program.", "sdk/main.go:"].iter().any(|it| location.contains(it));
        assert!(is_of_the_program, "{fault:?}");
        assert_eq!(text(handle, "still here").unwrap(), "still here");
        let stats = host.list()[0].stats.clone();
        assert_eq!((stats.faults, stats.exits), (1, 0));
    });
}

#[test]
fn function_gets_trace_and_content_type() {
    let trace = TraceContext { trace_id: [0xab; 16], span_id: [0xcd; 8], flags: 1 };
    let expected = format!("00-{}-{}-01 text/x-own", "ab".repeat(16), "cd".repeat(8));
    each(|_, handle| {
        let request = Request::text("trace").with_trace(trace).with_content_type("text/x-own");
        assert_eq!(handle.call(request).unwrap().as_text().unwrap(), expected);
    });
}

#[test]
fn log_lines_keep_level_and_fields() {
    let log = recorder::install();
    let name = unique("sdk");
    for (plugins, program) in programs(&name) {
        let host = host(&plugins);
        let handle = loaded(&host, program.install());
        text(&handle, "log").unwrap();
        let line = until("the line arrives", || {
            log.of(&name).into_iter().find(|line| line.message() == "logged")
        });
        assert_eq!((line.level, &*line.target), (Level::WARN, "program"));
        assert_eq!(line.field("rows"), "i64 3");
        block_on(host.unload(&name)).unwrap();
    }
}

#[test]
fn batch_replies_are_in_order() {
    each(|host, _| {
        let inputs = ["a", "fail", "panic", "b"].map(|input| Request::owned(input.into()));
        let pipeline = host.pipeline(["sdk"]).unwrap();
        let many = pipeline.run_many(stream::iter(inputs), RunOptions::ordered());
        let found: Vec<_> = block_on(many.collect::<Vec<_>>());
        let found: Vec<_> = found
            .into_iter()
            .map(|done| match done.outcome {
                Ok(reply) => reply.as_text().unwrap().to_owned(),
                Err(error) => format!("{:?}", error.kind()),
            })
            .collect();
        assert_eq!(found, ["a", "Plugin", "Panicked", "b"]);
    });
}

#[test]
fn state_is_handed_over_and_restored_before_calls_only() {
    for (plugins, program) in programs("sdk") {
        let host = host(&plugins);
        let folder = program.install();
        let handle = loaded(&host, &folder);
        handle.call(Request::bytes(b"\x00state").with_endpoint("keep")).unwrap();
        let state = block_on(handle.snapshot()).unwrap().expect("a state");
        assert_eq!((state.version(), state.as_bytes()), (1, &b"\x00state"[..]));
        block_on(host.unload("sdk")).unwrap();
        let options = LoadOptions::new().with_state(Snapshot::new(1, "other"));
        let handle = block_on(host.load_with(&folder, options)).unwrap();
        let state = block_on(handle.snapshot()).unwrap().expect("a state");
        assert_eq!(state.as_bytes(), b"other");
    }
}

#[test]
fn health_and_configuration_errors_refuse_the_load() {
    for (plugins, program) in programs("sdk") {
        let host = host(&plugins);
        let folder = program.config(json!({ "invalid": true })).install();
        let message = refused(&host, &folder).full_message();
        assert!(message.contains("invalid configuration: `invalid` is set"), "{message}");
    }
    for (plugins, program) in programs("sdk") {
        let host = host(&plugins);
        let options = LoadOptions::new().with_state(Snapshot::new(1, "ill"));
        let error = block_on(host.load_with(&program.install(), options)).unwrap_err();
        assert_eq!(error.step(), Some(LoadStep::Health), "{}", error.full_message());
        assert_eq!(error.plugin_error().map(PluginError::code), Some(9));
    }
}

#[test]
fn calls_run_concurrently_and_none_is_lost() {
    each(|_, handle| {
        thread::scope(|scope| {
            let calls: Vec<_> = (0..32)
                .map(|number| {
                    scope.spawn(move || {
                        let expected = format!("text {number}");
                        for _ in 0..20 {
                            assert_eq!(text(handle, &expected).unwrap(), expected);
                        }
                    })
                })
                .collect();
            for call in calls {
                call.join().expect("no panic");
            }
        });
    });
}

#[test]
fn waiting_calls_do_not_block_others_and_can_be_abandoned() {
    each(|host, handle| {
        let token = CancellationToken::new();
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..8)
                .map(|_| {
                    let request = Request::text("wait 2").with_cancellation_token(token.clone());
                    scope.spawn(move || handle.call(request).unwrap_err())
                })
                .collect();
            let late = Request::text("wait 2").with_timeout(Duration::from_millis(30));
            assert_eq!(handle.call(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
            assert_eq!(text(handle, "now").unwrap(), "now");
            token.cancel();
            for call in waiting {
                assert_eq!(call.join().expect("no panic").kind(), ErrorKind::Cancelled);
            }
        });
        assert_eq!(host.list()[0].stats.exits, 0);
    });
}

#[test]
fn program_that_answers_nothing_is_restarted() {
    for (plugins, program) in programs("sdk") {
        let soon = limits(|limits| {
            limits.process_health_timeout = Duration::from_millis(300);
            limits.stop_timeout = Duration::from_millis(50);
        });
        let builder = Host::builder().plugin_dir(plugins.dir()).limits(soon).quarantine(None);
        let host = builder.build().unwrap();
        let folder = program.install();
        let is_node = folder.join("hotbay.mjs").exists();
        let handle = loaded(&host, &folder);
        let mut events = host.events();
        let late = Request::text("forever").with_timeout(Duration::from_millis(30));
        assert_eq!(handle.call(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        // Other threads of Python and goroutines still serve; JavaScript has one thread.
        if is_node {
            event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
        }
        assert_eq!(text(&handle, "again").unwrap(), "again");
    }
}

#[test]
fn running_call_ends_before_the_program_exits() {
    let log = recorder::install();
    let name = unique("sdk");
    for (plugins, program) in programs(&name) {
        let host = Host::builder().plugin_dir(plugins.dir()).quarantine(None).build().unwrap();
        let handle = loaded(&host, program.install());
        let before = log.of(&name).len();
        thread::scope(|scope| {
            let call = scope.spawn(|| text(&handle, "wait 0.3"));
            until("the call runs", || {
                log.of(&name)[before..].iter().any(|line| line.message() == "waits").then_some(())
            });
            let pid = host.list()[0].pid.expect("it runs");
            signal(pid, "TERM");
            assert_eq!(call.join().expect("no panic").unwrap(), "wait 0.3");
        });
        assert_eq!(text(&handle, "again").unwrap(), "again");
        block_on(host.unload(&name)).unwrap();
    }
}

#[test]
fn reloads_under_load_lose_no_call() {
    for (plugins, program) in programs("sdk") {
        let host = host(&plugins);
        let folder = program.install();
        let handle = loaded(&host, &folder);
        let check = |outcome: Result<hotbay::Reply, Error>| {
            let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
            assert_eq!(reply.as_text().unwrap(), "a text of more than 24 bytes");
        };
        under_load(&handle, 4, check, |traffic| {
            for build in 0..3 {
                let manifest = folder.join("plugin.json");
                let text = std::fs::read_to_string(&manifest).unwrap();
                let mut fields: serde_json::Value = serde_json::from_str(&text).unwrap();
                fields["config"] = json!({ "build": build });
                std::fs::write(&manifest, fields.to_string()).unwrap();
                reloaded(&host, "sdk");
                traffic.wait_for_progress();
            }
        });
        assert_eq!(host.list()[0].stats.refused, 0);
    }
}

#[test]
fn copies_of_the_sdk_are_equal() {
    let copy = include_str!("../../../plugins/wordcount/hotbay.py");
    assert!(copy == PYTHON_SDK, "copy plugin-api/python/hotbay.py to plugins/wordcount");
}
