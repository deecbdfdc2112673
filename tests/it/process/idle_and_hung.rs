//! Hung processes and processes that exit because they are idle, as opposed to failed ones.

use std::time::Duration;

use hotbay::{ErrorKind, HostBuilder, HostEvent, Request};
use hotbay_tests::{block_on, event, events_until, limits, state_of, until};
use serde_json::{Value, json};

use super::connections::idle;
use super::fixture::{ProcessFixture, Running, has_exited, kill, signal};

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

fn with_health(timeout: Duration) -> impl FnOnce(HostBuilder) -> HostBuilder {
    let limits = limits(|limits| {
        limits.process_health_timeout = timeout;
        limits.stop_timeout = Duration::from_millis(200);
    });
    move |builder| builder.limits(limits).quarantine(None)
}

fn hung(running: &Running) -> u32 {
    let pid = running.pid();
    signal(pid, "STOP");
    until("the process is stopped", || (state_of(pid) == Some('T')).then_some(()));
    pid
}

#[test]
fn hung_process_is_restarted_after_missed_deadline() {
    for call_async in [false, true] {
        for serve in [json!({}), json!({ "at_once": 1 })] {
            let health = with_health(Duration::from_millis(300));
            let running =
                ProcessFixture::new().run_with(json!({ "serve": serve }), |it| it, health);
            running.serves();
            let mut events = running.host.events();
            let pid = hung(&running);
            let request = || Request::text("x").with_timeout(Duration::from_millis(100));
            let outcome = match call_async {
                false => running.handle.call(request()),
                true => block_on(running.handle.execute(request())),
            };
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
            let exited = event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
            let HostEvent::ChildExited { pid: ended, reason, .. } = exited else { unreachable!() };
            assert_eq!(ended, pid);
            assert!(
                reason.contains("did not respond") && reason.contains("`/healthz`"),
                "{reason}"
            );
            event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
            assert!(has_exited(pid));
            running.serves();
            running.end();
        }
    }
}

#[test]
fn slow_process_with_good_health_is_kept() {
    let health = with_health(Duration::from_millis(300));
    let running = ProcessFixture::new().run_with(json!({}), |it| it, health);
    let pid = running.pid();
    let file = running.fixture.file("open");
    let action = json!({ "do": "wait", "until": file }).to_string();
    for _ in 0..3 {
        let request = Request::json_text(&action).with_timeout(Duration::from_millis(50));
        let outcome = running.handle.call(request);
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }
    // Longer than the health timeout.
    idle(Duration::from_millis(600));
    running.serves();
    assert_eq!(running.fixture.started(), [pid]);
    running.end();
}

