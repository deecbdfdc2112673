//! Exits of a plugin's process, requested or not, and of its host: its descendants end too, and no
//! caller waits long.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, Request};
use hotbay_tests::{
    Plugins, ProgramFolder, block_on, event, host_until_killed, limits, loaded, orphan, rerun_test,
    until,
};
use serde_json::{Value, json};

use super::fixture::{ProcessFixture, Running, has_exited, kill};

/// Starts grandchildren of every kind, and returns their process IDs.
fn grandchildren(running: &Running) -> Vec<u32> {
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let start = |(own_session, detach_pipes): (bool, bool)| {
        let action =
            json!({ "do": "grandchild", "own_session": own_session, "detach_pipes": detach_pipes });
        let id: Value = running.call_json(&action);
        u32::try_from(id.as_u64().expect("an id")).unwrap()
    };
    let ids: Vec<u32> = kinds.into_iter().map(start).collect();
    assert!(!ids.iter().any(|&id| has_exited(id)), "they run");
    ids
}

fn assert_all_exited(ids: &[u32]) {
    // Orphans are reaped by the system at some later time.
    let is_dead = |id: u32| matches!(hotbay_tests::state_of(id), None | Some('Z'));
    until("they have exited", || ids.iter().all(|&id| is_dead(id)).then_some(()));
}

fn sigterm_ignoring() -> Running {
    let soon = limits(|limits| limits.stop_timeout = Duration::from_millis(50));
    let behavior = json!({ "serve": { "ignore_sigterm": true } });
    ProcessFixture::new().run_with(
        behavior,
        |it| it,
        |builder| builder.limits(soon).quarantine(None),
    )
}

#[test]
fn unload_leaves_no_process_or_descendant() {
    let running = ProcessFixture::new().run(json!({}));
    let (pid, ids) = (running.pid(), grandchildren(&running));
    let Running { fixture, host, handle } = running;
    block_on(host.unload(&fixture.name)).unwrap();
    assert!(has_exited(pid), "the process is reaped");
    assert_all_exited(&ids);
    drop(handle);
    fixture.assert_nothing_left();
}

#[test]
fn process_ignoring_sigterm_is_killed_with_descendants() {
    let running = sigterm_ignoring();
    let (pid, ids) = (running.pid(), grandchildren(&running));
    let Running { fixture, host, .. } = running;
    let mut events = host.events();
    block_on(host.unload(&fixture.name)).unwrap();
    let failed = event(&mut events, |event| matches!(event, HostEvent::ShutdownFailed { .. }));
    let HostEvent::ShutdownFailed { reason, .. } = failed else { panic!("{failed:?}") };
    assert!(reason.contains("did not exit within 50 ms after SIGTERM"), "{reason}");
    assert!(reason.contains("the host killed it") && !reason.contains("memory"), "{reason}");
    assert!(has_exited(pid));
    assert_all_exited(&ids);
    fixture.assert_nothing_left();
}

#[test]
fn descendants_of_dead_process_end_before_restart() {
    let running = sigterm_ignoring();
    let mut events = running.host.events();
    let ids = grandchildren(&running);
    kill(running.pid());
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    assert_all_exited(&ids);
    running.serves();
    running.end();
}

#[test]
fn host_dropped_without_shutdown_leaves_nothing() {
    for ignores_sigterm in [false, true] {
        let running =
            if ignores_sigterm { sigterm_ignoring() } else { ProcessFixture::new().run(json!({})) };
        let (pid, ids) = (running.pid(), grandchildren(&running));
        let Running { fixture, host, handle } = running;
        drop(host);
        drop(handle);
        until("the process has exited", || has_exited(pid).then_some(()));
        assert_all_exited(&ids);
        fixture.assert_nothing_left();
    }
}

#[test]
fn host_dropped_inside_runtime_leaves_nothing() {
    let running = ProcessFixture::new().run(json!({}));
    let (pid, ids) = (running.pid(), grandchildren(&running));
    let Running { fixture, host, handle } = running;
    block_on(async move {
        let call = handle.execute(Request::text("x"));
        drop((host, handle));
        drop(call);
    });
    until("the process has exited", || has_exited(pid).then_some(()));
    assert_all_exited(&ids);
    fixture.assert_nothing_left();
}

