//! Programs that call services of the host, and other plugins: in Rust by the SDK, in Python by hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotbay::contract::{CallErrorKind, Handle};
use hotbay::{Call, Error, Host, Layer, Next, PluginHandle, Reply, Request, TraceContext};
use hotbay_tests::{Plugins, ProgramFolder, StopOnDrop, block_on, loaded, reloaded, until};
use serde_json::{Value, json};
use text_contract::{KeyValue, Relay};

use super::services::{ALL, Shared, check_limits, check_recursion, check_service, passed_on};

/// The calling plugin as a program.
fn program(plugins: &Plugins, name: &str) -> ProgramFolder {
    let program = ProgramFolder::new(plugins.dir(), name).built("relay", "relay");
    program.set("package", "relay").set("permissions", ALL.to_vec())
}

/// A host with the service and the calling program.
fn relay(plugins: &Plugins) -> (Host, Shared, Handle<dyn Relay>) {
    let service = Shared::new();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.service::<dyn KeyValue, _>(service).build().unwrap();
    loaded(&host, program(plugins, "relay").install());
    let relay = host.contract("relay").expect("it serves the contract");
    (host, service, relay)
}

#[test]
fn rust_program_calls_service_of_the_host() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    check_service(&relay);
    check_service(&relay.pooled());
    let plain = host.plugin("relay").unwrap();
    assert_eq!(plain.call(Request::text("a")).unwrap().as_bytes(), b"\"1\"");
}

#[test]
fn deadline_cancellation_and_trace_travel_from_a_program() {
    let plugins = Plugins::new();
    let (host, service, relay) = relay(&plugins);
    check_limits(&host, &relay, service);
}

#[test]
fn recursion_of_a_program_through_a_service_is_limited() {
    let plugins = Plugins::new();
    let (host, service, relay) = relay(&plugins);
    service.set_host(&host);
    check_recursion(&relay);
    let (code, message) = passed_on(block_on(relay.recurse_later("relay", 2)));
    assert_eq!(code, 508, "{message}");
    let (code, message) = passed_on(relay.recurse("relay", 2, true));
    assert_eq!(code, 508, "{message}");
    block_on(host.shutdown(Duration::from_secs(60)));
}

#[test]
fn program_without_permission_is_refused() {
    let plugins = Plugins::new();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.service::<dyn KeyValue, _>(Shared::new()).build().unwrap();
    loaded(&host, program(&plugins, "relay").set("permissions", vec!["log"]).install());
    let relay = host.contract::<dyn Relay>("relay").unwrap();
    for (code, message) in [passed_on(relay.get("a")), passed_on(block_on(relay.get_later("a")))] {
        assert_eq!(code, 403);
        let expected = "plugin `relay` has no permission `contract:key-value`; hint: add \
                        `contract:key-value` to `permissions` in plugin.json";
        assert_eq!(message, expected);
    }
}

#[test]
fn programs_and_libraries_call_each_other() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    loaded(&host, plugins.add("analyst", "analyst").write());
    let analyst = ProgramFolder::new(plugins.dir(), "remote").built("analyst", "analyst");
    loaded(&host, analyst.set("package", "analyst").install());
    loaded(&host, plugins.add("old", "analyst-old").write());
    for name in ["analyst", "remote", "old"] {
        assert_eq!(relay.words(Some(name), "a b c").unwrap(), 3);
    }
    loaded(&host, plugins.add("worker", "async-worker").write());
    assert_eq!(block_on(relay.delay_in("worker", 1, "later")).unwrap(), "later");
    let soon = relay.with_timeout(Duration::from_millis(30));
    let error = block_on(soon.forever_in("worker")).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    // A library, which calls programs and the program, which calls it.
    loaded(&host, plugins.add("library", "relay").set("permissions", ALL.to_vec()).write());
    let library = host.contract::<dyn Relay>("library").unwrap();
    assert_eq!(library.words(Some("remote"), "a b c").unwrap(), 3);
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(library.forward(&names(&["relay"])).unwrap(), 1);
    assert_eq!(relay.forward(&names(&["library"])).unwrap(), 1);
    for (caller, path, chain) in [
        (&relay, &["library", "relay"], "relay → library → relay"),
        (&library, &["relay", "library"], "library → relay → library"),
    ] {
        let path = names(path);
        for (code, message) in [
            passed_on(caller.forward(&path)),
            passed_on(caller.pooled().forward(&path)),
            passed_on(block_on(caller.forward_later(&path))),
        ] {
            assert_eq!(code, 508, "{message}");
            assert!(
                message.contains(&format!("it waits for this call ({chain}); hint: ")),
                "{message}"
            );
        }
    }
    block_on(host.unload("worker")).unwrap();
    until("all libraries are unmapped", || host.retained().is_empty().then_some(()));
}

