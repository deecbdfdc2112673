//! Contracts of libraries in their own process: they serve callers as those in this one.

use std::time::Duration;

use hotbay::contract::{CallErrorKind, Contract, Handle};
use hotbay::{Error, ErrorKind, Host, Request};
use hotbay_tests::{Plugins, block_on, host, loaded, runner, until};
use text_contract::{AsyncWork, Failure, KeyValue, Relay, Tables, TextAnalysis};

use super::calls::check_newest;
use super::services::{ALL, Shared, check_limits, check_recursion, check_service, passed_on};
use super::{async_plugins, streams, tasks};

/// Loads a fixture under its own name, which serves `C`.
fn isolated<C: Contract + ?Sized>(plugins: &Plugins, name: &str) -> (Host, Handle<C>) {
    runner();
    let host = host(plugins);
    loaded(&host, plugins.add(name, name).set("isolation", "process").write());
    let contract = host.contract::<C>(name).expect("it serves the contract");
    (host, contract)
}

#[test]
fn all_methods_are_served() {
    let plugins = Plugins::new();
    let (_host, analysis) = isolated::<dyn TextAnalysis>(&plugins, "analyst");
    check_newest(&analysis);
    check_newest(&analysis.pin().unwrap());
    check_newest(&analysis.pooled());
    check_newest(&analysis.with_timeout(Duration::from_secs(600)));
    check_newest(&analysis.with_timeout(Duration::from_secs(600)).pooled());
}

#[test]
fn methods_of_another_version_are_converted() {
    let plugins = Plugins::new();
    let (_host, analysis) = isolated::<dyn TextAnalysis>(&plugins, "analyst-old");
    assert_eq!(analysis.words("a b").unwrap(), 2);
    assert_eq!(analysis.pooled().words("a b").unwrap(), 2);
    let error = analysis.longest("a").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NotProvided);
}

#[test]
fn panic_of_a_method_has_message_and_location() {
    let plugins = Plugins::new();
    let (_host, analysis) = isolated::<dyn TextAnalysis>(&plugins, "analyst");
    for error in [analysis.fail(Failure::Panic), analysis.pooled().fail(Failure::Panic)] {
        let error = Error::from(error.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let fault = error.fault().expect("a fault");
        assert_eq!(fault.message(), "analysis failed");
        assert!(fault.location().is_some_and(|at| at.contains("analyst.rs:")), "{fault:?}");
    }
}

#[test]
fn deadline_and_cancellation_reach_a_method() {
    let plugins = Plugins::new();
    let (_host, analysis) = isolated::<dyn TextAnalysis>(&plugins, "analyst");
    assert_eq!(analysis.with_timeout(Duration::from_secs(60)).limits().unwrap(), (true, false));
    let soon = analysis.with_timeout(Duration::from_millis(50));
    for error in [soon.wait(), soon.pooled().wait()] {
        assert_eq!(error.unwrap_err().kind(), CallErrorKind::DeadlineExceeded);
    }
    assert_eq!(analysis.words("still serves").unwrap(), 2);
}

#[test]
fn async_methods_are_served() {
    let plugins = Plugins::new();
    let (_host, work) = isolated::<dyn AsyncWork>(&plugins, "async-worker");
    block_on(async {
        tasks::check_all(&work).await;
        tasks::check_all(&work.pin().unwrap()).await;
        tasks::check_all(&work.pooled()).await;
    });
}

#[test]
fn cancelled_async_method_is_dropped_in_its_process() {
    let plugins = Plugins::new();
    let (_host, work) = isolated::<dyn AsyncWork>(&plugins, "async-worker");
    let soon = work.with_timeout(Duration::from_millis(50));
    let error = block_on(soon.forever()).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    until("it is dropped", || (work.dropped().unwrap() == 1).then_some(()));
}

#[test]
fn async_plugin_answers_all_call_methods() {
    let plugins = Plugins::new();
    runner();
    let host = Host::builder().quarantine(None).build().unwrap();
    let plugin = plugins.add("echo", "async-echo").set("isolation", "process");
    let plugin = loaded(&host, plugin.write());
    async_plugins::check_calls(&plugin);
    let error = plugin.call(Request::text("panic")).unwrap_err();
    assert!(error.fault().is_some_and(|fault| fault.location().is_some()), "{error:?}");
}

#[test]
fn streams_are_served() {
    let plugins = Plugins::new();
    let (_host, tables) = isolated::<dyn Tables>(&plugins, "table-reader");
    streams::check_all(&tables);
    streams::check_all(&tables.pin().unwrap());
    streams::check_all(&tables.pooled());
    streams::check_all(&tables.with_timeout(Duration::from_secs(600)));
}

#[test]
fn panic_follows_the_items_before_it() {
    let plugins = Plugins::new();
    let (host, tables) = isolated::<dyn Tables>(&plugins, "table-reader");
    for stream in [tables.fail(40, Failure::Panic), tables.fail_later(40, Failure::Panic)] {
        let (found, error) = streams::read(stream.unwrap());
        assert!(found.into_iter().eq(0..40));
        let error = Error::from(error.expect("an error"));
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(error.fault().unwrap().message(), "reading failed");
    }
    assert_eq!(host.list()[0].stats.faults, 2);
}

#[test]
fn dropped_stream_is_dropped_in_its_process() {
    let plugins = Plugins::new();
    let (_host, tables) = isolated::<dyn Tables>(&plugins, "table-reader");
    let is_dropped = |count| {
        until("it is dropped", || (tables.dropped().unwrap() == count).then_some(()));
    };
    let streams = [tables.count(0), tables.pooled().wait(), tables.ticks(u64::MAX, 0)];
    for (stream, dropped) in streams.into_iter().zip(1..) {
        let mut stream = stream.unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        drop(stream);
        is_dropped(dropped);
    }
    // One that waits for its next item.
    let mut stream = tables.ticks(2, 86_400_000).unwrap();
    assert!(streams::is_pending(&mut stream));
    drop(stream);
    is_dropped(4);
}

#[test]
fn stream_ends_at_its_deadline() {
    let plugins = Plugins::new();
    let (_host, tables) = isolated::<dyn Tables>(&plugins, "table-reader");
    let limited = tables.with_timeout(Duration::from_millis(300));
    for stream in [limited.wait(), limited.pooled().wait(), limited.ticks(5, 86_400_000)] {
        let error = match stream {
            Ok(stream) => streams::read(stream).1.expect("an error"),
            Err(error) => error,
        };
        assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    }
}

/// A host with the service and the isolated library that calls it.
fn relay(plugins: &Plugins, permissions: &[&str]) -> (Host, Shared, Handle<dyn Relay>) {
    runner();
    let service = Shared::new();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.service::<dyn KeyValue, _>(service).build().unwrap();
    let plugin = plugins.add("relay", "relay").set("permissions", permissions.to_vec());
    loaded(&host, plugin.set("isolation", "process").write());
    let relay = host.contract("relay").expect("it serves the contract");
    (host, service, relay)
}

#[test]
fn service_of_the_host_is_called() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins, &ALL);
    check_service(&relay);
    check_service(&relay.pooled());
    let plain = host.plugin("relay").unwrap();
    assert_eq!(plain.call(Request::text("a")).unwrap().as_bytes(), b"\"1\"");
}

