//! Plugins that call services of the host, and other plugins.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use hotbay::contract::{CallError, CallErrorKind, Handle, Serves};
use hotbay::hotbay_plugin::{
    Async, AsyncContext, AsyncPlugin, Config, HostServices, Output, OwnedPayload,
};
use hotbay::{
    CancellationToken, ErrorKind, Host, HostBuilder, Manifest, PluginError, Request, TraceContext,
};
use hotbay_plugin::contract::with_context;
use hotbay_tests::{Plugins, block_on, loaded, reloaded, until};
use text_contract::{KeyValue, Relay};

/// Permissions for everything that the fixture calls.
pub(super) const ALL: [&str; 8] = [
    "contract:async-work",
    "contract:key-value",
    "contract:relay",
    "contract:tables",
    "contract:text-analysis",
    "contract:unknown",
    "log",
    "write",
];

/// Values of the host.
#[derive(Default)]
pub(super) struct Values {
    values: Mutex<HashMap<String, String>>,
    /// The host that has it as a service.
    host: OnceLock<WeakHost>,
    /// Set while a method is waiting, and cleared when it returns or its future is dropped.
    pub(super) waits: AtomicBool,
}

/// A host that its own service can call. Hosts live as long as the tests that call back.
struct WeakHost(Host);

/// The service, which tests can look into.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub(super) &'static Values);

impl Shared {
    pub(super) fn new() -> Self {
        let values = Values::default();
        lock(&values.values).insert("a".to_owned(), "1".to_owned());
        Self(Box::leak(Box::new(values)))
    }

    pub(super) fn set_host(self, host: &Host) {
        assert!(self.0.host.set(WeakHost(host.clone())).is_ok());
    }

    fn relay(self, plugin: &str) -> Result<Handle<dyn Relay>, CallError> {
        let WeakHost(host) = self.0.host.get().expect("set by the test");
        Ok(host.contract::<dyn Relay>(plugin)?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no panic under the lock")
}

struct SetWhileWaiting<'a>(&'a AtomicBool);

impl<'a> SetWhileWaiting<'a> {
    fn new(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for SetWhileWaiting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl KeyValue for Shared {
    fn get(&self, key: &str) -> Result<Option<String>, CallError> {
        match key {
            "panic" => panic!("no such key"),
            "fail" => Err(PluginError::new(7, "no").with_details(serde_json::json!([1])).into()),
            key if key.starts_with("call ") => {
                let WeakHost(host) = self.0.host.get().expect("set by the test");
                let plugin = host.plugin(&key["call ".len()..])?;
                let request = Request::text("").with_timeout(Duration::from_secs(600));
                plugin.call(Request::text(""))?;
                plugin.call(request)?;
                Ok(None)
            }
            key => Ok(lock(&self.0.values).get(key).cloned()),
        }
    }

    fn set(&self, key: &str, value: &str) -> Result<(), CallError> {
        lock(&self.0.values).insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn limits(&self) -> Result<(Option<u64>, bool, Option<String>), CallError> {
        with_context(|context| {
            let context = context.expect("a service has a context");
            let trace = context.trace().map(|trace| format!("{:02x?}", trace.trace_id));
            let left = context.remaining().map(|left| left.as_millis() as u64);
            Ok((left, context.is_cancelled(), trace))
        })
    }

    fn wait(&self) -> Result<(), CallError> {
        let _waits = SetWhileWaiting::new(&self.0.waits);
        until("the call is cancelled", || {
            with_context(|context| context.is_some_and(|it| it.is_cancelled())).then_some(())
        });
        Err(PluginError::new(499, "cancelled").into())
    }

    fn call_back(&self, plugin: &str, depth: u32, is_pooled: bool) -> Result<u32, CallError> {
        let relay = self.relay(plugin)?;
        match is_pooled {
            true => relay.pooled().recurse(plugin, depth, is_pooled),
            false => relay.recurse(plugin, depth, is_pooled),
        }
    }

    async fn get_later(&self, key: &str) -> Result<Option<String>, CallError> {
        tokio::task::yield_now().await;
        self.get(key)
    }

    async fn call_back_later(&self, plugin: &str, depth: u32) -> Result<u32, CallError> {
        self.relay(plugin)?.recurse_later(plugin, depth).await
    }

    async fn forever(&self) -> Result<(), CallError> {
        let _waits = SetWhileWaiting::new(&self.0.waits);
        std::future::pending().await
    }
}

/// Returns the code and the message of the error that the calling plugin got, and passes on.
pub(super) fn passed_on<T: std::fmt::Debug>(result: Result<T, CallError>) -> (i32, String) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Plugin, "{error:?}");
    let error = error.plugin_error().expect("of the plugin");
    (error.code(), error.message().to_owned())
}

fn builder(plugins: &Plugins, service: Shared) -> HostBuilder {
    Host::builder().plugin_dir(plugins.dir()).service::<dyn KeyValue, _>(service)
}

fn relay_named(host: &Host, plugins: &Plugins, name: &str) -> Handle<dyn Relay> {
    loaded(host, plugins.add(name, "relay").set("permissions", ALL.to_vec()).write());
    host.contract(name).expect("it serves the contract")
}

/// A host with the service and the calling plugin.
fn relay(plugins: &Plugins) -> (Host, Shared, Handle<dyn Relay>) {
    let service = Shared::new();
    let host = builder(plugins, service).build().unwrap();
    let relay = relay_named(&host, plugins, "relay");
    (host, service, relay)
}

/// The same with the calling plugin compiled in.
fn compiled_in(plugins: &Plugins) -> (Host, Shared, Handle<dyn Relay>) {
    let service = Shared::new();
    let manifest = ALL.iter().fold(Manifest::new("relay", "1.0.0"), |manifest, permission| {
        manifest.and_then(|manifest| manifest.with_permission(permission))
    });
    let serves = Serves::new().with::<dyn Relay>();
    let host = builder(plugins, service)
        .register_serving::<text_plugins::Relaying>(manifest.unwrap(), serves)
        .build()
        .unwrap();
    let relay = host.contract("relay").unwrap();
    (host, service, relay)
}

/// Calls a method that starts a thread: std leaves a value of the library on the thread that does so.
fn on_own_thread<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(call).join().expect("no panic"))
}