#[test]
fn programs_with_one_worker_call_each_other() {
    let plugins = Plugins::new();
    let (host, _, first) = relay(&plugins);
    let one = json!({ "workers": 1 });
    loaded(&host, program(&plugins, "second").set("limits", one).install());
    let second = host.contract::<dyn Relay>("second").unwrap();
    std::thread::scope(|scope| {
        for (caller, other) in [(&first, "second"), (&second, "relay")] {
            for _ in 0..2 {
                scope.spawn(move || {
                    for _ in 0..20 {
                        let path = [other.to_owned()];
                        assert_eq!(caller.pooled().forward(&path).unwrap(), 1);
                    }
                });
            }
        }
    });
}

#[test]
fn plugin_that_a_program_calls_is_reloaded() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    loaded(&host, plugins.add("analyst", "analyst").write());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(relay.words(Some("analyst"), "a b").unwrap(), 2);
                }
            });
        }
        for number in 0..10 {
            plugins.add("analyst", "analyst").set("description", number.to_string()).write();
            reloaded(&host, "analyst");
        }
    });
    until("all replaced libraries are unmapped", || host.retained().is_empty().then_some(()));
}

/// The program in Python; `None` if Python is not installed.
fn python(plugins: &Plugins) -> Option<ProgramFolder> {
    let has_python = hotbay_tests::has_interpreter("python3");
    let program = ProgramFolder::new(plugins.dir(), "caller").bytes(include_str!("caller.py"));
    has_python.then_some(program.set("package", "program").set("permissions", ALL.to_vec()))
}

