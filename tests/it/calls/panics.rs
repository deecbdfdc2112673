//! Panics: each becomes a typed fault, prints nothing, and affects nothing else.

use std::sync::atomic::{AtomicU32, Ordering};

use hotbay::hotbay_plugin::prelude::*;
use hotbay::{Error, ErrorKind, Fault, Host, HostEvent, Manifest, Output, Request, Snapshot};
use hotbay_tests::{
    Plugins, block_on, event, host, loaded, mappings, quarantine, refused, run_in_subprocess,
    unique,
};
use serde_json::{Value, json};

/// Checks the fault of an error, and that the message contains its location in the plugin.
#[track_caller]
fn check(error: &Error, kind: ErrorKind, message: &str) {
    let reported = error.full_message();
    assert_eq!(error.kind(), kind, "{reported}");
    let fault = error.fault().expect("a fault");
    assert_eq!(fault.message(), message);
    let location = fault.location().expect("a location");
    assert!(location.contains("behavior.rs:"), "{location}");
    assert!(reported.contains(message) && reported.contains(location), "{reported}");
    assert!(error.plugin_error().is_none());
}

#[track_caller]
fn assert_still_serves(handle: &hotbay::PluginHandle) {
    let reply = handle.call(Request::text("still serving")).expect("an answer");
    assert_eq!(reply.as_bytes(), b"still serving");
}

#[test]
fn panic_at_each_entry_point_is_isolated_fault() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let good = loaded(&host, plugins.add("good", "faulty").write());
    let faulty = |entry: &str| {
        let config = json!({ "panic_in": entry, "count": true });
        plugins.add(entry, "faulty").config(config).write()
    };
    for entry in ["validate", "init", "health"] {
        let error = refused(&host, faulty(entry));
        check(&error, ErrorKind::StartFailed, &format!("in {entry}, on request"));
        assert_still_serves(&good);
    }
    let error = block_on(host.load_with(
        faulty("restore"),
        hotbay::LoadOptions::new().with_state(Snapshot::new(1, "3")),
    ));
    let error = error.expect_err("restore panics");
    check(&error, ErrorKind::StartFailed, "in restore, on request");

    let execute = loaded(&host, faulty("execute"));
    let message = "in execute, on request";
    let error = execute.call(Request::text("x")).expect_err("a panic");
    check(&error, ErrorKind::Panicked, message);
    let error = block_on(execute.execute(Request::text("x"))).expect_err("a panic");
    check(&error, ErrorKind::Panicked, message);
    assert_eq!(error.plugin(), Some(execute.name()));
    assert!(error.generation().is_some());
    let pinned = execute.pin().expect("a pin");
    let error = pinned.call(Request::text("x")).expect_err("a panic");
    check(&error, ErrorKind::Panicked, message);

    let snapshot = loaded(&host, faulty("snapshot"));
    let error = block_on(snapshot.snapshot()).expect_err("a panic");
    check(&error, ErrorKind::Panicked, "in snapshot, on request");
    assert_still_serves(&good);
}

#[test]
fn panic_in_shutdown_keeps_library() {
    for entry in ["shutdown", "drop"] {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let good = loaded(&host, plugins.add("good", "faulty").write());
        let config = json!({ "panic_in": entry });
        loaded(&host, plugins.add("bad", "faulty").config(config).write());
        let mut events = host.events();
        block_on(host.unload("bad")).expect("the plugin is unloaded nevertheless");
        let failed = |event: &HostEvent| matches!(event, HostEvent::ShutdownFailed { .. });
        let HostEvent::ShutdownFailed { reason, .. } = event(&mut events, failed) else {
            unreachable!("the loop waits for this event");
        };
        let message = format!("in {entry}, on request");
        assert!(reason.contains(&message), "{reason}");
        assert!(reason.contains("behavior.rs:"), "{reason}");
        let kept = |event: &HostEvent| matches!(event, HostEvent::Kept { .. });
        event(&mut events, kept);
        assert_eq!(host.retained().len(), 1);
        assert!(host.retained()[0].reason.starts_with("shutdown: "));
        assert_still_serves(&good);
    }
}

#[test]
fn panic_in_drop_after_failed_start_is_harmless() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let name = unique("undone");
    let config = json!({ "error_in": "health", "panic_in": "drop" });
    let folder = plugins.add(&name, "faulty").config(config).write();
    let error = refused(&host, folder);
    assert_eq!(error.plugin_error().map(PluginError::code), Some(500));
    assert_eq!(mappings(&name), 0);
}