#[test]
fn deadline_cancellation_and_trace_travel_to_a_service() {
    let plugins = Plugins::new();
    let (host, service, relay) = relay(&plugins, &ALL);
    check_limits(&host, &relay, service);
}

#[test]
fn recursion_through_a_service_is_limited() {
    let plugins = Plugins::new();
    let (host, service, relay) = relay(&plugins, &ALL);
    service.set_host(&host);
    check_recursion(&relay);
    let (code, message) = passed_on(relay.recurse("relay", 2, true));
    assert_eq!(code, 508, "{message}");
    block_on(host.shutdown(Duration::from_secs(60)));
}

#[test]
fn service_needs_the_permission() {
    let plugins = Plugins::new();
    let (_host, _, relay) = relay(&plugins, &["log"]);
    for (code, message) in [passed_on(relay.get("a")), passed_on(block_on(relay.get_later("a")))] {
        assert_eq!(code, 403);
        let expected = "plugin `relay` has no permission `contract:key-value`; hint: add \
                        `contract:key-value` to `permissions` in plugin.json";
        assert_eq!(message, expected);
    }
}

#[test]
fn libraries_of_both_kinds_call_each_other() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins, &ALL);
    loaded(&host, plugins.add("analyst", "analyst").write());
    let remote = plugins.add("remote", "analyst").set("isolation", "process");
    loaded(&host, remote.write());
    for name in ["analyst", "remote"] {
        assert_eq!(relay.words(Some(name), "a b c").unwrap(), 3);
    }
    loaded(&host, plugins.add("library", "relay").set("permissions", ALL.to_vec()).write());
    let library = host.contract::<dyn Relay>("library").unwrap();
    assert_eq!(library.words(Some("remote"), "a b c").unwrap(), 3);
    let path = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(library.forward(&path(&["relay"])).unwrap(), 1);
    assert_eq!(relay.forward(&path(&["library"])).unwrap(), 1);
    let (code, message) = passed_on(relay.forward(&path(&["library", "relay"])));
    assert_eq!(code, 508, "{message}");
    assert!(message.contains("relay → library → relay"), "{message}");
}