#[test]
fn any_language_can_call_contracts() {
    let plugins = Plugins::new();
    let Some(caller) = python(&plugins) else { return };
    let (host, _, _) = relay(&plugins);
    loaded(&host, caller.install());
    loaded(&host, plugins.add("analyst", "analyst").write());
    loaded(&host, plugins.add("reader", "table-reader").write());
    let caller = host.plugin("caller").unwrap();
    let call = |path: &str, body: Value, headers: Value| {
        let request = json!({ "path": path, "body": body, "headers": headers });
        let request = Request::json(&request).unwrap();
        let trace = TraceContext { trace_id: [7; 16], span_id: [8; 8], flags: 1 };
        let request = request.with_timeout(Duration::from_secs(3600)).with_trace(trace);
        let reply = caller.call(request).unwrap();
        let reply: Value = serde_json::from_slice(reply.as_bytes()).unwrap();
        (reply["status"].as_u64().unwrap(), reply["body"].clone())
    };
    let get = |key: &str| call("/contract/key-value/get", json!({ "key": key }), json!({}));
    assert_eq!(get("a"), (200, json!("1")));
    assert_eq!(get("missing"), (200, json!(null)));
    let own = json!({ "code": 7, "message": "no", "retryable": false, "details": [1] });
    assert_eq!(get("fail"), (422, own));
    let (status, body) = get("panic");
    assert_eq!((status, &body["kind"]), (502, &json!("panicked")));
    assert_eq!(call("/contract/key-value/get_later", json!({ "key": "a" }), json!({})).1, "1");
    let (status, body) = call("/contract/key-value/limits", json!({}), json!({}));
    assert_eq!(status, 200);
    assert!(body[0].as_u64().is_some_and(|left| left > 3_000_000 && left <= 3_600_000), "{body}");
    assert_eq!(body[2], format!("{:02x?}", [7; 16]));
    let soon = json!({ "Hotbay-Deadline-Ms": "50" });
    let (status, body) = call("/contract/key-value/forever", json!({}), soon);
    assert_eq!((status, &body["kind"]), (504, &json!("deadline-exceeded")), "{body}");
    let (status, body) = call("/contract/tables/refuse", json!({}), json!({}));
    assert_eq!((status, &body["kind"]), (500, &json!("other")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("cannot open a stream"), "{body}");
    // Another plugin: any that provides the contract, or by name.
    let words = |headers| call("/contract/text-analysis/words", json!({ "text": "a b" }), headers);
    assert_eq!(words(json!({})), (200, json!(2)));
    assert_eq!(words(json!({ "Hotbay-Plugin": "analyst" })), (200, json!(2)));
    let (status, body) = words(json!({ "Hotbay-Plugin": "none" }));
    assert_eq!((status, &body["kind"]), (503, &json!("unavailable")));
    let (status, body) = words(json!({ "Hotbay-Plugin": "caller" }));
    assert_eq!((status, &body["kind"]), (501, &json!("not-provided")));
    let forward = json!({ "plugins": ["relay"] });
    let named = json!({ "Hotbay-Plugin": "relay" });
    let (status, body) = call("/contract/relay/forward", forward, named);
    assert_eq!((status, &body["code"]), (422, &json!(508)));
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("(caller → relay → relay); hint: "), "{body}");
    for (path, body, expected, kind) in [
        ("/contract/key-value/get", json!({}), 400, "invalid-input"),
        ("/contract/key-value/get", json!(7), 400, "invalid-input"),
        ("/contract/key-value/none", json!({}), 501, "not-provided"),
        ("/contract/key-value", json!({}), 400, "invalid-input"),
        ("/contract/other/get", json!({}), 403, "permission-denied"),
        ("/contract/unknown/nothing", json!({}), 503, "unavailable"),
        ("/contract", json!({ "text": "contract" }), 400, "invalid-input"),
    ] {
        let (status, answer) = call(path, body, json!({}));
        assert_eq!((status, answer["kind"].as_str()), (expected, Some(kind)), "{path}: {answer}");
        assert_eq!(answer["statusCode"], expected, "{path}: {answer}");
    }
    let check = |text: &str| call("/contract", json!({ "text": text }), json!({}));
    let text = "contract key-value 1.0\nfn get(key: string) -> string?";
    assert_eq!(check(text), (200, json!({})));
    let (status, body) = check("contract key-value 1.0\nfn get(key: u64) -> string?");
    assert_eq!(status, 500);
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("serves an incompatible version of contract `key-value`"),
        "{message}"
    );
    let wrong = call("/contract/key-value/get", json!({}), json!({ "Hotbay-Token": "wrong" }));
    assert_eq!(wrong.0, 401);
}

