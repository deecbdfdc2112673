//! Output of a plugin's process reaches the host's log and never blocks a caller.

use hotbay::Request;
use hotbay_tests::{block_on, until};
use serde_json::json;
use tracing::Level;

use super::fixture::{ProcessFixture, Running};
use crate::logs::recorder::{self, Line, Recorder};

fn start() -> (&'static Recorder, Running) {
    (
        recorder::install(),
        ProcessFixture::new().run_with(json!({}), |it| it, |builder| builder.quarantine(None)),
    )
}

/// Returns the first line with this message.
#[track_caller]
fn wait_for_line(recorder: &Recorder, running: &Running, message: &str) -> Line {
    until(message, || {
        let lines = recorder.of(&running.fixture.name);
        lines.into_iter().find(|line| line.message() == message)
    })
}

#[test]
fn stderr_lines_keep_level_and_fields() {
    let (log, running) = start();
    let lines = [
        json!({ "level": "error", "msg": "it broke", "target": "disk", "free": 0 }).to_string(),
        json!({ "@level": "warn", "@message": "it may break", "free": 7 }).to_string(),
        json!({ "level": "debug", "msg": "not wanted here" }).to_string(),
        json!({ "level": "nonsense", "msg": "which level" }).to_string(),
        "plain text".to_owned(),
        r#"{"level":"error","msg":"half"#.to_owned(),
        json!([1, 2]).to_string(),
        "\u{1b}[31mred\u{1b}[0m".to_owned(),
        "last".to_owned(),
    ];
    running.call_json(&json!({ "do": "log", "text": lines.join("\n") + "\n" }));
    let line = wait_for_line(log, &running, "it broke");
    assert_eq!((line.level, &*line.target), (Level::ERROR, "disk"));
    assert_eq!(line.field("free"), "i64 0");
    assert_eq!(wait_for_line(log, &running, "it may break").level, Level::WARN);
    assert_eq!(wait_for_line(log, &running, "which level").level, Level::INFO);
    assert_eq!(wait_for_line(log, &running, "plain text").level, Level::INFO);
    wait_for_line(log, &running, r#"{"level":"error","msg":"half"#);
    wait_for_line(log, &running, "[1,2]");
    wait_for_line(log, &running, "last");
    let all = log.of(&running.fixture.name);
    assert!(all.iter().all(|line| line.message() != "not wanted here"));
    running.end();
}

#[test]
fn overlong_line_is_truncated_and_later_ones_arrive() {
    let (log, running) = start();
    let text = format!("{}\nafter it\n", "x".repeat(100 << 10));
    running.call_json(&json!({ "do": "log", "text": text }));
    wait_for_line(log, &running, "after it");
    let lines = log.of(&running.fixture.name);
    let long = lines.iter().find(|line| line.message().starts_with("xxxx")).expect("the long one");
    assert!(long.message().ends_with("… (cut)") && long.message().len() < 70_000);
    running.end();
}

#[test]
fn stdout_after_location_is_logged() {
    let (log, running) = start();
    // More than a pipe holds.
    running.call_json(&json!({ "do": "print", "to": "stdout", "bytes": 300_000, "line": 3000 }));
    running.serves();
    until("the line arrives", || {
        let lines = log.of(&running.fixture.name);
        lines.iter().any(|line| line.message().starts_with("xxxx")).then_some(())
    });
    running.end();
}

#[test]
fn flood_of_lines_blocks_no_call_and_is_counted() {
    let (_, running) = start();
    let flood = json!({ "do": "print", "to": "stderr", "bytes": 4 << 20, "line": 80 }).to_string();
    let flood = running.handle.execute(Request::json_text(&flood));
    for _ in 0..5 {
        running.serves();
    }
    block_on(flood).unwrap();
    until("lines were dropped", || {
        (running.host.list()[0].stats.log_lines_dropped > 0).then_some(())
    });
    running.end();
}

#[test]
fn process_with_closed_output_keeps_serving() {
    let (_, running) = start();
    running.call_json(&json!({ "do": "close-output" }));
    running.serves();
    assert_eq!(running.fixture.started().len(), 1);
    running.end();
}

#[test]
fn logging_through_host_needs_permission_and_token() {
    let (log, running) = start();
    let line = json!({ "level": 2, "target": "own", "message": "by the host" });
    let reported = running.call_json(&json!({ "do": "call-host", "path": "/log", "body": line }));
    assert_eq!(reported["status"], 200, "{reported}");
    assert_eq!(wait_for_line(log, &running, "by the host").target, "own");
    let reported =
        running.call_json(&json!({ "do": "call-host", "token": "guessed", "body": line }));
    assert_eq!(reported["status"], 401, "{reported}");
    let reported = running.call_json(&json!({ "do": "call-host", "path": "/none", "body": line }));
    assert_eq!(reported["status"], 404, "{reported}");
    let reported = running.call_json(&json!({ "do": "call-host", "body": "no line" }));
    assert_eq!(reported["status"], 400, "{reported}");
    running.end();

    let mute = ProcessFixture::new().run_with(
        json!({}),
        |program| program.set("permissions", json!([])),
        |builder| builder,
    );
    let reported = mute.call_json(&json!({ "do": "call-host", "body": line }));
    assert_eq!(reported["status"], 403, "{reported}");
    assert_eq!(reported["headers"]["hotbay-log-level"], "0");
    mute.end();
}
