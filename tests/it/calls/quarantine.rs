//! Quarantine: plugins that keep failing are not called for a while, then probed, then called
//! again.

use std::thread;
use std::time::Duration;

use hotbay::{
    Error, ErrorKind, Host, HostEvent, PluginHandle, Quarantine, QuarantineReason, Request,
};
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, events_until, limits, loaded, quarantine, reloaded, until,
};
use serde_json::{Value, json};

use crate::scripted_plugin::{LATE, NEVER, SOON, ScriptedPlugin};

/// Loads a plugin whose first `panics` calls panic.
fn failing(plugins: &Plugins, panics: u32, policy: Option<Quarantine>) -> (Host, PluginHandle) {
    let host = Host::builder().quarantine(policy).build().expect("a host");
    let config = json!({ "panic_in": "execute", "panics": panics });
    let handle = loaded(&host, plugins.add("failing", "faulty").config(config).write());
    (host, handle)
}

fn kind_of(handle: &PluginHandle) -> Option<ErrorKind> {
    let outcome = handle.call(Request::text("x"));
    outcome.err().map(|error| error.kind())
}

/// Calls until a probe passes, and returns its error kind.
fn probe(handle: &PluginHandle) -> Option<ErrorKind> {
    until("a probe passes", || {
        let kind = kind_of(handle);
        (kind != Some(ErrorKind::Quarantined)).then_some(kind)
    })
}

#[test]
fn faults_quarantine_and_probe_restores_or_extends() {
    let plugins = Plugins::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 3;
        policy.initial_backoff = Duration::from_millis(5);
        policy.max_backoff = Duration::from_millis(8);
    });
    let (host, handle) = failing(&plugins, 5, Some(policy));
    let mut events = host.events();
    let quarantined = |event: &HostEvent| matches!(event, HostEvent::Quarantined { .. });
    for _ in 0..3 {
        assert_eq!(kind_of(&handle), Some(ErrorKind::Panicked));
    }
    let mut waits = Vec::new();
    for _ in 0..3 {
        match event(&mut events, quarantined) {
            HostEvent::Quarantined { plugin, reason, probe_in } => {
                assert_eq!(plugin, *handle.name());
                let QuarantineReason::Faults { faults } = reason else { panic!("{reason:?}") };
                waits.push((faults, probe_in.map(|wait| wait.as_millis())));
            }
            other => panic!("{other:?}"),
        }
        if waits.len() < 3 {
            assert_eq!(probe(&handle), Some(ErrorKind::Panicked));
        }
    }
    assert_eq!(waits, [(3, Some(5)), (1, Some(8)), (1, Some(8))]);
    assert_eq!(probe(&handle), None);
    event(&mut events, |event| matches!(event, HostEvent::Restored { .. }));
    for _ in 0..10 {
        assert_eq!(kind_of(&handle), None);
    }
}

#[test]
fn quarantined_plugin_rejects_all_calls_and_is_listed() {
    let plugins = Plugins::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 1;
        policy.initial_backoff = Duration::from_secs(3600);
        policy.max_backoff = Duration::from_secs(3600);
    });
    let (host, handle) = failing(&plugins, 1, Some(policy));
    let pinned = handle.pin().unwrap();
    assert_eq!(kind_of(&handle), Some(ErrorKind::Panicked));
    let errors = [
        handle.call(Request::text("x")).unwrap_err(),
        block_on(handle.execute(Request::text("x"))).unwrap_err(),
        pinned.call(Request::text("x")).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Quarantined);
        assert!(error.to_string().contains("the next probe is in"), "{error}");
        assert!(error.is_retryable());
        let wait = error.retry_after().expect("the time until the next probe");
        assert!(wait > Duration::from_secs(3000) && wait <= Duration::from_secs(3600), "{wait:?}");
    }
    let retry_after = handle.call(Request::text("x")).unwrap_err().retry_after().unwrap();
    assert!(retry_after <= Duration::from_secs(3600) && !retry_after.is_zero());
    let info = &host.list()[0];
    assert_eq!((info.state.as_str(), info.stats.faults, info.stats.refused), ("quarantined", 1, 4));
    // A new load starts with a clean record.
    drop(pinned);
    block_on(host.unload("failing")).unwrap();
    let again = loaded(&host, plugins.dir().join("failing"));
    assert_eq!(kind_of(&again), Some(ErrorKind::Panicked));
}

#[test]
fn disabled_quarantine_makes_every_call() {
    let plugins = Plugins::new();
    let (host, handle) = failing(&plugins, 50, None);
    for _ in 0..50 {
        assert_eq!(kind_of(&handle), Some(ErrorKind::Panicked));
    }
    assert_eq!(kind_of(&handle), None);
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
}

