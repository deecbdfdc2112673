//! Calls that exceed their deadlines and do not return: their workers are replaced, up to a limit;
//! then the plugin is not called until one call returns.

use std::time::Duration;

use hotbay::{ErrorKind, Events, Host, HostEvent, QuarantineReason, Request};
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, events_until, limits, loaded, quarantine, reloaded, threads,
    unique, until,
};
use serde_json::json;

use crate::scripted_plugin::{Fixture, LATE, NEVER, SOON, ScriptedPlugin};

/// Makes a call that exceeds its deadline inside the plugin and stays there.
fn abandon(scripted: &ScriptedPlugin, fixture: &Fixture, input: &str) {
    for attempt in 0.. {
        let (before, input) = (fixture.info().stats.running, format!("{input} ({attempt})"));
        let call = fixture.handle.execute(Request::text(&input).with_timeout(SOON * 4));
        let kind = block_on(call).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::DeadlineExceeded);
        // On a busy machine the deadline may pass before the call starts.
        let started = until("the call has started or been dropped", || {
            let started = scripted.inputs().contains(&input);
            (started || fixture.info().stats.running == before).then_some(started)
        });
        if started {
            return;
        }
    }
}

fn fixture(
    scripted: &ScriptedPlugin,
    workers: u32,
    max_abandoned_calls: u32,
    max_faults: u32,
) -> Fixture {
    let limits = limits(|limits| {
        (limits.max_workers, limits.max_abandoned_calls) = (workers, max_abandoned_calls);
    });
    let policy = quarantine(|policy| {
        (policy.max_faults, policy.window) = (max_faults, NEVER);
        (policy.initial_backoff, policy.max_backoff) = (NEVER, NEVER);
    });
    scripted.host(|builder| builder.limits(limits).quarantine(policy))
}

fn quarantined(events: &mut Events) -> (QuarantineReason, Option<Duration>) {
    let expected = |event: &HostEvent| matches!(event, HostEvent::Quarantined { .. });
    match event(events, expected) {
        HostEvent::Quarantined { reason, probe_in, .. } => (reason, probe_in),
        other => panic!("{other:?}"),
    }
}

fn restored(events: &mut Events) {
    event(events, |event| matches!(event, HostEvent::Restored { .. }));
}

#[test]
fn worker_of_abandoned_call_is_replaced() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 16, 100);
    for number in 1..=4 {
        abandon(&scripted, &fixture, &format!("wait {number}"));
        assert_eq!(block_on(fixture.execute("quick")).unwrap().as_bytes(), b"quick");
        until("only abandoned calls run", || {
            (fixture.info().stats.running == number).then_some(())
        });
    }
    scripted.release_all();
    until("all calls return", || (fixture.info().stats.running == 0).then_some(()));
    assert_eq!(block_on(fixture.execute("quick")).unwrap().as_bytes(), b"quick");
    assert_eq!(fixture.info().state, hotbay::PluginState::Serving);
}

#[test]
fn max_replaced_workers_quarantine_until_one_returns() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 3, 100);
    let mut events = fixture.host.events();
    for number in 0..3 {
        assert_eq!(fixture.info().state, hotbay::PluginState::Serving);
        abandon(&scripted, &fixture, &format!("wait {number}"));
    }
    let message = quarantined(&mut events);
    assert_eq!(message, (QuarantineReason::Stuck { calls: 3 }, None));
    let pinned = fixture.handle.pin().unwrap();
    let pipeline = fixture.host.pipeline(["scripted"]).unwrap();
    let outcomes = [
        fixture.handle.call(Request::text("refused")),
        pinned.call(Request::text("refused")),
        block_on(fixture.execute("refused")),
        block_on(pipeline.run(Request::text("refused"))),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Quarantined);
        assert!(error.to_string().contains("3 calls exceeded their deadlines"), "{error}");
    }
    assert_eq!(fixture.info().state, hotbay::PluginState::Quarantined);
    assert!(!scripted.inputs().contains(&"refused".to_owned()));
    scripted.release_one();
    restored(&mut events);
    assert_eq!(fixture.info().state, hotbay::PluginState::Serving);
    assert!(fixture.handle.call(Request::text("x")).is_ok());
    assert_eq!(block_on(fixture.execute("quick")).unwrap().as_bytes(), b"quick");
    // A second time.
    abandon(&scripted, &fixture, "wait again");
    assert!(matches!(quarantined(&mut events).0, QuarantineReason::Stuck { calls: 3 }));
    scripted.release_all();
    restored(&mut events);
}

