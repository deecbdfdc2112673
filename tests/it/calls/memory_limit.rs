//! `limits.memory_bytes`: a plugin over its limit is not called until it uses less.

use std::path::{Path, PathBuf};

use hotbay::{ErrorKind, Host, HostEvent, PluginHandle, QuarantineReason, Request};
use hotbay_tests::{Plugins, block_on, event, limits, loaded, reloaded, until};
use serde_json::json;

const LIMIT_BYTES: u64 = 4 << 20;
const HELD_BYTES: u64 = 8 << 20;

fn install(plugins: &Plugins, config_number: u32) -> PathBuf {
    let config = json!({ "scripted": true, "number": config_number });
    let plugin = plugins.add("greedy", "faulty").config(config);
    plugin.set("limits", json!({ "memory_bytes": LIMIT_BYTES })).write()
}

/// Makes the plugin hold memory until a file exists.
fn hold(handle: &PluginHandle, release: Option<&Path>) {
    let hold = json!({ "hold_bytes": HELD_BYTES, "release": release });
    // Pooled, since the plugin starts a thread, which would leave thread-local values on this one.
    block_on(handle.execute(Request::json(&hold).unwrap())).unwrap();
}

fn refuses_everything(host: &Host, handle: &PluginHandle) {
    let outcomes =
        [handle.call(Request::json_text("{}")), block_on(handle.execute(Request::json_text("{}")))];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Quarantined);
        assert!(error.to_string().contains("limits.memory_bytes"), "{error}");
    }
    assert_eq!(host.list()[0].state, hotbay::PluginState::Quarantined);
}

fn quarantined(events: &mut hotbay::Events) {
    let message = event(events, |event| matches!(event, HostEvent::Quarantined { .. }));
    let HostEvent::Quarantined { reason, probe_in: None, .. } = message else {
        panic!("{message:?}");
    };
    let QuarantineReason::Memory { live_bytes, limit_bytes } = reason else {
        panic!("{reason:?}");
    };
    assert_eq!(limit_bytes, LIMIT_BYTES);
    assert!(u64::try_from(live_bytes).unwrap() >= HELD_BYTES, "{live_bytes}");
}

#[test]
fn memory_limit_refuses_calls_until_usage_drops() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let greedy = loaded(&host, install(&plugins, 1));
    let mut events = host.events();
    let before = host.list()[0].stats.live_bytes.expect("it counts");
    assert!(before >= 0 && u64::try_from(before).unwrap() < LIMIT_BYTES, "{before}");
    let release = plugins.dir().join("go");
    hold(&greedy, Some(&release));
    let live = host.list()[0].stats.live_bytes.unwrap();
    assert!(u64::try_from(live).unwrap() >= HELD_BYTES, "{live}");
    quarantined(&mut events);
    refuses_everything(&host, &greedy);
    std::fs::write(&release, "").unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Restored { .. }));
    assert!(greedy.call(Request::json_text("{}")).is_ok());
    assert!(block_on(greedy.execute(Request::json_text("{}"))).is_ok());
    // Its memory is still measured.
    std::fs::remove_file(&release).unwrap();
    hold(&greedy, Some(&release));
    quarantined(&mut events);
    std::fs::write(&release, "").unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Restored { .. }));
    block_on(host.unload("greedy")).unwrap();
    let closed = event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    let HostEvent::Closed { leaked_bytes: Some(leaked), .. } = closed else {
        panic!("{closed:?}");
    };
    assert!(leaked.unsigned_abs() < 1 << 20, "{leaked}");
}

#[test]
fn reload_resets_memory_and_reports_bytes_kept_by_old() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let greedy = loaded(&host, install(&plugins, 1));
    let mut events = host.events();
    hold(&greedy, None);
    quarantined(&mut events);
    refuses_everything(&host, &greedy);
    install(&plugins, 2);
    reloaded(&host, "greedy");
    assert!(greedy.call(Request::json_text("{}")).is_ok());
    assert!(block_on(greedy.execute(Request::json_text("{}"))).is_ok());
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
    assert!(u64::try_from(host.list()[0].stats.live_bytes.unwrap()).unwrap() < LIMIT_BYTES);
    let closed = event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    let HostEvent::Closed { leaked_bytes: Some(leaked), .. } = closed else {
        panic!("{closed:?}");
    };
    assert!(u64::try_from(leaked).unwrap() >= HELD_BYTES, "{leaked}");
    // The new build is measured as the old one was.
    hold(&greedy, None);
    quarantined(&mut events);
}

#[test]
fn host_memory_limit_applies_if_missing_or_lower() {
    let plugins = Plugins::new();
    plugins.add("greedy", "faulty").config(json!({ "scripted": true })).write();
    let more = plugins.add("more", "faulty").config(json!({ "scripted": true }));
    more.set("limits", json!({ "memory_bytes": LIMIT_BYTES * 10 })).write();
    let few = limits(|limits| limits.max_memory_bytes = Some(LIMIT_BYTES));
    let host = Host::builder().plugin_dir(plugins.dir()).limits(few).build().unwrap();
    let report = block_on(host.load_all());
    let notes: Vec<_> = report.loaded.iter().map(|one| one.notes.join("; ")).collect();
    assert_eq!(notes[0], "");
    assert!(notes[1].contains("`limits.memory_bytes` is 41943040"), "{notes:?}");
    let mut events = host.events();
    for name in ["greedy", "more"] {
        hold(&host.plugin(name).unwrap(), None);
        quarantined(&mut events);
    }
}

#[test]
fn memory_limit_affects_only_its_plugin() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let greedy = loaded(&host, install(&plugins, 1));
    let free = plugins.add("free", "faulty").config(json!({ "scripted": true })).write();
    let free = loaded(&host, free);
    let mut events = host.events();
    hold(&free, None);
    hold(&greedy, None);
    quarantined(&mut events);
    assert!(free.call(Request::json_text("{}")).is_ok());
    assert!(events.try_next().is_none());
    until("only one plugin is over its limit", || {
        let states: Vec<_> = host.list().iter().map(|info| info.state.as_str()).collect();
        (states == ["serving", "quarantined"]).then_some(())
    });
}
