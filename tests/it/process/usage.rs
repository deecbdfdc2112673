//! Memory and processor time of programs and isolated libraries, in their infos.

use std::time::Duration;

use hotbay::{ErrorKind, Host, PluginHandle, ProcessUsage, Request};
use hotbay_tests::{Plugins, block_on, loaded, runner, until};
use serde_json::{Value, json};

use super::fixture::ProcessFixture;

const HELD_BYTES: u64 = 64 << 20;

#[track_caller]
fn usage(host: &Host) -> ProcessUsage {
    host.list().remove(0).process_usage.expect("a process runs")
}

#[track_caller]
fn act(plugin: &PluginHandle, action: Value) {
    let reply = plugin.call(Request::json_text(&action.to_string()));
    assert!(reply.is_ok(), "{reply:?}");
}

/// Lets the fixture `confined` allocate, release, and use processor time.
#[track_caller]
fn check(host: &Host, plugin: &PluginHandle) {
    let before = usage(host);
    assert!((1..HELD_BYTES).contains(&before.memory_bytes), "{before:?}");
    assert!(before.peak_memory_bytes >= before.memory_bytes, "{before:?}");
    act(plugin, json!({ "do": "hold", "mebibytes": HELD_BYTES >> 20 }));
    until("the memory is in use", || {
        let now = usage(host);
        let is_seen = now.memory_bytes >= HELD_BYTES && now.peak_memory_bytes >= now.memory_bytes;
        is_seen.then_some(())
    });
    act(plugin, json!({ "do": "hold", "mebibytes": 0 }));
    let after = until("the memory is released", || {
        Some(usage(host)).filter(|now| now.memory_bytes < HELD_BYTES)
    });
    assert!(after.peak_memory_bytes >= HELD_BYTES, "{after:?}");
    let burn = Request::json_text(r#"{ "do": "burn", "millis": 400 }"#);
    let burn = burn.with_timeout(Duration::from_millis(50));
    let error = block_on(plugin.execute(burn)).expect_err("it exceeds its deadline");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.full_message());
    // The loop continues in the process.
    until("processor time is used", || {
        (usage(host).cpu_time >= after.cpu_time + Duration::from_millis(200)).then_some(())
    });
}

#[test]
fn usage_of_a_program_is_listed() {
    let program = |program: hotbay_tests::ProgramFolder| {
        program.built("confined", "confined").set("package", "confined")
    };
    let running = ProcessFixture::new().run_with(json!({}), program, |builder| builder);
    check(&running.host, &running.handle);
    running.end();
}

#[test]
fn usage_of_an_isolated_library_is_listed() {
    let plugins = Plugins::new();
    runner();
    let host = Host::builder().build().expect("a host");
    let plugin = plugins.add("confined", "confined").set("isolation", "process");
    let plugin = loaded(&host, plugin.write());
    check(&host, &plugin);
}

#[test]
fn usage_of_descendants_is_included() {
    let program = |program: hotbay_tests::ProgramFolder| {
        program.built("confined", "confined").set("package", "confined")
    };
    let running = ProcessFixture::new().run_with(json!({}), program, |builder| builder);
    let action = json!({ "do": "processes", "count": 3, "mebibytes": 32 });
    let text = action.to_string();
    let request = Request::json_text(&text).with_timeout(Duration::from_millis(50));
    let error = block_on(running.handle.execute(request)).expect_err("it waits");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.full_message());
    until("the memory of all is in use", || {
        (usage(&running.host).memory_bytes >= 96 << 20).then_some(())
    });
    running.end();
}

#[test]
fn plugin_without_a_process_uses_none() {
    let host = Host::builder()
        .register_fn("echo", |_, input| Ok(hotbay::Output::copy_of(input.as_bytes())))
        .build()
        .expect("a host");
    assert_eq!(host.list().remove(0).process_usage, None);
}
