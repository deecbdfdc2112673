//! The lifecycle of a plugin's process: what it receives, restarts after exits, and backoff.

use std::collections::BTreeSet;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostBuilder, HostEvent, PluginInfo, PluginState, Request};
use hotbay_tests::{block_on, event, limits, loaded, quarantine, until};
use serde_json::{Value, json};

use super::fixture::{ProcessFixture, Running, has_exited, is_private, kill};
use super::idle_and_hung::with_idle;

fn patient(builder: HostBuilder) -> HostBuilder {
    builder.quarantine(None)
}

fn is_restart(event: &HostEvent) -> bool {
    matches!(event, HostEvent::Restarted { .. })
}

#[test]
fn killed_process_is_reported_and_replaced() {
    let running = ProcessFixture::new().run_with(json!({}), |it| it, patient);
    let last_words = "fatal: the disk is full\nand a second line\n";
    running.call_json(&json!({ "do": "log", "text": last_words }));
    let mut events = running.host.events();
    let (generation, pid) = (running.handle.pin().unwrap().generation(), running.pid());
    kill(pid);
    let exited = event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    let HostEvent::ChildExited { plugin, generation: of, pid: ended, reason, hint } = exited else {
        panic!("{exited:?}")
    };
    assert_eq!((plugin.as_str(), of, ended), (&*running.fixture.name, generation, pid));
    for part in ["SIGKILL", "the disk is full", "and a second line"] {
        assert!(reason.contains(part), "`{part}` in: {reason}");
    }
    assert_eq!(hint.as_deref(), Some("check the kernel log"));
    let restarted = event(&mut events, is_restart);
    let HostEvent::Restarted { generation: of, pid: next, .. } = restarted else {
        panic!("{restarted:?}")
    };
    assert_eq!((of, next), (generation, running.pid()));
    assert_ne!(next, pid);
    assert!(has_exited(pid), "the process is reaped before the next one starts");
    running.serves();
    assert_eq!(running.call_json(&json!({ "do": "count" })), 3);
    running.end();
}

#[test]
fn large_config_arrives_in_private_file() {
    let read_file = json!({ "capabilities": { "hotbay": { "config": ["env", "file"] } } });
    for bytes in [10, 60 << 10, 100 << 10, 700 << 10] {
        let config = json!({ "text": "x".repeat(bytes) });
        let running =
            ProcessFixture::new().run_with(read_file.clone(), |it| it.config(config), patient);
        for _ in 0..2 {
            let reply = running.call_json(&json!({ "do": "report" }));
            let data = reply["config"]["configTypes"][0]["data"].as_str().expect("its config");
            assert!(data.len() > bytes, "{}", data.len());
            let environment = &reply["environment"];
            let folder = environment["HOTBAY_SOCKET_DIR"].as_str().expect("a folder");
            let file = environment["HOTBAY_CONFIG_FILE"].as_str();
            assert_eq!(file.is_some(), bytes > 90 << 10);
            assert_eq!(environment["HOTBAY_CONFIG"].is_string(), file.is_none());
            if let Some(file) = file {
                assert!(file.starts_with(folder) && !std::path::Path::new(file).exists());
            }
            let mut events = running.host.events();
            kill(running.pid());
            event(&mut events, is_restart);
        }
        running.end();
    }
}

#[test]
fn process_exits_and_restarts_are_counted() {
    let running = ProcessFixture::new().run_with(json!({}), |it| it, patient);
    let info = || running.host.stats().plugins.swap_remove(0);
    let before = info();
    let counts = |info: &PluginInfo| (info.stats.exits, info.stats.restarts, info.stats.faults);
    assert_eq!(counts(&before), (0, 0, 0));
    assert_eq!(before.pid, Some(running.pid()));
    for count in 1..=2 {
        let mut events = running.host.events();
        kill(running.pid());
        event(&mut events, is_restart);
        let now = until("the next process serves", || Some(info()).filter(|it| it.pid.is_some()));
        assert_eq!(counts(&now), (count, count, count));
        assert_eq!(now.pid, Some(running.pid()));
    }
    assert_ne!(info().pid, before.pid);
    running.end();
}