#[test]
fn shutdown_ends_every_process() {
    let running = ProcessFixture::new().run(json!({}));
    let (pid, ids) = (running.pid(), grandchildren(&running));
    block_on(running.host.shutdown(Duration::from_secs(5)));
    assert!(has_exited(pid));
    assert_all_exited(&ids);
    running.fixture.assert_nothing_left();
}

#[test]
fn stopped_process_is_killed() {
    let running = sigterm_ignoring();
    let pid = running.pid();
    super::fixture::signal(pid, "STOP");
    until("the process is stopped", || (hotbay_tests::state_of(pid) == Some('T')).then_some(()));
    running.end();
}

#[test]
fn unload_during_backoff_cancels_restart() {
    let dies = json!({ "location": { "exit": 4 } });
    let behavior = json!({ "launches": [{}, dies] });
    let host = |builder: hotbay::HostBuilder| builder.quarantine(None);
    let running = ProcessFixture::new().run_with(behavior, |it| it, host);
    kill(running.pid());
    until("the restart fails", || (running.fixture.started().len() > 1).then_some(()));
    running.end();
}

#[test]
fn unload_during_restart_cancels_start() {
    let behavior = json!({ "launches": [{}, { "location": { "silent": true } }] });
    let host = |builder: hotbay::HostBuilder| builder.quarantine(None);
    let running = ProcessFixture::new().run_with(behavior, |it| it, host);
    kill(running.pid());
    until("the process restarts", || (running.fixture.started().len() > 1).then_some(()));
    running.end();
}

#[test]
fn unload_while_idle_returns_at_once() {
    let running = ProcessFixture::new().run(json!({ "serve": { "idle_exit_ms": 200 } }));
    let pid = running.pid();
    until("the process exits", || has_exited(pid).then_some(()));
    running.end();
}

fn host_of(plugins: &Plugins, start_timeout: Duration, drain_timeout: Duration) -> Host {
    let limits = limits(|limits| {
        limits.start_timeout = start_timeout;
        limits.drain_timeout = drain_timeout;
    });
    Host::builder().plugin_dir(plugins.dir()).limits(limits).quarantine(None).build().unwrap()
}

#[test]
fn unanswered_sync_call_ends_with_plugin_unload() {
    let plugins = Plugins::new();
    let host = host_of(&plugins, Duration::from_secs(30), Duration::ZERO);
    let began = plugins.dir().join("began");
    let wait = json!({ "do": "wait", "began": began, "until": plugins.dir().join("never") });
    let wait = wait.to_string();
    let plugin = loaded(&host, ProgramFolder::new(plugins.dir(), "program").install());
    let answer = thread::scope(|scope| {
        let call = scope.spawn(|| plugin.call(Request::json_text(&wait)));
        until("the call runs", || began.exists().then_some(()));
        block_on(host.unload("program")).unwrap();
        call.join().unwrap()
    });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Retired);
}

/// Set in the host to be killed: its plugins' folder.
const HOST: &str = "HOTBAY_TESTS_HOST_OF";

#[test]
fn killed_host_leaves_no_plugin_process() {
    const TEST: &str = concat!(module_path!(), "::killed_host_leaves_no_plugin_process");
    if let Some(dir) = env::var_os(HOST) {
        let dir = PathBuf::from(dir);
        host_until_killed(&[dir.join("one"), dir.join("two")], &dir.join("staged"));
        return;
    }
    let plugins = Plugins::new();
    for name in ["one", "two"] {
        ProgramFolder::new(plugins.dir(), name).set("package", "program").install();
    }
    fs::create_dir(plugins.dir().join("staged")).unwrap();
    for _ in 0..3 {
        let orphaned = orphan(rerun_test(TEST).env(HOST, plugins.dir()));
        assert_eq!(orphaned.launches, 2, "{orphaned:?}");
        // Per plugin: its process, three descendants and a guardian.
        assert_eq!(orphaned.processes, 10, "{orphaned:?}");
        assert!(orphaned.left.is_empty(), "{orphaned:?}");
    }
}