#[test]
fn programs_call_contracts_that_a_manifest_maps() {
    let plugins = Plugins::new();
    let Some(caller) = python(&plugins) else { return };
    let (host, _, relay) = relay(&plugins);
    loaded(&host, caller.install());
    let methods = json!({ "words": { "endpoint": "execute", "body": "text" } });
    let provides = json!([{ "contract": "text-analysis", "version": "1.0.0", "methods": methods }]);
    let older = ProgramFolder::new(plugins.dir(), "old").set("package", "program");
    loaded(&host, older.set("provides", provides).install());
    let caller = host.plugin("caller").unwrap();
    let call = |path: &str, body: Value| {
        let request = json!({ "path": path, "body": body, "headers": {} });
        let reply = caller.call(Request::json(&request).unwrap()).unwrap();
        let reply: Value = serde_json::from_slice(reply.as_bytes()).unwrap();
        (reply["status"].as_u64().unwrap(), reply["body"].clone())
    };
    // No text says what types the endpoint has.
    let words = || call("/contract/text-analysis/words", json!({ "text": 7 }));
    let (status, body) = words();
    assert_eq!((status, &body["kind"]), (501, &json!("not-provided")), "{body}");
    let text = "contract text-analysis 1.0\nfn words(text: u64) -> u64";
    assert_eq!(call("/contract", json!({ "text": text })), (200, json!({})));
    assert_eq!(words(), (200, json!(7)));
    let (status, body) = call("/contract/text-analysis/other", json!({}));
    assert_eq!((status, &body["kind"]), (501, &json!("not-provided")), "{body}");
    // The program in Rust has the whole contract, which the endpoints do not serve.
    let (code, message) = passed_on(relay.words(Some("old"), "a"));
    assert_eq!(code, 500, "{message}");
    assert!(message.contains("serves an incompatible version"), "{message}");
}

#[test]
fn contracts_of_one_plugin_do_not_limit_others() {
    let plugins = Plugins::new();
    let Some(caller) = python(&plugins) else { return };
    let (host, _, _) = relay(&plugins);
    let other = ProgramFolder::new(plugins.dir(), "other").bytes(include_str!("caller.py"));
    let other = other.set("package", "program").set("permissions", ALL.to_vec());
    let [caller, other] = [caller, other].map(|program| loaded(&host, program.install()));
    let bind = |plugin: &PluginHandle, version: usize| {
        let text = format!("contract key-value 1.{version}\nfn get(key: string) -> string?");
        let request = json!({ "path": "/contract", "body": { "text": text }, "headers": {} });
        let reply = plugin.call(Request::json(&request).unwrap()).unwrap();
        let reply: Value = serde_json::from_slice(reply.as_bytes()).unwrap();
        (reply["status"].as_u64().unwrap(), reply["body"].clone())
    };
    let max = 256;
    for version in 0..max {
        assert_eq!(bind(&caller, version), (200, json!({})));
    }
    let (status, body) = bind(&caller, max);
    assert_eq!((status, &body["kind"]), (429, &json!("overloaded")), "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.ends_with("its builds have already called 256 versions of contracts"));
    // What is known can be called, and another plugin has its own share.
    assert_eq!(bind(&caller, 0).0, 200);
    for version in [0, max, max + 1] {
        assert_eq!(bind(&other, version).0, 200);
    }
    assert_eq!(bind(&caller, max).0, 200);
}

/// Reloads `analyst` of this host while a call of it is on its way, once.
struct Swapping(Arc<Mutex<Option<Host>>>);

impl Layer for Swapping {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let is_words = call.request().contract_method() == Some(("text-analysis", "words"));
        let host = if is_words { self.0.lock().unwrap().take() } else { None };
        if let Some(host) = host {
            reloaded(&host, "analyst");
        }
        next.call(call)
    }
}

#[test]
fn call_of_a_plugin_swapped_meanwhile_reaches_the_new_version() {
    let plugins = Plugins::new();
    let swapped = Arc::new(Mutex::new(None));
    let builder = Host::builder().plugin_dir(plugins.dir()).layer(Swapping(Arc::clone(&swapped)));
    let host = builder.build().unwrap();
    loaded(&host, program(&plugins, "relay").install());
    let relay = host.contract::<dyn Relay>("relay").unwrap();
    loaded(&host, plugins.add("analyst", "analyst-old").write());
    // The results of the two versions have other types.
    for build in ["analyst", "analyst-old", "analyst"] {
        plugins.add("analyst", build).write();
        *swapped.lock().unwrap() = Some(host.clone());
        assert_eq!(relay.words(Some("analyst"), "a b").unwrap(), 2);
        assert!(swapped.lock().unwrap().is_none(), "it was reloaded");
    }
}