pub(super) fn check_service(relay: &impl Relay) {
    assert_eq!(relay.get("a").unwrap().as_deref(), Some("1"));
    assert_eq!(relay.get("missing").unwrap(), None);
    assert_eq!(relay.get_by_kept("a").unwrap().as_deref(), Some("1"));
    let on_thread = on_own_thread(|| relay.get_on_thread("a"));
    assert_eq!(on_thread.unwrap().as_deref(), Some("1"));
    relay.set("b", &"2".repeat(100)).unwrap();
    assert_eq!(relay.get("b").unwrap(), Some("2".repeat(100)));
    let (code, message) = passed_on(relay.get("fail"));
    assert_eq!((code, message.as_str()), (7, "no"));
    let (code, message) = passed_on(relay.get("panic"));
    assert_eq!(code, 502);
    let expected = "method `get` of service `key-value`: panicked: no such key";
    assert!(message.starts_with(expected), "{message}");
    let (code, message) = passed_on(relay.unknown());
    assert_eq!(code, 503);
    // Rust adds the hint.
    let expected = "neither the host nor a plugin serves contract `unknown`";
    assert!(message.contains(expected), "{message}");
    assert_eq!(block_on(relay.get_later("a")).unwrap().as_deref(), Some("1"));
    let (code, _) = passed_on(block_on(relay.get_later("fail")));
    assert_eq!(code, 7);
    let (code, message) = passed_on(block_on(relay.get_later("panic")));
    assert_eq!(code, 502);
    assert!(message.contains("no such key"), "{message}");
    // Another type of an argument, and a method that the service does not have.
    assert_eq!(relay.get_newer('a').unwrap(), (Some("1".to_owned()), 7));
    let (code, message) = passed_on(relay.clear());
    assert_eq!(code, 501);
    assert!(message.contains("has no method `clear`"), "{message}");
}