#[test]
fn every_rejection_by_stuck_plugin_is_counted() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 1, 100);
    abandon(&scripted, &fixture, "wait");
    until("the plugin is stuck", || {
        (fixture.info().state == hotbay::PluginState::Quarantined).then_some(())
    });
    let before = fixture.info().stats.refused;
    for _ in 0..5 {
        let error = block_on(fixture.execute("refused")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Quarantined);
    }
    scripted.release_all();
    assert_eq!(fixture.info().stats.refused - before, 5, "calls that never reached the plugin");
}

#[test]
fn calls_queued_when_plugin_gets_stuck_fail() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 1, 100);
    let hangs = fixture.handle.execute(Request::text("wait").with_timeout(LATE));
    scripted.wait_started("wait");
    let queued: Vec<_> = (0..5).map(|_| fixture.execute("queued")).collect();
    assert_eq!(block_on(hangs).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    for call in queued {
        // Answered before the plugin was stuck, or rejected because it is.
        if let Err(error) = block_on(call) {
            assert_eq!(error.kind(), ErrorKind::Quarantined);
        }
    }
    scripted.release_all();
}

#[test]
fn abandoned_calls_are_faults_and_quarantine() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 16, 2);
    let mut events = fixture.host.events();
    abandon(&scripted, &fixture, "wait 1");
    abandon(&scripted, &fixture, "wait 2");
    let (reason, probe_in) = quarantined(&mut events);
    assert_eq!(reason, QuarantineReason::Faults { faults: 2 });
    assert_eq!(probe_in, Some(NEVER));
    let error = fixture.handle.call(Request::text("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Quarantined);
    scripted.release_all();
}

#[test]
fn late_call_that_panics_is_one_fault() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 16, 2);
    let mut events = fixture.host.events();
    let late = fixture.handle.execute(Request::text("wait and panic").with_timeout(LATE));
    scripted.wait_started("wait and panic");
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    scripted.release_all();
    event(&mut events, |event| matches!(event, HostEvent::Faulted { .. }));
    until("the call returns", || (fixture.info().stats.running == 0).then_some(()));
    assert_eq!(
        fixture.info().state,
        hotbay::PluginState::Serving,
        "two faults would quarantine the plugin; this call is one"
    );
}

#[test]
fn probe_past_deadline_fails() {
    let scripted = ScriptedPlugin::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 1;
        (policy.initial_backoff, policy.max_backoff) = (Duration::from_millis(1), NEVER);
    });
    let fixture = scripted.host(|builder| builder.quarantine(policy));
    let mut events = fixture.host.events();
    assert_eq!(
        fixture.handle.call(Request::text("panic")).unwrap_err().kind(),
        ErrorKind::Panicked
    );
    assert_eq!(quarantined(&mut events).1, Some(Duration::from_millis(1)));
    until("a probe starts and times out", || {
        let call = fixture.handle.execute(Request::text("wait").with_timeout(SOON));
        let kind = block_on(call).unwrap_err().kind();
        (kind == ErrorKind::DeadlineExceeded && scripted.inputs().len() > 1).then_some(())
    });
    scripted.release_all();
    scripted.wait_finished("wait");
    until("the probe returns", || (fixture.info().stats.running == 0).then_some(()));
    let mut seen = Vec::new();
    while let Some(event) = events.try_next() {
        seen.push(event);
    }
    let first = seen
        .iter()
        .find(|event| matches!(event, HostEvent::Quarantined { .. } | HostEvent::Restored { .. }));
    assert!(
        matches!(first, Some(HostEvent::Quarantined { probe_in: Some(wait), .. }) if wait.as_millis() >= 2),
        "the quarantine is extended, not ended: {seen:?}"
    );
}