#[test]
fn any_panic_payload_is_caught_and_freed() {
    let plugins = Plugins::new();
    let faulty = plugins.add("scripted", "faulty").config(json!({ "scripted": true }));
    let builder = Host::builder().quarantine(None);
    let host = builder.build().expect("a host");
    let faulty = loaded(&host, faulty.write());
    let fault = |action: Value| -> Fault {
        let action = action.to_string();
        let error = block_on(faulty.execute(Request::json_text(&action)));
        let error = error.expect_err("a panic");
        error.fault().expect("a fault").clone()
    };
    let no_text = "(panic payload is not a string)";
    for (payload, message) in [
        ("text", "a text, on request"),
        ("string", "in execute, on request"),
        ("number", no_text),
        ("bomb", no_text),
    ] {
        let fault = fault(json!({ "panic_in": "execute", "payload": payload }));
        assert_eq!(fault.message(), message, "{payload}");
        let location = fault.location().unwrap_or_default();
        assert!(location.contains("behavior.rs:"), "{payload}: {location}");
    }
    // This panic bypasses the hook, and earlier panics left nothing behind.
    let fault = fault(json!({ "panic_in": "execute", "resume": true }));
    assert_eq!(fault.message(), "resumed, on request");
    assert_eq!(fault.location(), None);
}

#[test]
fn panic_frames_are_captured_only_when_enabled() {
    let plugins = Plugins::new();
    let config = json!({ "panic_in": "execute" });
    let folder = plugins.add("framed", "faulty").config(config).write();
    for want in [false, true] {
        let builder = Host::builder().capture_panic_backtrace(want);
        let host = builder.build().expect("a host");
        let framed = loaded(&host, &folder);
        let error = framed.call(Request::text("x")).expect_err("a panic");
        let frames = error.fault().expect("a fault").frames();
        assert_eq!(!frames.is_empty(), want && cfg!(unix));
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn panic_on_plugin_thread_emits_event_and_counts_as_fault() {
    let plugins = Plugins::new();
    let policy = quarantine(|policy| policy.max_faults = 2);
    let host = Host::builder().quarantine(policy).build().expect("a host");
    let config = json!({ "thread_panics": true });
    let handle = loaded(&host, plugins.add("threads", "faulty").config(config).write());
    let mut events = host.events();
    for _ in 0..2 {
        let reply = block_on(handle.execute(Request::text("x")));
        reply.expect("the call itself succeeds");
        let faulted = |event: &HostEvent| matches!(event, HostEvent::Faulted { .. });
        match event(&mut events, faulted) {
            HostEvent::Faulted { plugin, fault, own_thread, .. } => {
                assert!(own_thread);
                assert_eq!(plugin, *handle.name());
                assert_eq!(fault.message(), "on a plugin thread, on request");
                assert!(fault.location().expect("a location").contains("threads.rs:"));
            }
            other => panic!("{other:?}"),
        }
    }
    let error = handle.call(Request::text("x")).expect_err("quarantined");
    assert_eq!(error.kind(), ErrorKind::Quarantined);
}

/// Panics although it is compiled in, sometimes while another panic is handled.
struct Linked;

impl Plugin for Linked {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        assert!(config.get("panic").is_none(), "in init, on request");
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        match input.as_text()? {
            "panic" => panic!("linked, on request"),
            "nested" => {
                let caught = std::panic::catch_unwind(|| panic!("caught by the author"));
                Ok(Output::text(format!("{}", caught.is_err())))
            }
            text => Ok(Output::text(text)),
        }
    }
}

fn linked(name: &str) -> Manifest {
    Manifest::new(name, "1.0.0").expect("a manifest")
}

#[test]
fn compiled_in_plugin_panic_is_fault() {
    let calls = AtomicU32::new(0);
    let builder = Host::builder().register::<Linked>(linked("linked"));
    let host = builder
        .register_fn("function", move |_, _| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("a function, on request"),
            _ => Ok(Output::text("still running")),
        })
        .build()
        .expect("a host");
    let linked_one = host.plugin("linked").expect("the plugin is registered");
    let error = linked_one.call(Request::text("panic")).expect_err("a panic");
    let fault = error.fault().expect("a fault");
    assert_eq!(fault.message(), "linked, on request");
    assert!(fault.location().expect("a location").contains(file!()));
    let reply = linked_one.call(Request::text("nested")).expect("an answer");
    assert_eq!(reply.as_text().expect("text"), "true");

    let function = host.plugin("function").expect("the plugin is registered");
    let error = function.call(Request::text("x")).expect_err("a panic");
    assert_eq!(error.kind(), ErrorKind::Panicked);
    let reply = function.call(Request::text("x")).expect("an answer");
    assert_eq!(reply.as_text().expect("text"), "still running");

    let config = linked("never").with_config(json!({ "panic": true }));
    let builder = Host::builder().register::<Linked>(config.expect("a config"));
    let error = builder.build().expect_err("init panics");
    assert_eq!(error.fault().map(Fault::message), Some("in init, on request"));
}

