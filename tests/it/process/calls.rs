//! Calls of process plugins: successful calls from any thread or runtime, and cancelled or rejected
//! ones.

use std::fs;
use std::thread;
use std::time::Duration;

use hotbay::hotbay_plugin::TraceContext;
use hotbay::{CancellationToken, ErrorKind, HostBuilder, Request};
use hotbay_tests::{block_on, limits, quarantine, run_in_subprocess, until};
use serde_json::{Value, json};

use super::fixture::{ProcessFixture, Running};

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// Returns an action that waits until `NAME.until` exists or the caller hangs up, and records its
/// start and end in files.
pub(crate) fn wait(running: &Running, name: &str) -> String {
    let file = |part: &str| running.fixture.file(&format!("{name}.{part}"));
    json!({ "do": "wait", "until": file("until"), "began": file("began"), "outcome": file("outcome") })
        .to_string()
}

pub(crate) fn wait_started(running: &Running, name: &str) {
    let file = running.fixture.file(&format!("{name}.began"));
    until("the call starts", || file.exists().then_some(()));
}

pub(crate) fn recorded_end(running: &Running, name: &str) -> String {
    let file = running.fixture.file(&format!("{name}.outcome"));
    until("the call finishes", || fs::read_to_string(&file).ok())
}

pub(crate) fn open(running: &Running, name: &str) {
    fs::write(running.fixture.file(&format!("{name}.until")), "").expect("a file");
}

#[test]
fn bodies_of_any_content_type_round_trip() {
    let running = ProcessFixture::new().run(json!({}));
    let large: Vec<u8> =
        (0..10 << 20).map(|at: u32| (at.wrapping_mul(0x9e37) >> 8) as u8).collect();
    let bodies = [vec![], vec![0], b"\r\n\r\n0\r\n".to_vec(), (0..=255).collect(), large];
    for body in bodies {
        for kind in ["application/x-own", "text/plain; charset=utf-8", "image/png"] {
            let request = || Request::bytes(&body).with_content_type(kind);
            let replies =
                [running.handle.call(request()), block_on(running.handle.execute(request()))];
            for reply in replies {
                let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
                assert_eq!(reply.content_type(), kind);
                assert!(reply.as_bytes() == body, "{} bytes", body.len());
            }
        }
    }
    running.end();
}

#[test]
fn call_sends_id_trace_and_remaining_time() {
    let running = ProcessFixture::new().run(json!({}));
    let trace = TraceContext { trace_id: [0xab; 16], span_id: [0xcd; 8], flags: 1 };
    let action = json!({ "do": "report" }).to_string();
    let mut ids = Vec::new();
    for call_async in [false, true] {
        let request = Request::json_text(&action).with_trace(trace).with_timeout(NEVER);
        let reply = match call_async {
            false => running.handle.call(request),
            true => block_on(running.handle.execute(request)),
        };
        let reply: Value = reply.unwrap().json().unwrap();
        assert_eq!(reply["request"], "POST /execute");
        let headers = &reply["headers"];
        let header = |name: &str| headers[name].as_str().unwrap_or_default().to_owned();
        let trace = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
        assert_eq!(header("traceparent"), trace);
        assert_eq!(header("accept"), "*/*");
        assert!(header("content-type").starts_with("application/json"), "{headers}");
        let left_ms: u128 = header("hotbay-deadline-ms").parse().expect("milliseconds");
        assert!(left_ms > 0 && left_ms <= NEVER.as_millis(), "{left_ms}");
        ids.push(header("hotbay-call-id").parse::<u64>().expect("a number"));
    }
    assert_ne!(ids[0], ids[1]);
    // Without a request context no such headers are sent.
    let reply = running.call_json(&json!({ "do": "report" }));
    assert_eq!(reply["headers"]["traceparent"], Value::Null);
    assert_eq!(reply["headers"]["hotbay-deadline-ms"], Value::Null);
    running.end();
}

