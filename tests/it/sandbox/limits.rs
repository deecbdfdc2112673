//! Programs that exceed the limits of their sandboxes: the fault says which limit.

use std::fs;

use std::sync::atomic::{AtomicBool, Ordering};

use hotbay::confinement::{ConfinementPolicy, RuleStatus};
use hotbay::manifest::{Sandbox, SandboxLimits, SandboxRule};
use hotbay::{ErrorKind, Events, Host, HostBuilder, HostEvent, Request};
use hotbay_tests::{Plugins, StopOnDrop, event, loaded, runner};
use serde_json::{Value, json};

use super::{attempt, can_confine, program, start, start_with};
use crate::process::fixture::{ProcessFixture, Running};

/// Lets the program exceed a limit that ends it; returns what the host reports.
#[track_caller]
fn exceed(limits: Value, write: Value, action: Value) -> String {
    let running = start(json!({ "limits": limits, "write": write }));
    let mut events = running.host.events();
    let error = running.call(&action).expect_err("it exceeds a limit");
    let reason = exit_reason(&mut events);
    assert!(error.full_message().contains(&reason), "{}", error.full_message());
    running.end();
    reason
}

#[track_caller]
fn exit_reason(events: &mut Events) -> String {
    let exited = event(events, |event| matches!(event, HostEvent::ChildExited { .. }));
    let HostEvent::ChildExited { reason, .. } = exited else { panic!("{exited:?}") };
    reason
}

#[test]
fn processor_time_is_limited() {
    let reason = exceed(json!({ "cpu_seconds": 1 }), json!([]), json!({ "do": "spin" }));
    assert!(reason.contains("exceeded its CPU time limit"), "{reason}");
}

/// Ends one call by its limit of processor time; returns what the host reports.
#[track_caller]
fn exceed_in_call(running: &Running, request: Request<'_>) -> String {
    let mut events = running.host.events();
    let error = running.handle.call(request).expect_err("it is ended");
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{}", error.full_message());
    let reason = exit_reason(&mut events);
    assert!(error.full_message().contains(&reason), "{}", error.full_message());
    reason
}

fn call_limit(seconds: f64) -> Value {
    json!({ "limits": { "call_cpu_seconds": seconds } })
}

fn spin() -> Request<'static> {
    Request::json_text(r#"{ "do": "spin" }"#)
}

#[test]
fn processor_time_of_a_call_is_limited() {
    let running = start(call_limit(0.25));
    let reason = exceed_in_call(&running, spin());
    assert!(reason.contains("exceeded its limit `call_cpu_seconds`: a call used "), "{reason}");
    assert!(reason.contains("0.25 s are permitted"), "{reason}");
    let confinement = running.host.list().remove(0).confinement.expect("it is confined");
    let status = confinement.status(SandboxRule::CallCpuSeconds).expect("it is set");
    assert!(matches!(status, RuleStatus::Partial(_)), "{status:?}");
    running.end();
}

#[test]
fn processor_time_of_a_call_is_bounded_by_the_host() {
    let limits = SandboxLimits::default().with_call_cpu_millis(Some(250));
    let policy =
        ConfinementPolicy::default().with_bounds(Some(Sandbox::default().with_limits(limits)));
    let host = |host: HostBuilder| host.confinement(policy);
    let running = start_with(call_limit(4000.0), |program| program, host);
    let reason = exceed_in_call(&running, spin());
    assert!(reason.contains("0.25 s are permitted"), "{reason}");
    running.end();
}

#[test]
fn processor_time_of_a_call_of_an_isolated_library_is_limited() {
    let plugins = Plugins::new();
    runner();
    let host = Host::builder().quarantine(None).build().expect("a host");
    let plugin = plugins.add("confined", "confined").set("isolation", "process");
    let plugin = loaded(&host, plugin.set("sandbox", call_limit(0.25)).write());
    let mut events = host.events();
    let error = plugin.call(spin()).expect_err("it is ended");
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{}", error.full_message());
    let reason = exit_reason(&mut events);
    assert!(reason.contains("exceeded its limit `call_cpu_seconds`"), "{reason}");
}

