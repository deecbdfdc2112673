//! Limits of plugins: input and output bytes, stacks, start and stop times of any length, and the
//! report of clamped limits.

use std::path::Path;
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, LoadStep, Output, Request};
use hotbay_tests::{
    Plugins, block_on, event, events_until, host, limits, loaded, quarantine, refused, reloaded,
    threads, unique, until,
};
use serde_json::json;

#[test]
fn payloads_over_limits_are_refused() {
    let plugins = Plugins::new();
    let bounds = json!({ "input_bytes": 100, "output_bytes": 100 });
    let plugin = plugins.add("bounded", "faulty").set("limits", bounds);
    let plugin = plugin.config(json!({ "scripted": true })).write();
    let host = host(&plugins);
    let bounded = loaded(&host, plugin);
    let input = |bytes: usize| format!("{:bytes$}", json!({ "output_bytes": 7 }).to_string());
    let output = |bytes: usize| json!({ "output_bytes": bytes }).to_string();
    for pooled in [false, true] {
        let call = |text: String| match pooled {
            false => bounded.call(Request::json_text(&text)),
            true => block_on(bounded.execute(Request::json_text(&text))),
        };
        assert_eq!(call(input(100)).unwrap().as_bytes().len(), 7);
        let error = call(format!("{} ", input(100))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let message = error.to_string();
        assert!(message.contains("101") && message.contains("limits.input_bytes"));
        assert_eq!(call(output(100)).unwrap().as_bytes().len(), 100);
        let error = call(output(101)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOutput);
        let message = error.to_string();
        assert!(message.contains("101") && message.contains("limits.output_bytes"));
    }
    // The refused output is freed.
    let mut events = host.events();
    block_on(host.unload("bounded")).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
}

#[test]
fn requested_limits_above_host_limits_are_clamped() {
    let plugins = Plugins::new();
    let action = json!({ "input_bytes": 1000, "workers": 1 });
    plugins.add("greedy", "faulty").set("limits", action).write();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let builder = builder.limits(limits(|limits| limits.max_input_bytes = 10));
    let host = builder.build().unwrap();
    let report = block_on(host.load_all());
    let notes = report.loaded[0].notes.join("\n");
    assert!(notes.contains("`limits.input_bytes` is 1000"), "{notes}");
    assert!(!notes.contains("workers"), "{notes}");
    let greedy = host.plugin("greedy").unwrap();
    let error = greedy.call(Request::text("more than ten")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn hanging_init_fails_load_and_is_listed() {
    let plugins = Plugins::new();
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let name = unique("endless");
    let left = plugins.dir().join("left");
    let config = json!({ "hang_in": "init", "release": release, "entered": entered, "left": left });
    let folder = plugins.add(&name, "faulty").config(config).write();
    // Long enough for a busy machine; nothing depends on the value.
    let wait = limits(|limits| limits.start_timeout = Duration::from_millis(300));
    let builder = Host::builder().limits(wait);
    let host = builder.register_fn("other", |_, _| Ok(Output::text("here"))).build().unwrap();
    let error = refused(&host, &folder);
    let message = error.full_message();
    assert_eq!((error.kind(), error.step()), (ErrorKind::StartFailed, Some(LoadStep::Init)));
    assert!(message.contains("did not finish within 300 ms"), "{message}");
    assert!(message.contains("are retained"), "{message}");
    let kept = host.retained();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].plugin.as_str(), name);
    assert_eq!(kept[0].generation, None);
    assert_eq!(kept[0].reason, "init: still running");
    assert!(host.plugin(&name).is_err());
    let other = host.plugin("other").unwrap();
    assert_eq!(other.call(Request::text("")).unwrap().as_bytes(), b"here");
    // The host may be dropped while the plugin hangs, and the plugin may finish after that.
    drop((host, other));
    release_and_see_it_end(&release, &left, &name);
}

#[test]
fn hanging_shutdown_is_kept_and_unload_returns() {
    let plugins = Plugins::new();
    let release = plugins.dir().join("go");
    let name = unique("stays");
    let left = plugins.dir().join("left");
    let config = json!({ "hang_in": "shutdown", "release": release, "left": left });
    let folder = plugins.add(&name, "faulty").config(config).write();
    let wait = limits(|limits| limits.stop_timeout = Duration::from_millis(50));
    let host = Host::builder().limits(wait).build().unwrap();
    loaded(&host, folder);
    let mut events = host.events();
    block_on(host.unload(&name)).unwrap();
    let kept = event(&mut events, |event| matches!(event, HostEvent::Kept { .. }));
    assert!(format!("{kept:?}").contains("shutdown: still running"), "{kept:?}");
    release_and_see_it_end(&release, &left, &name);
}

/// Releases the plugin, and waits for the end of the thread that opened the library.
fn release_and_see_it_end(release: &Path, left: &Path, name: &str) {
    std::fs::write(release, "").unwrap();
    until("it has ended", || left.exists().then_some(()));
    assert_eq!(threads(name).len(), 1);
}

fn is_closed(event: &HostEvent) -> bool {
    matches!(event, HostEvent::Closed { .. })
}

#[test]
fn too_small_stack_is_enlarged_and_reported() {
    let plugins = Plugins::new();
    let small = json!({ "stack_bytes": 1 });
    plugins.add("small", "faulty").set("limits", small).write();
    let host = host(&plugins);
    let report = block_on(host.load_all());
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    let info = host.list().pop().unwrap();
    for notes in [&report.loaded[0].notes, &info.notes] {
        let [note] = notes.as_slice() else { panic!("{notes:?}") };
        for part in ["`limits.stack_bytes` is 1;", "requires at least 262144"] {
            assert!(note.contains(part), "`{part}` in: {note}");
        }
    }
    let small = host.plugin("small").unwrap();
    assert_eq!(small.call(Request::text("here")).unwrap().as_bytes(), b"here");
    assert_eq!(block_on(small.execute(Request::text("there"))).unwrap().as_bytes(), b"there");
    block_on(small.health()).unwrap();
}

#[test]
fn infinite_waits_are_accepted() {
    for handover in ["overlap", "pause", "stop-first"] {
        let plugins = Plugins::new();
        let endless = limits(|limits| {
            limits.start_timeout = Duration::MAX;
            limits.drain_timeout = Duration::MAX;
            limits.pause_timeout = Duration::MAX;
            limits.stop_timeout = Duration::MAX;
        });
        let policy = quarantine(|policy| {
            policy.max_faults = 2;
            policy.window = Duration::MAX;
            policy.initial_backoff = Duration::MAX;
            policy.max_backoff = Duration::MAX;
        });
        let host = Host::builder().limits(endless).quarantine(Some(policy)).build().unwrap();
        let mut events = host.events();
        let install = |at: u32| {
            let config = json!({ "scripted": true, "at": at });
            plugins.add("endless", "faulty").set("handover", handover).config(config).write()
        };
        let handle = loaded(&host, install(1));
        let panics = json!({ "panic_in": "execute" }).to_string();
        let kind = |text: &str| handle.call(Request::json_text(text)).err().map(|e| e.kind());
        assert_eq!(kind("{}"), None, "{handover}");
        assert!(block_on(handle.execute(Request::json_text("{}"))).is_ok());
        for _ in 0..2 {
            assert_eq!(kind(&panics), Some(ErrorKind::Panicked));
        }
        assert_eq!(kind("{}"), Some(ErrorKind::Quarantined));
        event(&mut events, |event| matches!(event, HostEvent::Quarantined { .. }));
        let before = handle.pin().unwrap();
        thread::scope(|scope| {
            install(2);
            let reload = scope.spawn(|| reloaded(&host, "endless"));
            // The reload waits for the pin, or has given up on it.
            until("the pin is reported", || {
                let error = before.call(Request::json_text("{}")).err()?;
                (error.kind() == ErrorKind::Retired).then_some(())
            });
            drop(before);
            assert_eq!(reload.join().unwrap().get(), 2);
        });
        assert_eq!(kind("{}"), None, "{handover}");
        block_on(host.shutdown(Duration::MAX));
        let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
        let closed = seen.iter().filter(|event| is_closed(event)).count();
        assert_eq!(closed, 2, "{handover}: {seen:#?}");
    }
}