#[test]
fn call_reaches_custom_endpoints_only_if_declared() {
    let rows = json!({ "body": [1, 2] });
    let running = ProcessFixture::new().run(json!({
        "capabilities": { "hotbay": { "endpoints": ["execute", "rows", "v1/upper"] } },
        "serve": { "rows": rows, "v1/upper": { "body": "UP" } },
    }));
    let reply = running.handle.call(Request::text("x").with_endpoint("rows")).unwrap();
    assert_eq!(reply.as_bytes(), b"[1,2]");
    let upper = running.handle.execute(Request::text("x").with_endpoint("v1/upper"));
    assert_eq!(block_on(upper).unwrap().as_bytes(), b"UP");
    for endpoint in ["row", "healthz", "shutdown", "../rows", "rows?x", ""] {
        let request = || Request::text("x").with_endpoint(endpoint);
        let outcomes =
            [running.handle.call(request()), block_on(running.handle.execute(request()))];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            let message = error.full_message();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "`{endpoint}`: {message}");
            assert!(
                message.contains(&format!("`{endpoint}`")) && message.contains("`rows`"),
                "{message}"
            );
        }
    }
    running.serves();
    running.end();
}

#[test]
fn calls_from_threads_and_runtimes_return() {
    let running = ProcessFixture::new().run(json!({}));
    running.serves();
    let current = tokio::runtime::Builder::new_current_thread().build().unwrap();
    current.block_on(async {
        let reply = running.handle.call(Request::text("inside")).unwrap();
        assert_eq!(reply.as_bytes(), b"inside");
        let reply = running.handle.execute(Request::text("awaited")).await.unwrap();
        assert_eq!(reply.as_bytes(), b"awaited");
    });
    let several = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let handle = running.handle.clone();
    let task = several.spawn(async move {
        for _ in 0..10 {
            assert_eq!(handle.call(Request::text("task")).unwrap().as_bytes(), b"task");
            let reply = handle.execute(Request::text("later")).await.unwrap();
            assert_eq!(reply.as_bytes(), b"later");
        }
    });
    several.block_on(task).unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let handle = &running.handle;
            scope.spawn(move || {
                for round in 0..20 {
                    let text = format!("{number} {round}");
                    let reply = handle.call(Request::text(&text)).unwrap();
                    assert_eq!(reply.as_bytes(), text.as_bytes());
                }
            });
        }
    });
    drop((current, several));
    running.end();
}

/// Set in the subprocess that runs only this test.
const CHILD: &str = "HOTBAY_TESTS_PROCESS_THREADS";

/// Number of concurrent waiting calls.
const MANY: usize = 200;

/// Runs in a subprocess, since threads of other tests would be counted too.
#[test]
fn waiting_calls_use_no_threads() {
    if std::env::var_os(CHILD).is_some() {
        return wait_without_threads();
    }
    let test = concat!(module_path!(), "::waiting_calls_use_no_threads");
    run_in_subprocess(test, &[(CHILD, "1")]);
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("a folder").count()
}

fn wait_without_threads() {
    let many = limits(|limits| limits.max_process_calls = MANY as u32);
    let calls = json!({ "capabilities": { "hotbay": { "endpoints": ["execute"] } } });
    let running = ProcessFixture::new().run_with(calls, |it| it, |builder| builder.limits(many));
    running.serves();
    let before = threads();
    let texts: Vec<_> = (0..MANY).map(|number| wait(&running, &format!("{number}"))).collect();
    let calls: Vec<_> =
        texts.iter().map(|text| running.handle.execute(Request::json_text(text))).collect();
    for number in 0..MANY {
        wait_started(&running, &number.to_string());
    }
    let while_they_wait = threads();
    for number in 0..MANY {
        open(&running, &number.to_string());
    }
    for call in calls {
        assert_eq!(block_on(call).unwrap().as_bytes(), b"\"until\"");
    }
    // One for the timer, and those that the runtime keeps for blocking work.
    assert!(while_they_wait <= before + 4, "{before} threads before, {while_they_wait} then");
    running.end();
}