#[test]
fn library_calls_service_of_the_host() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    check_service(&relay);
    check_service(&relay.pooled());
    let plain = host.plugin("relay").unwrap();
    assert_eq!(plain.call(Request::text("a")).unwrap().as_bytes(), b"\"1\"");
    assert_eq!(block_on(plain.execute(Request::text("a"))).unwrap().as_bytes(), b"\"1\"");
}

#[test]
fn compiled_in_plugin_calls_service_of_the_host() {
    let plugins = Plugins::new();
    let (_host, _, relay) = compiled_in(&plugins);
    check_service(&relay);
    check_service(&relay.pooled());
}

#[test]
fn contract_of_two_services_is_a_duplicate() {
    let builder = Host::builder().service::<dyn KeyValue, _>(Shared::new());
    let error = builder.service::<dyn KeyValue, _>(Shared::new()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(error.to_string().contains("contract `key-value`"), "{error}");
}

#[test]
fn call_needs_the_permission_of_the_contract() {
    let plugins = Plugins::new();
    let policy = |_: &hotbay::PluginName, permission: &str| permission != "write";
    let host = builder(&plugins, Shared::new()).permission_policy(policy).build().unwrap();
    loaded(&host, plugins.add("relay", "relay").write());
    let relay = host.contract::<dyn Relay>("relay").unwrap();
    for (code, message) in [passed_on(relay.get("a")), passed_on(block_on(relay.get_later("a")))] {
        assert_eq!(code, 403);
        let expected = "plugin `relay` has no permission `contract:key-value`; hint: add \
                        `contract:key-value` to `permissions` in plugin.json";
        assert_eq!(message, expected);
    }
    let (code, message) = passed_on(relay.words(None, "a"));
    assert_eq!(code, 403);
    let expected = "plugin `relay` has no permission `contract:text-analysis`";
    assert!(message.starts_with(expected), "{message}");
    // One permission for the contract, and one for the method.
    let reader = relay_named(&host, &plugins, "reader");
    assert_eq!(reader.get("a").unwrap().as_deref(), Some("1"));
    let (code, message) = passed_on(reader.set("a", "2"));
    assert_eq!(code, 403);
    let expected = "plugin `reader` has no permission `write`; hint: grant the permission";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(reader.get("a").unwrap().as_deref(), Some("1"));
}

pub(super) fn check_limits(host: &Host, relay: &Handle<dyn Relay>, service: Shared) {
    assert_eq!(relay.limits().unwrap(), (None, false, None));
    let hour = Duration::from_secs(3600);
    let trace = TraceContext { trace_id: [7; 16], span_id: [8; 8], flags: 1 };
    let relay_with = |relay: &Handle<dyn Relay>| relay.with_timeout(hour).with_trace(trace);
    let limits = |(left, is_cancelled, trace): (Option<u64>, bool, Option<String>)| {
        assert!(left.is_some_and(|left| left > 3_000_000 && left <= 3_600_000), "{left:?}");
        assert!(!is_cancelled);
        assert_eq!(trace, Some(format!("{:02x?}", [7; 16])));
    };
    limits(relay_with(relay).limits().unwrap());
    limits(relay_with(relay).pooled().limits().unwrap());
    let request = Request::text("limits").with_timeout(hour).with_trace(trace);
    let reply = host.plugin("relay").unwrap().call(request).unwrap();
    limits(serde_json::from_slice(reply.as_bytes()).unwrap());
    // Cancelled while the service runs.
    for is_pooled in [false, true] {
        let token = CancellationToken::new();
        let cancellable = relay.with_cancellation_token(token.clone());
        let error = std::thread::scope(|scope| {
            let call = scope.spawn(|| match is_pooled {
                true => cancellable.pooled().wait(),
                false => cancellable.wait(),
            });
            until("the service is called", || service.0.waits.load(Ordering::SeqCst).then_some(()));
            token.cancel();
            call.join().expect("no panic").unwrap_err()
        });
        let kinds = [CallErrorKind::Cancelled, CallErrorKind::Plugin];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        until("the service returns", || (!service.0.waits.load(Ordering::SeqCst)).then_some(()));
    }
    // Its deadline passes while the service runs.
    let error = relay.with_timeout(Duration::from_millis(30)).wait().unwrap_err();
    let kinds = [CallErrorKind::DeadlineExceeded, CallErrorKind::Plugin];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    // Dropped while the service runs.
    block_on(async {
        let short = relay.with_timeout(Duration::from_millis(30));
        let error = Relay::forever(&short).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    });
    until("the future is dropped", || (!service.0.waits.load(Ordering::SeqCst)).then_some(()));
}

#[test]
fn deadline_cancellation_and_trace_travel() {
    let plugins = Plugins::new();
    let (host, service, relay) = relay(&plugins);
    check_limits(&host, &relay, service);
    let plugins = Plugins::new();
    let (host, service, relay) = compiled_in(&plugins);
    check_limits(&host, &relay, service);
}

#[test]
fn plugin_calls_other_plugins() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    let (code, message) = passed_on(relay.words(Some("analyst"), "a b"));
    assert_eq!(code, 503);
    assert!(message.contains("plugin `analyst` not found"), "{message}");
    loaded(&host, plugins.add("analyst", "analyst").write());
    assert_eq!(relay.words(Some("analyst"), "a b c").unwrap(), 3);
    assert_eq!(relay.words(None, "a b c").unwrap(), 3);
    assert_eq!(relay.pooled().words(None, "a b c").unwrap(), 3);
    let soon = relay.with_timeout(Duration::from_millis(30));
    let error = soon.wait_for("analyst").unwrap_err();
    let kinds = [CallErrorKind::DeadlineExceeded, CallErrorKind::Plugin];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    let (code, message) = passed_on(relay.words(Some("relay"), "a"));
    assert_eq!(code, 501);
    assert!(message.contains("does not serve contract `text-analysis`"), "{message}");
    loaded(&host, plugins.add("worker", "async-worker").write());
    let later = relay.delay_in("worker", 1, "later");
    assert_eq!(block_on(later).unwrap(), "later");
    let calls = |name: &str| {
        let list = host.list();
        list.iter().find(|info| info.name.as_str() == name).map(|info| info.stats.calls)
    };
    assert_eq!(calls("worker"), Some(1));
}