#[test]
fn reload_clears_effects_of_stuck_calls() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .limits(limits(|limits| (limits.max_workers, limits.max_abandoned_calls) = (1, 1)))
        .build()
        .unwrap();
    let name = unique("stuck");
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let hang = json!({ "hang_in": "execute", "release": release, "entered": entered });
    let handle = loaded(&host, plugins.add(&name, "faulty").config(hang).write());
    let mut events = host.events();
    let late = handle.execute(Request::text("x").with_timeout(LATE));
    until("it hangs", || entered.exists().then_some(()));
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(matches!(quarantined(&mut events).0, QuarantineReason::Stuck { calls: 1 }));
    plugins.add(&name, "faulty").config(json!({ "answers": "fixed" })).write();
    let generation = reloaded(&host, &name);
    let replies = [handle.call(Request::text("x")), block_on(handle.execute(Request::text("x")))];
    for reply in replies {
        let reply = reply.unwrap();
        assert_eq!((reply.generation(), reply.as_bytes()), (generation, &b"fixed"[..]));
    }
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
    // The old build ends when its call returns.
    std::fs::write(release, "").unwrap();
    event(
        &mut events,
        |event| matches!(event, HostEvent::Closed { generation: old, .. } if *old < generation),
    );
}

#[test]
fn disabled_quarantine_bounds_threads_without_rejection() {
    let scripted = ScriptedPlugin::new();
    let name = unique("bounded");
    let few = limits(|limits| (limits.max_workers, limits.max_abandoned_calls) = (2, 3));
    let builder = Host::builder().limits(few).quarantine(None);
    let host = scripted.register(builder, &name).build().unwrap();
    let handle = host.plugin(&name).unwrap();
    let mut events = host.events();
    for _ in 0..20 {
        let call = handle.execute(Request::text("wait").with_timeout(Duration::from_millis(5)));
        let error = block_on(call).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(threads(&name).len() <= 5, "{:?}", threads(&name));
        // Only pooled calls need a worker.
        assert!(handle.call(Request::text("x")).is_ok());
    }
    assert!(host.list()[0].stats.running <= 5);
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
    scripted.release_all();
    assert!(block_on(handle.execute(Request::text("x"))).is_ok());
    until("all calls return", || (host.list()[0].stats.running == 0).then_some(()));
    until("surplus workers exit", || (threads(&name).len() <= 2).then_some(()));
    block_on(host.shutdown(LIMIT));
    assert_eq!(threads(&name), Vec::<String>::new());
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let quarantined = |event: &HostEvent| matches!(event, HostEvent::Quarantined { .. });
    assert!(!seen.iter().any(quarantined), "{seen:?}");
}

#[test]
fn one_late_call_suffices_without_replacements() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 0, 100);
    let mut events = fixture.host.events();
    abandon(&scripted, &fixture, "wait");
    assert_eq!(quarantined(&mut events).0, QuarantineReason::Stuck { calls: 1 });
    scripted.release_all();
    restored(&mut events);
    assert!(block_on(fixture.execute("x")).is_ok());
}

#[test]
fn blocked_plugin_does_not_delay_shutdown_with_grace() {
    let scripted = ScriptedPlugin::new();
    let fixture = fixture(&scripted, 1, 16, 100);
    let mut events = fixture.host.events();
    abandon(&scripted, &fixture, "wait");
    block_on(fixture.host.shutdown(SOON));
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let kept = seen.iter().find_map(|event| match event {
        HostEvent::Kept { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    assert!(kept.is_some_and(|reason| reason.contains("still run")), "{seen:?}");
    scripted.release_all();
}