#[test]
fn spinning_call_among_others_is_ended() {
    let running = start(call_limit(0.25));
    let is_ended = AtomicBool::new(false);
    let reason = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_ended.load(Ordering::Relaxed) {
                // One of them fails when the process is ended.
                let _ = running.call(&json!({ "do": "wait", "millis": 40 }));
            }
        });
        let _stop = StopOnDrop(&is_ended);
        exceed_in_call(&running, spin())
    });
    assert!(reason.contains("exceeded its limit `call_cpu_seconds`"), "{reason}");
    running.end();
}

#[test]
fn call_without_processor_time_may_take_long() {
    let running = start(call_limit(0.25));
    attempt(&running, json!({ "do": "wait", "millis": 1500 }));
    assert_eq!(running.host.list().remove(0).stats.exits, 0);
    running.end();
}

#[test]
fn processor_time_of_many_short_calls_is_not_added_up() {
    let running = start(call_limit(0.4));
    for _ in 0..8 {
        attempt(&running, json!({ "do": "burn", "millis": 150 }));
    }
    assert_eq!(running.host.list().remove(0).stats.exits, 0);
    running.end();
}

#[test]
fn size_of_files_is_limited() {
    let folder = Plugins::new();
    let file = folder.dir().join("file");
    let action = json!({ "do": "fill", "path": file });
    let reason = exceed(json!({ "file_bytes": 65536 }), json!([folder.dir()]), action);
    assert!(reason.contains("exceeded its file size limit"), "{reason}");
    assert_eq!(fs::metadata(&file).expect("the file").len(), 65536);
}

#[test]
fn limit_that_prevents_the_start_is_named() {
    let fixture = ProcessFixture::new();
    let sandbox = json!({ "limits": { "memory_bytes": 65536, "processes": 8 } });
    let folder = program(&fixture, sandbox).install();
    let error = hotbay_tests::refused(&Host::builder().build().expect("a host"), folder);
    let message = error.full_message();
    assert!(message.contains("its sandbox limits `memory_bytes`"), "{message}");
    let hint = error.hint().expect("a hint");
    assert!(hint.contains("raise `memory_bytes` in its sandbox and in hotbay.toml"), "{hint}");
}

#[test]
fn memory_is_limited() {
    let running = start(json!({ "limits": { "memory_bytes": 256 << 20 } }));
    assert_eq!(attempt(&running, json!({ "do": "memory", "mebibytes": 16 })), "permitted");
    let too_much = attempt(&running, json!({ "do": "memory", "mebibytes": 512 }));
    assert_eq!(too_much, format!("denied {}", libc::ENOMEM));
    running.end();
}

#[test]
fn memory_of_all_processes_is_limited() {
    // The limit of each process is not reached.
    let limits = json!({ "memory_bytes": 96 << 20 });
    let action = json!({ "do": "processes", "count": 6, "mebibytes": 32 });
    let reason = exceed(limits, json!([]), action);
    assert!(reason.contains("exceeded its limit `memory_bytes`"), "{reason}");
}

#[test]
fn number_of_processes_is_limited() {
    let action = json!({ "do": "bomb", "count": 200 });
    let reason = exceed(json!({ "processes": 4 }), json!([]), action);
    assert!(reason.contains("exceeded its limit `processes`"), "{reason}");
    assert!(reason.contains("4 are permitted"), "{reason}");
}

#[test]
fn one_process_cannot_start_others() {
    if !can_confine(0) {
        return;
    }
    let running = start(json!({ "limits": { "processes": 1 } }));
    assert_eq!(attempt(&running, json!({ "do": "processes", "count": 3 })), "0");
    assert_eq!(attempt(&running, json!({ "do": "thread" })), "permitted");
    running.end();
    let running = start(json!({}));
    assert_eq!(attempt(&running, json!({ "do": "processes", "count": 3 })), "3");
    running.end();
}