#[test]
fn plugin_errors_are_not_faults() {
    let plugins = Plugins::new();
    let policy = quarantine(|policy| policy.max_faults = 1);
    let host = Host::builder().quarantine(policy).build().unwrap();
    let config = json!({ "error_in": "execute" });
    let handle = loaded(&host, plugins.add("sorry", "faulty").config(config).write());
    for _ in 0..20 {
        assert_eq!(kind_of(&handle), Some(ErrorKind::Plugin));
    }
}

fn is_closed(event: &HostEvent) -> bool {
    matches!(event, HostEvent::Closed { .. })
}

#[test]
fn late_fault_of_old_build_is_not_counted_for_new() {
    const CALLS: usize = 5;
    let plugins = Plugins::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 2;
        policy.window = LIMIT * 60;
        policy.initial_backoff = LIMIT * 60;
        policy.max_backoff = LIMIT * 60;
    });
    let host = Host::builder().quarantine(Some(policy)).build().unwrap();
    let mut events = host.events();
    let install = |at: u32| {
        plugins.add("heir", "faulty").config(json!({ "scripted": true, "at": at })).write()
    };
    let handle = loaded(&host, install(1));
    let release = plugins.dir().join("go");
    let call_with = |action: Value| {
        let outcome = handle.call(Request::json_text(&action.to_string()));
        outcome.map(|reply| reply.generation().get())
    };
    let panicked_in = |outcome: Result<u64, Error>| {
        let error = outcome.expect_err("it panics");
        assert_eq!(error.kind(), ErrorKind::Panicked, "{}", error.full_message());
        error.generation().map(|generation| generation.get())
    };
    thread::scope(|scope| {
        let entered: Vec<_> = (0..CALLS).map(|at| plugins.dir().join(format!("in-{at}"))).collect();
        let old: Vec<_> = entered
            .iter()
            .map(|entered| {
                let mut action = json!({ "hang_in": "execute", "panic_in": "execute" });
                action["release"] = json!(release);
                action["entered"] = json!(entered);
                scope.spawn(|| call_with(action))
            })
            .collect();
        until("all calls run", || entered.iter().all(|file| file.exists()).then_some(()));
        install(2);
        assert_eq!(reloaded(&host, "heir").get(), 2);
        std::fs::write(&release, "").unwrap();
        for call in old {
            assert_eq!(panicked_in(call.join().unwrap()), Some(1));
        }
    });
    let seen = events_until(&mut events, is_closed);
    let faults = seen.iter().filter(|event| matches!(event, HostEvent::Faulted { .. })).count();
    assert_eq!(faults, CALLS, "{seen:#?}");
    let quarantined = |event: &HostEvent| matches!(event, HostEvent::Quarantined { .. });
    assert!(!seen.iter().any(quarantined), "{seen:#?}");
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
    // The new build counts only its own faults.
    assert_eq!(panicked_in(call_with(json!({ "panic_in": "execute" }))), Some(2));
    assert_eq!(call_with(json!({})).unwrap(), 2);
    assert_eq!(panicked_in(call_with(json!({ "panic_in": "execute" }))), Some(2));
    assert_eq!(call_with(json!({})).unwrap_err().kind(), ErrorKind::Quarantined);
    event(&mut events, quarantined);
}

#[test]
fn late_call_from_before_quarantine_is_not_probe() {
    let scripted = ScriptedPlugin::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 2;
        (policy.initial_backoff, policy.max_backoff) = (SOON / 30, NEVER);
    });
    let three = limits(|limits| limits.max_workers = 3);
    let fixture = scripted.host(|builder| builder.limits(three).quarantine(policy));
    let mut events = fixture.host.events();
    let old = fixture.handle.execute(Request::text("wait old").with_timeout(LATE));
    scripted.wait_started("wait old");
    for _ in 0..2 {
        let error = fixture.handle.call(Request::text("panic")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
    }
    event(&mut events, |event| matches!(event, HostEvent::Quarantined { .. }));
    thread::scope(|scope| {
        let probe = scope.spawn(|| {
            until("a probe is let through", || {
                let outcome = fixture.handle.call(Request::text("wait probe"));
                (!outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Quarantined))
                    .then(|| outcome.map(drop))
            })
        });
        scripted.wait_started("wait probe");
        assert_eq!(block_on(old).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        scripted.release_all();
        probe.join().unwrap().unwrap();
    });
    let next = event(&mut events, |event| {
        matches!(event, HostEvent::Quarantined { .. } | HostEvent::Restored { .. })
    });
    assert!(matches!(next, HostEvent::Restored { .. }), "{next:?}");
}
