//! Quarantine: plugins that keep failing are not called for a while, then probed, then called
//! again.

use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, PluginHandle, Quarantine, QuarantineReason, Request};
use hotbay_tests::{Plugins, block_on, event, loaded, quarantine, until};
use serde_json::json;

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
