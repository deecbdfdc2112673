//! Whatever a library does to its process, the host lives, the error names the cause, and the plugin
//! serves again.

use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, PluginHandle, Request};
use hotbay_tests::{Plugins, block_on, event, loaded, runner, until};
use serde_json::json;

use super::process_of;

/// The ways to end a process, and what the report of each contains.
const CRASHES: [(&str, &str); 6] = [
    ("segfault", "libcrashing.so` was killed by SIGSEGV"),
    ("abort", "was killed by SIGABRT"),
    ("exit", "exited with code 3"),
    ("overflow", "has overflowed its stack"),
    ("double-panic", "was killed by SIGABRT"),
    ("allocation", "was killed by SIGABRT"),
];

fn crashing(plugins: &Plugins) -> (Host, PluginHandle) {
    runner();
    let host = Host::builder().quarantine(None).build().unwrap();
    let plugin = plugins.add("crashing", "crashing").set("isolation", "process");
    let handle = loaded(&host, plugin.write());
    (host, handle)
}

#[test]
fn crash_of_library_ends_only_its_own_process() {
    let plugins = Plugins::new();
    let (host, plugin) = crashing(&plugins);
    let mut events = host.events();
    for (crash, expected) in CRASHES {
        let before = process_of(&plugin).expect("it serves");
        assert_ne!(before, std::process::id());
        let error = plugin.call(Request::text(crash)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{crash}: {}", error.full_message());
        let exited = event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
        let HostEvent::ChildExited { pid, reason, .. } = exited else { panic!("{exited:?}") };
        assert_eq!(pid, before, "{crash}");
        assert!(reason.contains(expected), "{crash}: {reason}");
        let after = until("it serves again", || process_of(&plugin));
        assert_ne!(after, before, "{crash}");
    }
    assert_eq!(host.list()[0].stats.exits, CRASHES.len() as u64);
}

#[test]
fn pooled_call_of_crashing_library_reports_the_exit() {
    let plugins = Plugins::new();
    let (_host, plugin) = crashing(&plugins);
    let error = block_on(plugin.execute(Request::text("segfault"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    until("it serves again", || process_of(&plugin));
}

#[test]
fn repeated_crashes_quarantine_the_library() {
    let plugins = Plugins::new();
    runner();
    let host = Host::builder().build().unwrap();
    let plugin = plugins.add("crashing", "crashing").set("isolation", "process");
    let plugin = loaded(&host, plugin.write());
    let error = until("it is quarantined", || {
        let error = plugin.call(Request::text("abort")).err()?;
        (error.kind() == ErrorKind::Quarantined).then_some(error)
    });
    assert_eq!(error.kind(), ErrorKind::Quarantined);
}

#[test]
fn endless_loop_ends_with_its_process() {
    let plugins = Plugins::new();
    runner();
    let limits = hotbay_tests::limits(|limits| {
        limits.process_health_timeout = Duration::from_millis(500);
    });
    let host = Host::builder().quarantine(None).limits(limits).build().unwrap();
    let plugin = plugins.add("crashing", "crashing").set("isolation", "process");
    let plugin = loaded(&host, plugin.write());
    let request = || Request::text("spin").with_timeout(Duration::from_millis(50));
    for error in [plugin.call(request()), block_on(plugin.execute(request()))] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }
    // It still serves: the loops occupy threads of its process, which the unload ends.
    let process = process_of(&plugin).expect("it serves");
    block_on(host.unload("crashing")).unwrap();
    until("its process has exited", || hotbay_tests::state_of(process).is_none().then_some(()));
    assert!(host.retained().is_empty());
}

#[test]
fn thread_left_running_retains_nothing() {
    let plugins = Plugins::new();
    let (host, plugin) = crashing(&plugins);
    assert_eq!(plugin.call(Request::text("thread")).unwrap().as_bytes(), b"thread");
    let process = process_of(&plugin).expect("it serves");
    block_on(host.unload("crashing")).unwrap();
    until("its process has exited", || hotbay_tests::state_of(process).is_none().then_some(()));
    assert!(host.retained().is_empty());
}

#[test]
fn panic_is_the_same_error_as_in_this_process() {
    let plugins = Plugins::new();
    let (host, isolated) = crashing(&plugins);
    let own = loaded(&host, plugins.add("own", "crashing").write());
    let outcomes = [&isolated, &own].map(|plugin| {
        let direct = plugin.call(Request::text("panic")).unwrap_err();
        let pooled = block_on(plugin.execute(Request::text("panic"))).unwrap_err();
        [direct, pooled].map(|error| {
            let fault = error.fault().expect("a fault");
            let (message, location) = (fault.message().to_owned(), fault.location().is_some());
            (error.kind(), message, location, fault.location().map(str::to_owned))
        })
    });
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0][0].1, "caught");
    assert!(outcomes[0][0].2);
    assert_eq!(host.list()[0].stats.exits, 0);
}

#[test]
fn crash_during_start_fails_the_load() {
    let plugins = Plugins::new();
    runner();
    let host = Host::builder().build().unwrap();
    let plugin = plugins.add("crashing", "crashing").set("isolation", "process");
    let folder = plugin.config(json!({ "crash": true })).write();
    let error = hotbay_tests::refused(&host, folder);
    assert_eq!(error.kind(), ErrorKind::StartFailed);
    assert!(error.full_message().contains("SIGABRT"), "{}", error.full_message());
}
