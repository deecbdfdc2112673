//! Programs with the SDKs of other languages that call services of the host, and other plugins.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use hotbay::contract::{CallErrorKind, Handle};
use hotbay::{CancellationToken, Host, Request};
use hotbay_tests::{Plugins, ProgramFolder, block_on, loaded, until};
use serde_json::{Value, json};
use text_contract::{KeyValue, Relay};

use super::sdk;
use super::services::{ALL, Shared, check_limits, check_recursion, check_service, passed_on};
use crate::process::fixture::signal;

/// Runs `check` with each program, loaded as `relay` into a host with the service.
fn each(permissions: &[&str], check: impl Fn(&Plugins, &Host, Shared, &Handle<dyn Relay>)) {
    for (plugins, program) in sdk::relays("relay") {
        let service = Shared::new();
        let builder = Host::builder().plugin_dir(plugins.dir()).quarantine(None);
        let host = builder.service::<dyn KeyValue, _>(service).build().unwrap();
        loaded(&host, program.set("permissions", permissions.to_vec()).install());
        let relay = host.contract("relay").expect("it serves the contract");
        check(&plugins, &host, service, &relay);
    }
}

fn endpoint(host: &Host, name: &'static str, input: &str) -> Result<String, hotbay::Error> {
    let request = Request::text(input).with_endpoint(name);
    Ok(host.plugin("relay").unwrap().call(request)?.as_text().unwrap().to_owned())
}

#[test]
fn service_of_the_host_is_called() {
    each(&ALL, |_, host, _, relay| {
        check_service(relay);
        check_service(&relay.pooled());
        let plain = host.plugin("relay").unwrap();
        assert_eq!(plain.call(Request::text("a")).unwrap().as_bytes(), b"1");
    });
}

#[test]
fn deadline_cancellation_and_trace_travel() {
    each(&ALL, |_, host, service, relay| {
        check_limits(host, relay, service);
        // The connections of cancelled calls are closed, and the program still serves.
        assert_eq!(relay.get("a").unwrap().as_deref(), Some("1"));
        assert_eq!(endpoint(host, "in-time", "").unwrap(), "deadline-exceeded");
    });
}

#[test]
fn recursion_through_a_service_is_limited() {
    each(&ALL, |_, host, service, relay| {
        service.set_host(host);
        check_recursion(relay);
        let (code, message) = passed_on(block_on(relay.recurse_later("relay", 2)));
        assert_eq!(code, 508, "{message}");
        block_on(host.shutdown(Duration::from_secs(60)));
    });
}

#[test]
fn missing_permission_is_refused() {
    each(&["log"], |_, _, _, relay| {
        for (code, message) in
            [passed_on(relay.get("a")), passed_on(block_on(relay.get_later("a")))]
        {
            assert_eq!(code, 403);
            assert_eq!(message, "plugin `relay` has no permission `contract:key-value`");
        }
    });
    // The contract is permitted, and a method needs another permission.
    each(&["contract:key-value"], |_, _, _, relay| {
        assert_eq!(relay.get("a").unwrap().as_deref(), Some("1"));
        let (code, message) = passed_on(relay.set("a", "2"));
        assert_eq!(code, 403, "{message}");
    });
}

#[test]
fn incompatible_version_is_refused_by_the_first_call() {
    each(&ALL, |_, host, _, _| {
        let typed = |line: &str| endpoint(host, "typed", line);
        assert_eq!(typed("fn get(key: string) -> string?").unwrap(), "1");
        let error = typed("fn get(key: u64) -> string?").unwrap_err().full_message();
        let expected = "the host serves an incompatible version of contract `key-value`";
        assert!(error.contains(expected), "{error}");
    });
}