#[test]
fn compiled_in_plugin_calls_other_plugins() {
    let plugins = Plugins::new();
    let (host, _, relay) = compiled_in(&plugins);
    loaded(&host, plugins.add("analyst", "analyst").write());
    loaded(&host, plugins.add("worker", "async-worker").write());
    assert_eq!(relay.words(Some("analyst"), "a b c").unwrap(), 3);
    assert_eq!(relay.words(None, "a b c").unwrap(), 3);
    assert_eq!(block_on(relay.delay_in("worker", 1, "later")).unwrap(), "later");
}

#[test]
fn preferred_provider_is_called_and_replaced() {
    let plugins = Plugins::new();
    let host = builder(&plugins, Shared::new())
        .prefer_providers("text-analysis", ["second"])
        .build()
        .unwrap();
    let relay = relay_named(&host, &plugins, "relay");
    loaded(&host, plugins.add("first", "analyst").write());
    let calls = |name: &str| {
        let list = host.list();
        list.iter().find(|info| info.name.as_str() == name).map_or(0, |info| info.stats.calls)
    };
    assert_eq!(relay.words(None, "a b").unwrap(), 2);
    assert_eq!(calls("first"), 1);
    // It serves version 1.0, whose signatures differ.
    loaded(&host, plugins.add("second", "analyst-old").write());
    assert_eq!(relay.words(None, "a b").unwrap(), 2);
    assert_eq!((calls("first"), calls("second")), (1, 1));
    block_on(host.unload("second")).unwrap();
    assert_eq!(relay.words(None, "a b").unwrap(), 2);
    assert_eq!(calls("first"), 2);
    block_on(host.unload("first")).unwrap();
    let (code, _) = passed_on(relay.words(None, "a b"));
    assert_eq!(code, 503);
}

fn names(plugins: &[&str]) -> Vec<String> {
    plugins.iter().map(|&plugin| plugin.to_owned()).collect()
}

