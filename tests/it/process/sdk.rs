//! Plugins served as programs by the SDK: results arrive as from a library, and a panic ends only
//! its call.

use hotbay::{ErrorKind, HostEvent, LoadStep, Request, Snapshot};
use hotbay_tests::{ProgramFolder, block_on, event, refused, until};
use serde_json::{Value, json};
use tracing::Level;

use super::fixture::{ProcessFixture, Running};
use crate::logs::recorder;

fn served(program: ProgramFolder) -> ProgramFolder {
    program.built("served", "served").set("package", "served")
}

fn start() -> Running {
    start_with(|program| program)
}

fn start_with(change: impl FnOnce(ProgramFolder) -> ProgramFolder) -> Running {
    let host = |builder: hotbay::HostBuilder| builder.quarantine(None);
    ProcessFixture::new().run_with(json!({}), |program| change(served(program)), host)
}

/// Asserts that the same process still serves, with this call count.
fn assert_same_process(running: &Running, expected: u64) {
    assert_eq!(running.call_json(&json!({ "do": "count" })), expected, "it is the same process");
}

#[test]
fn sdk_panic_is_reported_and_process_survives() {
    let running = start();
    assert_same_process(&running, 1);
    let action = json!({ "do": "panic", "message": "no such thing" }).to_string();
    for call_async in [false, true] {
        let mut events = running.host.events();
        let outcome = match call_async {
            false => running.handle.call(Request::json_text(&action)),
            true => block_on(running.handle.execute(Request::json_text(&action))),
        };
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked, "{}", error.full_message());
        let fault = error.fault().expect("a fault");
        assert_eq!(fault.message(), "no such thing");
        assert!(fault.location().is_some_and(|place| place.contains("lib.rs:")), "{fault:?}");
        let faulted = event(&mut events, |event| matches!(event, HostEvent::Faulted { .. }));
        let HostEvent::Faulted { own_thread, .. } = faulted else { panic!("{faulted:?}") };
        assert!(!own_thread);
    }
    assert_same_process(&running, 2);
    running.serves();
    running.end();
}

#[test]
fn panic_on_sdk_thread_is_reported_to_host() {
    let running = start();
    let mut events = running.host.events();
    let action = json!({ "do": "panic-elsewhere", "message": "on a thread" });
    assert_eq!(running.call(&action).unwrap().as_bytes(), b"panicked");
    let faulted = event(&mut events, |event| matches!(event, HostEvent::Faulted { .. }));
    let HostEvent::Faulted { own_thread, fault, .. } = faulted else { panic!("{faulted:?}") };
    assert!(own_thread);
    assert_eq!(fault.message(), "on a thread");
    assert_same_process(&running, 1);
    running.end();
}

#[test]
fn sdk_author_error_arrives_unchanged() {
    let running = start();
    let details = json!({ "rows": [1, 2], "text": "ä" });
    for code in [-7, 0, 17, i32::MAX] {
        let action = json!({
            "do": "fail", "code": code, "message": "no \"space\"", "details": details,
            "retryable": code == 17,
        });
        let text = action.to_string();
        for outcome in [
            running.handle.call(Request::json_text(&text)),
            block_on(running.handle.execute(Request::json_text(&text))),
        ] {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Plugin, "{}", error.full_message());
            let own = error.plugin_error().expect("the author's own error");
            assert_eq!((own.code(), own.message()), (code, "no \"space\""));
            assert_eq!((own.details(), own.is_retryable()), (Some(&details), code == 17));
        }
    }
    running.end();
}

#[test]
fn sdk_log_arrives_only_with_permission() {
    let log = recorder::install();
    let running = start();
    for by in ["host", "tracing", "log"] {
        let message = format!("by {by}");
        let action = json!({ "do": "log", "by": by, "level": "warn", "message": message });
        assert_eq!(running.call(&action).unwrap().as_bytes(), b"ok");
        let line = until("the line arrives", || {
            let lines = log.of(&running.fixture.name);
            lines.into_iter().find(|line| line.message() == message)
        });
        assert_eq!(line.level, Level::WARN);
    }
    running.end();

    let mute = start_with(|program| program.set("permissions", json!([])));
    // Lines below the level of an error are not even sent.
    let action = json!({ "do": "log", "by": "host", "level": "error", "message": "unheard" });
    let reported = mute.call(&action).unwrap();
    assert!(reported.as_text().unwrap().contains("permission"), "{}", reported.as_text().unwrap());
    assert_eq!(mute.call_json(&json!({ "do": "enabled", "level": "warn" })), false);
    assert!(log.of(&mute.fixture.name).iter().all(|line| line.message() != "unheard"));
    mute.end();
}

#[test]
fn sdk_state_is_snapshotted_and_restored() {
    let running = start_with(|program| program.config(json!({ "start": 40 })));
    assert_same_process(&running, 41);
    let state = block_on(running.handle.snapshot()).unwrap().expect("a state");
    assert_eq!((state.version(), state.as_bytes()), (3, b"41".as_slice()));
    running.end();

    let fixture = ProcessFixture::new();
    let folder = served(fixture.program(json!({}))).install();
    let host = hotbay::Host::builder().build().unwrap();
    let handle = block_on(
        host.load_with(&folder, hotbay::LoadOptions::new().with_state(Snapshot::new(3, "70"))),
    )
    .unwrap();
    let reply = handle.call(Request::json_text(r#"{"do":"count"}"#)).unwrap();
    assert_eq!(reply.as_bytes(), b"71");
    block_on(host.unload(&fixture.name)).unwrap();
    let wrong = block_on(
        host.load_with(&folder, hotbay::LoadOptions::new().with_state(Snapshot::new(3, "many"))),
    )
    .unwrap_err();
    assert_eq!(wrong.step(), Some(LoadStep::Restore), "{}", wrong.full_message());
    assert_eq!(wrong.plugin_error().map(|error| error.code()), Some(409));
    fixture.assert_nothing_left();
}

#[test]
fn start_refused_by_author_reports_its_message() {
    let cases: [(Value, &[&str]); 3] = [
        (json!({ "init_fails": "no database" }), &["no database"]),
        (json!({ "init_panics": "half a database" }), &["half a database", "lib.rs"]),
        (json!({ "no_such_field": 1 }), &["no_such_field"]),
    ];
    for (config, expected) in cases {
        let fixture = ProcessFixture::new();
        let folder = served(fixture.program(json!({}))).config(config).install();
        let host = hotbay::Host::builder().build().unwrap();
        let error = refused(&host, folder);
        let reported = error.full_message();
        for part in expected {
            assert!(reported.contains(part), "`{part}` in: {reported}");
        }
        fixture.assert_nothing_left();
    }
}

#[test]
fn sdk_shutdown_runs_at_unload_and_reports_failure() {
    let fixture = ProcessFixture::new();
    let file = fixture.file("count");
    let config = json!({ "shutdown_writes": file });
    let running = fixture.run_with(json!({}), |it| served(it).config(config), |builder| builder);
    assert_same_process(&running, 1);
    let mut events = running.host.events();
    block_on(running.host.unload(&running.fixture.name)).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    running.fixture.assert_nothing_left();

    let running = start_with(|it| it.config(json!({ "shutdown_panics": "not yet" })));
    let mut events = running.host.events();
    block_on(running.host.unload(&running.fixture.name)).unwrap();
    let failed = event(&mut events, |event| matches!(event, HostEvent::ShutdownFailed { .. }));
    let HostEvent::ShutdownFailed { reason, .. } = failed else { panic!("{failed:?}") };
    assert!(reason.contains("not yet"), "{reason}");
    running.fixture.assert_nothing_left();
}