#[test]
fn other_plugins_are_called() {
    each(&ALL, |plugins, host, _, relay| {
        loaded(host, plugins.add("analyst", "analyst").write());
        let remote = ProgramFolder::new(plugins.dir(), "remote").built("analyst", "analyst");
        loaded(host, remote.set("package", "analyst").install());
        for name in ["analyst", "remote"] {
            assert_eq!(relay.words(Some(name), "a b c").unwrap(), 3);
        }
        assert_eq!(relay.words(None, "a b").unwrap(), 2);
        loaded(host, plugins.add("worker", "async-worker").write());
        assert_eq!(block_on(relay.delay_in("worker", 1, "later")).unwrap(), "later");
        let soon = relay.with_timeout(Duration::from_millis(30));
        let error = block_on(soon.forever_in("worker")).unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
        loaded(host, plugins.add("library", "relay").set("permissions", ALL.to_vec()).write());
        let path = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(relay.forward(&path(&["library"])).unwrap(), 1);
        let circle = path(&["library", "relay"]);
        for (code, message) in
            [passed_on(relay.forward(&circle)), passed_on(block_on(relay.forward_later(&circle)))]
        {
            assert_eq!(code, 508, "{message}");
            let expected = "it waits for this call (relay → library → relay)";
            assert!(message.contains(expected), "{message}");
        }
    });
}

#[test]
fn calls_run_concurrently() {
    each(&ALL, |_, _, _, relay| {
        thread::scope(|scope| {
            for number in 0..16 {
                scope.spawn(move || {
                    let key = format!("key {number}");
                    for round in 0..10 {
                        let value = format!("{round}");
                        relay.set(&key, &value).unwrap();
                        assert_eq!(relay.get(&key).unwrap(), Some(value));
                    }
                });
            }
        });
    });
}

#[test]
fn arguments_and_results_of_all_types_cross() {
    each(&["contract:values", "contract:text-analysis"], |_, host, _, _| {
        for (_plugins, program) in sdk::programs("sdk") {
            loaded(host, program.install());
            let converted = endpoint(host, "convert", "sdk").unwrap();
            let found: Value = serde_json::from_str(&converted).unwrap();
            let point = json!({ "x": 1.5, "y": 2.0 });
            // Compared as text: a number of JavaScript with a fraction of zero is an integer.
            let expected = json!([[255, 1], i64::MAX - 1, point]).to_string();
            assert_eq!(found.to_string().replace("2}", "2.0}"), expected);
            block_on(host.unload("sdk")).unwrap();
        }
    });
}

/// Waits until a method of the service waits.
fn until_waits(service: Shared) {
    until("the service is called", || service.0.waits.load(Ordering::SeqCst).then_some(()));
}

#[test]
fn call_that_runs_at_the_shutdown_of_the_program_ends() {
    each(&ALL, |_, host, service, relay| {
        let token = CancellationToken::new();
        let cancellable = relay.with_cancellation_token(token.clone());
        thread::scope(|scope| {
            let call = scope.spawn(|| cancellable.wait().unwrap_err());
            until_waits(service);
            signal(host.list()[0].pid.expect("it runs"), "TERM");
            // The program waits for the call, which still reaches the host.
            token.cancel();
            let error = call.join().expect("no panic");
            let kinds = [CallErrorKind::Cancelled, CallErrorKind::Plugin];
            assert!(kinds.contains(&error.kind()), "{error:?}");
        });
        assert_eq!(relay.get("a").unwrap().as_deref(), Some("1"));
    });
}

#[test]
fn call_that_runs_at_the_shutdown_of_the_host_ends() {
    each(&ALL, |_, host, service, relay| {
        let pooled = relay.with_timeout(Duration::from_secs(3600));
        thread::scope(|scope| {
            let call = scope.spawn(|| block_on(Relay::forever(&pooled)).unwrap_err());
            until_waits(service);
            block_on(host.shutdown(Duration::ZERO));
            call.join().expect("no panic");
        });
        until("the service's future is dropped", || {
            (!service.0.waits.load(Ordering::SeqCst)).then_some(())
        });
    });
}
