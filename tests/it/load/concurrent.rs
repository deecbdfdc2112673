//! Concurrent operations: loads of one name, calls while plugins load and unload, and shutdown
//! meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, HostEvent, Request};
use hotbay_tests::{Plugins, block_on, events_until, host, loaded, mappings, unique, until};
use serde_json::json;

#[test]
fn concurrent_loads_of_one_plugin_have_one_winner() {
    let plugins = Plugins::new();
    let folder = plugins.add("wanted", "faulty").write();
    let host = host(&plugins);
    let kinds: Vec<_> = thread::scope(|scope| {
        let loads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| block_on(host.load(&folder)).err().map(|error| error.kind())))
            .collect();
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    let won = kinds.iter().filter(|kind| kind.is_none()).count();
    assert_eq!(won, 1, "{kinds:?}");
    assert!(kinds.iter().flatten().all(|kind| *kind == ErrorKind::Duplicate), "{kinds:?}");
    assert!(host.plugin("wanted").unwrap().call(Request::text("x")).is_ok());
}

#[test]
fn callers_see_only_retired_during_load_unload_cycles() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let name = unique("comes");
    let folder = plugins.add(&name, "faulty").write();
    let stop = AtomicBool::new(false);
    let right = [ErrorKind::Retired, ErrorKind::NotFound];
    let call = |pooled: bool| {
        while !stop.load(Ordering::Relaxed) {
            let Ok(handle) = host.plugin(&name) else {
                thread::yield_now();
                continue;
            };
            // Too long for an inline payload.
            let text = "a text of more than twenty-four bytes";
            let outcome = match pooled {
                false => handle.call(Request::text(text)),
                true => block_on(handle.execute(Request::text(text))),
            };
            match outcome {
                Ok(reply) => assert_eq!(reply.as_bytes(), text.as_bytes()),
                Err(error) => assert!(right.contains(&error.kind()), "{}", error.full_message()),
            }
        }
    };
    thread::scope(|scope| {
        for pooled in [false, true, true] {
            scope.spawn(move || call(pooled));
        }
        for _ in 0..15 {
            let handle = loaded(&host, &folder);
            let served = || handle.call(Request::text("x")).ok().map(drop);
            until("the plugin serves", served);
            block_on(host.unload(&name)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Replies held at the wrong moment may have kept some.
    for kept in host.retained() {
        assert!(kept.reason.starts_with("outputs: "), "{}", kept.reason);
    }
}

#[test]
fn shutdown_during_loads_leaves_nothing_serving() {
    let plugins = Plugins::new();
    let stem = unique("late");
    for number in 0..6 {
        plugins.add(&format!("{stem}-{number}"), "faulty").write();
    }
    for _ in 0..3 {
        let host = host(&plugins);
        let mut events = host.events();
        thread::scope(|scope| {
            let load = scope.spawn(|| block_on(host.load_all()));
            let loaded = |event: &HostEvent| matches!(event, HostEvent::Loaded { .. });
            events_until(&mut events, loaded);
            block_on(host.shutdown(Duration::from_secs(10)));
            let report = load.join().unwrap();
            for refused in &report.refused {
                assert_eq!(refused.error.kind(), ErrorKind::Shutdown);
            }
        });
        assert!(host.list().is_empty());
        assert!(host.retained().is_empty(), "{:?}", host.retained());
        drop(host);
        assert_eq!(mappings(&stem), 0);
    }
}

#[test]
fn many_plugins_load_and_unload_concurrently() {
    let plugins = Plugins::new();
    let stem = unique("many");
    for number in 0..12 {
        let config = json!({ "output_bytes": number });
        let name = format!("{stem}-{number}");
        plugins.add(&name, "faulty").config(config).write();
    }
    let host = host(&plugins);
    let report = block_on(host.load_all());
    assert!(report.is_clean(), "{:?}", report.refused);
    for (number, name) in (0..12).map(|number| (number, format!("{stem}-{number}"))) {
        let reply = host.plugin(&name).unwrap().call(Request::text("x")).unwrap();
        assert_eq!(reply.as_bytes().len(), number);
    }
    let host = &host;
    thread::scope(|scope| {
        for number in 0..12 {
            let name = format!("{stem}-{number}");
            scope.spawn(move || block_on(host.unload(&name)).unwrap());
        }
    });
    assert!(host.list().is_empty() && host.retained().is_empty());
    assert_eq!(mappings(&stem), 0);
}