#[test]
fn process_without_health_check_is_kept() {
    let running = ProcessFixture::new().run_with(json!({}), |it| it, with_health(Duration::ZERO));
    let pid = hung(&running);
    let request = Request::text("x").with_timeout(Duration::from_millis(50));
    assert_eq!(running.handle.call(request).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    idle(Duration::from_millis(300));
    signal(pid, "CONT");
    running.serves();
    assert_eq!(running.fixture.started(), [pid]);
    running.end();
}

pub(crate) fn with_idle(time: Duration) -> impl FnOnce(HostBuilder) -> HostBuilder {
    let limits = limits(|limits| limits.process_idle_timeout = time);
    move |builder| builder.limits(limits)
}

/// Asserts that the host emitted no fault until it was dropped.
fn no_fault(mut events: hotbay::Events) {
    while let Some(event) = events.try_next() {
        let is_fault =
            matches!(event, HostEvent::ChildExited { .. } | HostEvent::Quarantined { .. });
        assert!(!is_fault, "{event:?}");
    }
}

#[test]
fn call_racing_idle_exit_is_answered_by_next_process() {
    for call_async in [false, true] {
        // The first process exits with 0 during the call, without a reply, as if its idle timeout
        // had passed at that moment.
        let exits = json!({ "serve": { "execute": { "how": "exit", "code": 0 } } });
        let behavior = json!({ "launches": [exits, { "serve": {} }] });
        let time = Duration::from_millis(300);
        let running = ProcessFixture::new().run_with(behavior, |it| it, with_idle(time));
        let events = running.host.events();
        idle(time);
        let reply = match call_async {
            false => running.handle.call(Request::text("x")),
            true => block_on(running.handle.execute(Request::text("x"))),
        };
        let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
        assert_eq!(reply.as_bytes(), b"x");
        assert_eq!(running.fixture.started().len(), 2);
        no_fault(events);
        running.end();
    }
}

#[test]
fn program_that_only_idles_during_restarts_fails_calls() {
    let never_ready = json!({ "serve": { "healthz": { "how": "never" }, "idle_exit_ms": 300 } });
    let behavior = json!({ "launches": [{}, never_ready] });
    let time = Duration::from_millis(300);
    let running = ProcessFixture::new().run_with(behavior, |it| it, with_idle(time));
    running.serves();
    kill(running.pid());
    let error = running.handle.call(Request::text("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StartFailed, "{}", error.full_message());
    running.end();
}

#[test]
fn zero_exit_long_before_idle_timeout_is_fault() {
    let exits = json!({ "serve": { "execute": { "how": "exit", "code": 0 } } });
    let behavior = json!({ "launches": [exits, { "serve": {} }] });
    let running = ProcessFixture::new().run_with(behavior, |it| it, with_idle(NEVER));
    let mut events = running.host.events();
    let error = running.handle.call(Request::text("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    running.serves();
    running.end();
}

#[test]
fn nonzero_exit_at_idle_timeout_is_fault() {
    let exits = json!({ "serve": { "execute": { "how": "exit", "code": 3 } } });
    let behavior = json!({ "launches": [exits, { "serve": {} }] });
    let time = Duration::from_millis(300);
    let running = ProcessFixture::new().run_with(behavior, |it| it, with_idle(time));
    let mut events = running.host.events();
    idle(time);
    let error = running.handle.call(Request::text("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    running.serves();
    running.end();
}

#[test]
fn calls_at_idle_timeout_are_answered_without_fault() {
    let time = Duration::from_millis(400);
    let behavior = json!({ "serve": { "conforms": true } });
    let running = ProcessFixture::new().run_with(behavior, |it| it, with_idle(time));
    let events = running.host.events();
    for round in 0..12_u32 {
        idle(time - Duration::from_micros(u64::from(round % 8) * 250));
        let reply = match round % 2 {
            0 => running.handle.call(Request::text("x")),
            _ => block_on(running.handle.execute(Request::text("x"))),
        };
        let reply = reply.unwrap_or_else(|error| panic!("{round}: {}", error.full_message()));
        assert_eq!(reply.as_bytes(), b"x");
    }
    assert!(running.fixture.started().len() > 1, "some rounds were idle");
    no_fault(events);
    running.end();
}

fn older(more: Value) -> Value {
    let mut behavior = json!({
        "capabilities": { "dialect": "older" },
        "serve": { "needs_no_token": true, "conforms": true, "exit_code": 1, "leaves_lock": true },
    });
    for (name, value) in more.as_object().expect("an object") {
        behavior[name] = value.clone();
    }
    behavior
}

#[test]
fn call_that_exits_idle_older_program_is_not_repeated() {
    let time = Duration::from_millis(300);
    let running = ProcessFixture::new().run_with(older(json!({})), |it| it, with_idle(time));
    let mut events = running.host.events();
    let (began, until_file) = (running.fixture.file("began"), running.fixture.file("until"));
    let wait = json!({ "do": "wait", "began": began, "until": until_file });
    std::thread::scope(|scope| {
        // Keeps the host from stopping the process.
        let waiting = scope.spawn(|| running.call(&wait));
        until("the call starts", || began.exists().then_some(()));
        idle(time);
        let error = running.call(&json!({ "do": "exit", "code": 0 })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{}", error.full_message());
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Disconnected);
    });
    event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    running.serves();
    assert_eq!(running.fixture.started().len(), 2);
    running.end();
}

#[test]
fn host_stops_idle_older_program_and_restarts_it() {
    let time = Duration::from_millis(300);
    let running = ProcessFixture::new().run_with(older(json!({})), |it| it, with_idle(time));
    running.serves();
    let reply = running.call_json(&json!({ "do": "report" }));
    assert_eq!(reply["config"]["idleTimeout"], i64::MAX, "it never exits on its own");
    let events = running.host.events();
    for _ in 0..2 {
        let pid = running.pid();
        until("it is stopped", || has_exited(pid).then_some(()));
        running.serves();
        assert_ne!(running.pid(), pid);
    }
    no_fault(events);
    running.end();
}

#[test]
fn requested_stop_of_older_program_accepts_any_code() {
    let running = ProcessFixture::new().run(older(json!({})));
    running.serves();
    let mut events = running.host.events();
    let name = running.fixture.name.clone();
    block_on(running.host.unload(&name)).unwrap();
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    let failed = seen.iter().any(|event| matches!(event, HostEvent::ShutdownFailed { .. }));
    assert!(!failed, "{seen:?}");
    running.fixture.assert_nothing_left();
}

#[test]
fn unlimited_timeouts_are_accepted() {
    let unlimited = limits(|limits| {
        limits.start_timeout = Duration::MAX;
        limits.stop_timeout = Duration::MAX;
        limits.drain_timeout = Duration::MAX;
        limits.pause_timeout = Duration::MAX;
        limits.process_idle_timeout = Duration::MAX;
        limits.process_health_timeout = Duration::MAX;
    });
    for behavior in [json!({}), older(json!({}))] {
        let running = ProcessFixture::new().run_with(
            behavior,
            |it| it,
            |builder| {
                builder
                    .limits(unlimited.clone())
                    .hot_reload(true)
                    .watch_poll_interval(Duration::MAX)
            },
        );
        running.serves();
        let file = running.fixture.file("open");
        let wait = json!({ "do": "wait", "until": file }).to_string();
        let request = Request::json_text(&wait).with_timeout(Duration::from_millis(50));
        assert_eq!(running.handle.call(request).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        kill(running.pid());
        running.serves();
        running.end();
    }
}