#[test]
fn sent_call_that_timed_out_counts_once() {
    let running = ProcessFixture::new().run_with(json!({}), |it| it, patient);
    let before = running.host.list().swap_remove(0);
    let action = json!({ "do": "wait" }).to_string();
    let request = || Request::json_text(&action).with_timeout(Duration::from_millis(30));
    for _ in 0..10 {
        let executed = block_on(running.handle.execute(request())).unwrap_err();
        let called = running.handle.call(request()).unwrap_err();
        assert_eq!(executed.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(called.kind(), ErrorKind::DeadlineExceeded);
    }
    until("no call runs", || (running.host.list()[0].stats.running == 0).then_some(()));
    let now = running.host.list().swap_remove(0);
    let (now, before) = (now.stats, before.stats);
    // On a busy machine a deadline may pass before the call reaches the process.
    let counted = (now.calls - before.calls, now.abandoned + now.refused, now.errors);
    assert_eq!(counted, (20, 20, 0), "{now:?}");
    assert!(now.abandoned > 0, "{now:?}");
    running.end();
}

#[test]
fn exit_code_is_reported() {
    let running = ProcessFixture::new().run_with(json!({}), |it| it, patient);
    let mut events = running.host.events();
    running.call(&json!({ "do": "exit", "code": 77 })).unwrap_err();
    let exited = event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    let HostEvent::ChildExited { reason, .. } = exited else { panic!("{exited:?}") };
    assert!(reason.contains("exited with code 77"), "{reason}");
    event(&mut events, is_restart);
    running.serves();
    running.end();
}

#[test]
fn repeated_exits_quarantine_and_probe_restores() {
    let policy = quarantine(|policy| {
        policy.max_faults = 3;
        policy.initial_backoff = Duration::from_millis(50);
    });
    let running =
        ProcessFixture::new().run_with(json!({}), |it| it, |builder| builder.quarantine(policy));
    let mut events = running.host.events();
    for _ in 0..3 {
        kill(running.pid());
        event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
        event(&mut events, is_restart);
    }
    let mut seen = running.host.events();
    let reply = until("a probe goes through", || match running.handle.call(Request::text("x")) {
        Ok(reply) => Some(reply),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Quarantined, "{}", error.full_message());
            None
        }
    });
    assert_eq!(reply.as_bytes(), b"x");
    event(&mut seen, |event| matches!(event, HostEvent::Restored { .. }));
    running.serves();
    running.end();
}

#[test]
fn idle_process_exits_and_next_call_waits_for_start() {
    // The host knows the idle timeout and so distinguishes such an exit from a crash.
    let idle = with_idle(Duration::from_millis(200));
    let behavior = json!({ "serve": { "idle_exit_ms": 200 } });
    let running = ProcessFixture::new().run_with(behavior, |it| it, idle);
    for round in 1..4 {
        let pid = running.pid();
        // More if it exits before the request of a slow caller arrives.
        assert!(running.fixture.started().len() >= round);
        until("the process exits", || has_exited(pid).then_some(()));
        let reply = match round % 2 {
            0 => running.handle.call(Request::text("anyone?")),
            _ => block_on(running.handle.execute(Request::text("anyone?"))),
        };
        assert_eq!(
            reply.unwrap_or_else(|error| panic!("{}", error.full_message())).as_bytes(),
            b"anyone?"
        );
    }
    let info = &running.host.list()[0];
    assert_eq!(
        (info.state.as_str(), info.stats.faults),
        ("serving", 0),
        "an idle exit is not a fault"
    );
    running.end();
}

#[test]
fn process_receives_only_listed_environment() {
    // Cargo sets both for every process it runs.
    let (passed, kept) = ("CARGO_PKG_NAME", "CARGO_PKG_VERSION");
    assert!(std::env::var_os(passed).is_some() && std::env::var_os(kept).is_some());
    let config = json!({ "depth": 3 });
    let running = ProcessFixture::new().run_with(
        json!({}),
        |program| program.config(config.clone()).arguments(&["--first", "a b"]),
        |builder| builder.inherit_env(passed),
    );
    let reply = running.call_json(&json!({ "do": "report" }));
    let environment = reply["environment"].as_object().unwrap();
    let allowed: BTreeSet<&str> = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "TMPDIR",
        "RUST_BACKTRACE",
        passed,
        "HOTBAY_PROTOCOL",
        "HOTBAY_LAUNCH",
        "HOTBAY_SOCKET_DIR",
        "HOTBAY_TOKEN",
        "HOTBAY_HOST",
        "HOTBAY_CONFIG",
    ]
    .into();
    for name in environment.keys() {
        assert!(allowed.contains(&**name) || name.starts_with("LC_"), "{name}");
    }
    assert_eq!(environment[passed], std::env::var(passed).unwrap());
    assert!(!environment.contains_key(kept));
    assert_eq!(reply["config"]["id"], *running.fixture.name);
    let entry = &reply["config"]["configTypes"][0];
    assert_eq!(entry["type"], "hotbay/v1");
    let arguments: Vec<_> = reply["arguments"].as_array().unwrap().iter().skip(1).collect();
    assert_eq!(arguments, ["--first", "a b"], "the config is not visible to other users");
    // It has a separate folder for its sockets.
    let folder = environment["HOTBAY_SOCKET_DIR"].as_str().unwrap();
    assert!(is_private(folder.as_ref()));
    running.end();
}