/// Set in the subprocess that panics; its parent checks the output.
const CHILD: &str = "HOTBAY_TESTS_PANICS_IN_SILENCE";

#[test]
fn panics_print_nothing_with_backtraces_enabled() {
    if std::env::var_os(CHILD).is_some() {
        return panic_everywhere();
    }
    let test = concat!(module_path!(), "::panics_print_nothing_with_backtraces_enabled");
    let output = run_in_subprocess(test, &[(CHILD, "1"), ("RUST_BACKTRACE", "1")]);
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(printed, "", "printed");
    let reported = String::from_utf8_lossy(&output.stdout);
    assert!(!reported.contains("on request"), "{reported}");
}

fn panic_everywhere() {
    let plugins = Plugins::new();
    let builder = Host::builder().quarantine(None);
    let builder = builder.register::<Linked>(linked("linked"));
    let host = builder.build().expect("a host");
    for entry in ["validate", "init", "health", "shutdown", "drop"] {
        let config = json!({ "panic_in": entry });
        let folder = plugins.add(entry, "faulty").config(config).write();
        // Some of them are refused; all of them panic.
        let _ = block_on(host.load(folder));
    }
    let faulty = plugins.add("scripted", "faulty").config(json!({ "scripted": true }));
    let faulty = loaded(&host, faulty.write());
    for action in [
        json!({ "panic_in": "execute" }),
        json!({ "panic_in": "execute", "payload": "bomb" }),
        json!({ "thread_panics": true }),
    ] {
        let action = action.to_string();
        let _ = faulty.call(Request::json_text(&action));
        let _ = block_on(faulty.execute(Request::json_text(&action)));
    }
    let linked = host.plugin("linked").expect("the plugin is registered");
    linked.call(Request::text("panic")).expect_err("a panic");
    drop(host);
}

fn is_closed(event: &HostEvent) -> bool {
    matches!(event, HostEvent::Closed { .. })
}

#[test]
fn huge_panic_message_reaches_caller_truncated() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let config = json!({ "panic_in": "execute", "panic_bytes": 1 << 20 });
    let handle = loaded(&host, plugins.add("verbose", "faulty").config(config).write());
    let check = |message: &str| {
        let text = message.strip_suffix("… (cut)").expect("it is cut");
        // One byte less if a character would be split.
        assert!((16 << 10) - message.len() <= 1, "{}", message.len());
        let letters = text.strip_prefix('a').expect("the text starts with `a`");
        assert!(letters.chars().all(|letter| letter == 'é'));
    };
    for pooled in [false, true] {
        let error = match pooled {
            false => handle.call(Request::text("x")).unwrap_err(),
            true => block_on(handle.execute(Request::text("x"))).unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let fault = error.fault().unwrap();
        check(fault.message());
        assert!(fault.location().is_some_and(|at| at.contains("behavior.rs")), "{fault:?}");
        match event(&mut events, |event| matches!(event, HostEvent::Faulted { .. })) {
            HostEvent::Faulted { fault, .. } => check(fault.message()),
            other => panic!("{other:?}"),
        }
    }
    // Its memory is freed.
    block_on(host.unload("verbose")).unwrap();
    match event(&mut events, is_closed) {
        HostEvent::Closed { leaked_bytes, .. } => {
            assert!(leaked_bytes.is_none_or(|bytes| bytes < 1 << 20), "{leaked_bytes:?}");
        }
        other => panic!("{other:?}"),
    }
}