#[test]
fn circle_is_refused_with_its_chain() {
    let plugins = Plugins::new();
    let (host, _, a) = relay(&plugins);
    relay_named(&host, &plugins, "b");
    relay_named(&host, &plugins, "c");
    assert_eq!(a.forward(&names(&["b", "c"])).unwrap(), 2);
    assert_eq!(block_on(a.forward_later(&names(&["b", "c"]))).unwrap(), 2);
    for (path, chain) in [
        (&["b", "relay"][..], "relay → b → relay"),
        (&["b", "c", "b"], "relay → b → c → b"),
        (&["relay"], "relay → relay"),
    ] {
        let path = names(path);
        let hour = Duration::from_secs(3600);
        for error in [
            passed_on(a.forward(&path)),
            passed_on(a.pooled().forward(&path)),
            passed_on(a.with_timeout(hour).forward(&path)),
            passed_on(block_on(a.forward_later(&path))),
            passed_on(block_on(a.pooled().forward_later(&path))),
        ] {
            let (code, message) = error;
            assert_eq!(code, 508, "{message}");
            assert!(
                message.contains(&format!("it waits for this call ({chain}); hint: ")),
                "{message}"
            );
        }
    }
    assert_eq!(a.forward(&names(&["b", "c"])).unwrap(), 2);
}

/// Runs `run` on a thread with the usual stack.
fn on_small_stack(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let thread = thread.spawn_scoped(scope, run).expect("a thread");
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub(super) fn check_recursion(relay: &Handle<dyn Relay>) {
    assert_eq!(relay.recurse("relay", 64, false).unwrap(), 64);
    let (code, message) = passed_on(relay.recurse("relay", 100, false));
    assert_eq!(code, 508, "{message}");
    assert!(message.contains("more than 64 calls wait for each other"), "{message}");
    assert!(message.contains("(relay → key-value → relay → "), "{message}");
}

#[test]
fn recursion_through_a_service_is_limited() {
    for is_compiled_in in [false, true] {
        let plugins = Plugins::new();
        let (host, service, relay) =
            if is_compiled_in { compiled_in(&plugins) } else { relay(&plugins) };
        service.set_host(&host);
        on_small_stack(|| check_recursion(&relay));
        let short = relay.with_timeout(Duration::from_secs(600));
        on_small_stack(|| check_recursion(&short));
        assert_eq!(block_on(relay.recurse_later("relay", 64)).unwrap(), 64);
        let (code, message) = passed_on(block_on(relay.recurse_later("relay", 100)));
        assert_eq!(code, 508, "{message}");
        // A pooled call may have to wait for a worker that waits for it.
        let (code, message) = passed_on(relay.recurse("relay", 2, true));
        assert_eq!(code, 508, "{message}");
        assert!(message.contains("(relay → key-value → relay); hint: "), "{message}");
        let (code, _) = passed_on(relay.pooled().recurse("relay", 100, true));
        assert_eq!(code, 508);
        assert_eq!(relay.recurse("relay", 1, true).unwrap_err().kind(), CallErrorKind::Plugin);
        block_on(host.shutdown(Duration::from_secs(60)));
    }
}

/// An async plugin that calls the service, which calls it.
struct CallsBack(HostServices);

impl AsyncPlugin for CallsBack {
    fn init(_: &Config, host: HostServices) -> Result<Self, PluginError> {
        Ok(Self(host))
    }

    async fn execute(&self, _: AsyncContext, _: OwnedPayload) -> Result<Output, PluginError> {
        let service = self.0.contract::<dyn KeyValue>()?;
        Output::json(&service.get("call async")?)
    }
}

#[test]
fn service_that_calls_an_async_caller_is_refused() {
    let plugins = Plugins::new();
    let service = Shared::new();
    let manifest = Manifest::new("async", "1.0.0");
    let manifest = manifest.and_then(|it| it.with_permission("contract:key-value")).unwrap();
    let host = builder(&plugins, service).register::<Async<CallsBack>>(manifest).build().unwrap();
    service.set_host(&host);
    let plugin = host.plugin("async").unwrap();
    let request = || Request::text("").with_timeout(Duration::from_secs(600));
    for error in [
        plugin.call(Request::text("")).unwrap_err(),
        plugin.call(request()).unwrap_err(),
        block_on(plugin.execute(request())).unwrap_err(),
    ] {
        let error = error.full_message();
        assert!(error.contains("it waits for this call (async → key-value → async)"), "{error}");
    }
    block_on(host.shutdown(Duration::from_secs(60)));
}

#[test]
fn called_plugin_is_reloaded_without_a_lost_answer() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    loaded(&host, plugins.add("analyst", "analyst").write());
    loaded(&host, plugins.add("worker", "async-worker").write());
    let stop = AtomicBool::new(false);
    let _stop = hotbay_tests::StopOnDrop(&stop);
    std::thread::scope(|scope| {
        let _stop = hotbay_tests::StopOnDrop(&stop);
        for number in 0..4 {
            let (relay, stop) = (&relay, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match number {
                        0 => assert_eq!(relay.words(Some("analyst"), "a b").unwrap(), 2),
                        1 => assert_eq!(relay.words(None, "a b").unwrap(), 2),
                        2 => assert_eq!(relay.pooled().words(None, "a b").unwrap(), 2),
                        _ => {
                            let later = relay.delay_in("worker", 1, "a");
                            assert_eq!(block_on(later).unwrap(), "a");
                        }
                    }
                }
            });
        }
        for number in 0..100 {
            // Every other build serves the contract with other signatures.
            let package = if number % 2 == 0 { "analyst-old" } else { "analyst" };
            plugins.add("analyst", package).set("description", number.to_string()).write();
            reloaded(&host, "analyst");
            if number % 10 == 0 {
                plugins
                    .add("worker", "async-worker")
                    .set("description", number.to_string())
                    .write();
                reloaded(&host, "worker");
            }
        }
    });
    until("all replaced libraries are unmapped", || host.retained().is_empty().then_some(()));
}