#[test]
fn calls_over_limits_are_overloaded() {
    let one = limits(|limits| limits.max_process_calls = 1);
    let manifest = json!({ "queue": 1 });
    let running = ProcessFixture::new().run_with(
        json!({}),
        |program| program.set("limits", manifest),
        |builder| builder.limits(one),
    );
    let text = wait(&running, "a");
    let first = running.handle.execute(Request::json_text(&text));
    wait_started(&running, "a");
    let second = running.handle.execute(Request::text("waits"));
    let third = block_on(running.handle.execute(Request::text("too many")));
    assert_eq!(third.unwrap_err().kind(), ErrorKind::Overloaded);
    open(&running, "a");
    block_on(first).unwrap();
    assert_eq!(block_on(second).unwrap().as_bytes(), b"waits");
    running.end();
}

#[test]
fn in_flight_limit_of_manifest_is_respected() {
    let manifest = json!({ "in_flight": 1 });
    let running = ProcessFixture::new().run_with(
        json!({}),
        |it| it.set("limits", manifest),
        |builder| builder,
    );
    let text = wait(&running, "a");
    thread::scope(|scope| {
        let first = scope.spawn(|| running.handle.call(Request::json_text(&text)));
        wait_started(&running, "a");
        let error = running.handle.call(Request::text("one too many")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{}", error.full_message());
        open(&running, "a");
        first.join().unwrap().unwrap();
    });
    running.serves();
    running.end();
}

#[test]
fn cancelled_call_is_seen_by_process() {
    let policy = quarantine(|policy| policy.max_faults = 1);
    let host = |builder: HostBuilder| builder.quarantine(policy);
    let running = ProcessFixture::new().run_with(json!({}), |it| it, host);
    let text = wait(&running, "dropped");
    let dropped = running.handle.execute(Request::json_text(&text));
    wait_started(&running, "dropped");
    drop(dropped);
    assert_eq!(recorded_end(&running, "dropped"), "hung up");
    for call_async in [false, true] {
        let name = format!("token-{call_async}");
        let (text, token) = (wait(&running, &name), CancellationToken::new());
        let request = Request::json_text(&text).with_cancellation_token(token.clone());
        let outcome = thread::scope(|scope| {
            let calling = scope.spawn(|| match call_async {
                false => running.handle.call(request),
                true => block_on(running.handle.execute(request)),
            });
            wait_started(&running, &name);
            token.cancel();
            calling.join().unwrap()
        });
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(recorded_end(&running, &name), "hung up");
    }
    // No fault is recorded for the plugin.
    running.serves();
    assert_eq!(running.fixture.started().len(), 1);
    running.end();
}

#[test]
fn timed_out_call_is_seen_by_process() {
    let running =
        ProcessFixture::new().run_with(json!({}), |it| it, |builder| builder.quarantine(None));
    for call_async in [false, true] {
        let name = format!("late-{call_async}");
        let text = wait(&running, &name);
        // Long enough for the call to start.
        let request = Request::json_text(&text).with_timeout(Duration::from_millis(500));
        let outcome = match call_async {
            false => running.handle.call(request),
            true => block_on(running.handle.execute(request)),
        };
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.full_message());
        assert_eq!(recorded_end(&running, &name), "hung up");
    }
    running.serves();
    assert_eq!(running.fixture.started().len(), 1);
    running.end();
}

#[test]
fn input_over_limit_is_not_sent() {
    let manifest = json!({ "input_bytes": 100 });
    let host = |builder: HostBuilder| builder;
    let running = ProcessFixture::new().run_with(json!({}), |it| it.set("limits", manifest), host);
    let text = "x".repeat(101);
    for outcome in [
        running.handle.call(Request::text(&text)),
        block_on(running.handle.execute(Request::text(&text))),
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(running.call_json(&json!({ "do": "count" })), 1);
    running.end();
}