#[test]
fn process_is_limited_and_inherits_no_descriptors() {
    let few = limits(|limits| {
        limits.max_process_descriptors = Some(60);
        limits.max_process_cpu_time = Some(Duration::from_secs(50));
    });
    let memory = json!({ "memory_bytes": 256 << 20 });
    let running = ProcessFixture::new().run_with(
        json!({}),
        |program| program.set("limits", memory),
        |builder| builder.limits(few),
    );
    let reply = running.call_json(&json!({ "do": "report" }));
    let limit = &reply["limits"];
    assert_eq!(
        (&limit["nofile"], &limit["cpu"], &limit["core"]),
        (&json!(60), &json!(50), &json!(0))
    );
    assert_eq!(limit["data"], 256 << 20, "{limit}");
    // All descriptors it did not open are its standard streams.
    let own: BTreeSet<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|file| Some(file.ok()?.path().read_link().ok()?.display().to_string()))
        .collect();
    for (number, file) in reply["files"].as_object().unwrap() {
        let is_standard = ["0", "1", "2"].contains(&&**number);
        assert!(is_standard || !own.contains(file.as_str().unwrap()), "{number} is {file}");
    }
    let folder = reply["folder"].as_str().unwrap();
    assert!(folder.ends_with(&running.fixture.name), "{folder}");
    running.end();
}

#[test]
fn failed_restart_backs_off_and_calls_report_retry_time() {
    let fixture = ProcessFixture::new();
    let dies = json!({ "location": { "stderr": "no license\n", "exit": 4 } });
    let behavior = json!({ "launches": [{}, dies, dies, dies, { "location": null }] });
    let running = fixture.run_with(behavior, |it| it, patient);
    running.serves();
    let mut events = running.host.events();
    kill(running.pid());
    // A caller waits, or gets the time of the next attempt and the last error.
    let error =
        until("a call is refused or answered", || match running.handle.call(Request::text("x")) {
            Ok(_) => Some(None),
            Err(error) => Some(Some(error)),
        });
    if let Some(error) = error {
        let message = error.full_message();
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{message}");
        for part in ["(next start in", " ms)", "exited with code 4", "no license"] {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
    }
    event(&mut events, is_restart);
    running.serves();
    assert_eq!(running.fixture.started().len(), 5);
    running.end();
}

#[test]
fn call_with_long_deadline_waits_for_restart() {
    let dies = json!({ "location": { "exit": 4 } });
    let behavior = json!({ "launches": [{}, dies, { "location": null }] });
    let running = ProcessFixture::new().run_with(behavior, |it| it, patient);
    running.serves();
    let began = running.fixture.started().len();
    kill(running.pid());
    until("the next start fails", || (running.fixture.started().len() > began).then_some(()));
    for call_async in [false, true] {
        let request = Request::text("x").with_timeout(Duration::from_secs(60));
        let reply = match call_async {
            false => running.handle.call(request),
            true => block_on(running.handle.execute(request)),
        };
        assert_eq!(
            reply.unwrap_or_else(|error| panic!("{}", error.full_message())).as_bytes(),
            b"x"
        );
    }
    running.end();
}

#[test]
fn quarantine_by_exits_is_reported_as_such() {
    let policy = quarantine(|policy| {
        policy.max_faults = 2;
        policy.initial_backoff = Duration::from_secs(3600);
        policy.max_backoff = Duration::from_secs(3600);
    });
    let running =
        ProcessFixture::new().run_with(json!({}), |it| it, |builder| builder.quarantine(policy));
    let mut events = running.host.events();
    for _ in 0..2 {
        kill(running.pid());
        event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
        event(&mut events, is_restart);
    }
    let error = until("it is quarantined", || running.handle.call(Request::text("x")).err());
    assert_eq!(error.kind(), ErrorKind::Quarantined, "{}", error.full_message());
    assert_eq!(state(&running), PluginState::Quarantined);
    running.end();
}

fn state(running: &Running) -> PluginState {
    running.host.list()[0].state
}

#[test]
fn program_loaded_again_gets_its_current_capabilities() {
    let fixture = ProcessFixture::new();
    let host = Host::builder().build().expect("a host");
    let install =
        |ours: Value| fixture.program(json!({ "capabilities": { "hotbay": ours } })).install();
    // The third and the last load start the program with the capabilities of the one before.
    for (endpoints, has_rows, started) in [
        (json!(["execute"]), false, 1),
        (json!(["execute"]), false, 2),
        (json!(["execute", "rows"]), true, 4),
        (json!(["execute", "rows"]), true, 5),
    ] {
        let handle = loaded(&host, install(json!({ "endpoints": endpoints })));
        assert_eq!(handle.call(Request::text("x")).unwrap().as_bytes(), b"x");
        let rows = handle.call(Request::text("x").with_endpoint("rows"));
        let is_unsupported = rows.is_err_and(|error| error.kind() == ErrorKind::Unsupported);
        assert_eq!(is_unsupported, !has_rows);
        block_on(host.unload(&fixture.name)).expect("it unloads");
        assert_eq!(fixture.started().len(), started);
        fixture.assert_nothing_left();
    }
    let error = block_on(host.load(install(json!({ "protocol": 2 })))).unwrap_err();
    assert!(error.full_message().contains("protocol"), "{}", error.full_message());
    fixture.assert_nothing_left();
    let error = block_on(host.load(install(json!({ "name": "other" })))).unwrap_err();
    assert!(error.full_message().contains("other"), "{}", error.full_message());
    fixture.assert_nothing_left();
}