#[test]
fn calling_plugin_is_reloaded_and_unmapped() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    loaded(&host, plugins.add("worker", "async-worker").write());
    for number in 0..20 {
        check_service(&relay);
        assert_eq!(block_on(relay.delay_in("worker", 1, "a")).unwrap(), "a");
        let plugin = plugins.add("relay", "relay").set("permissions", ALL.to_vec());
        plugin.set("description", number.to_string()).write();
        reloaded(&host, "relay");
    }
    block_on(host.unload("relay")).unwrap();
    until("all libraries are unmapped", || host.retained().is_empty().then_some(()));
}

#[test]
fn call_of_a_stopped_plugin_is_refused() {
    let plugins = Plugins::new();
    let (host, _, relay) = relay(&plugins);
    let report = plugins.dir().join("report");
    on_own_thread(|| relay.call_until_stopped(report.to_str().unwrap())).unwrap();
    block_on(host.unload("relay")).unwrap();
    let text = until("the thread reports", || std::fs::read_to_string(&report).ok());
    assert_eq!(text, "Unavailable: the plugin was stopped and cannot call contracts");
    until("the library is unmapped", || host.retained().is_empty().then_some(()));
}

#[test]
fn pending_calls_of_a_stopped_plugin_end() {
    let plugins = Plugins::new();
    let (host, service, relay) = relay(&plugins);
    loaded(&host, plugins.add("worker", "async-worker").write());
    let hour = Duration::from_secs(3600);
    let pooled = relay.with_timeout(hour);
    std::thread::scope(|scope| {
        let calls = [
            scope.spawn(|| block_on(Relay::forever(&pooled))),
            scope.spawn(|| block_on(pooled.forever_in("worker"))),
        ];
        until("the service is called", || service.0.waits.load(Ordering::SeqCst).then_some(()));
        block_on(host.shutdown(Duration::ZERO));
        for call in calls {
            call.join().expect("no panic").unwrap_err();
        }
    });
    until("the service's future is dropped", || {
        (!service.0.waits.load(Ordering::SeqCst)).then_some(())
    });
}
