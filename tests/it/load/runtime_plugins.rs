//! Plugins of the program: linked as ordinary crates, or registered at run time, and tokens that
//! end hosts, under faults and races.

use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use hotbay::hotbay_plugin::{Config, HostServices};
use hotbay::{
    CallContext, CancellationToken, ErrorKind, Host, HostEvent, LoadStep, Manifest, Output,
    Payload, Plugin, PluginError, Request,
};
use hotbay_tests::{Plugins, block_on, event, limits, threads, until};
use serde_json::json;

pub(crate) fn names(host: &Host) -> Vec<String> {
    host.list().into_iter().map(|plugin| plugin.name.to_string()).collect()
}

pub(crate) struct Plain;

impl Plugin for Plain {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }
    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::text("hooked"))
    }
}

struct Slow(Arc<AtomicBool>);

impl Plugin for Slow {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Err(PluginError::new(1, "only by a factory"))
    }
    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::text("slow"))
    }
    fn shutdown(self) -> Result<(), PluginError> {
        std::thread::sleep(Duration::from_millis(700));
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn timeout_of_a_shutdown_is_in_the_report() {
    let ended = Arc::new(AtomicBool::new(false));
    let factory = Arc::clone(&ended);
    let host = Host::builder()
        .limits(limits(|limits| limits.stop_timeout = Duration::from_millis(100)))
        .register_factory("slow", move |_: &Config| Ok(Slow(Arc::clone(&factory))))
        .build()
        .unwrap();
    block_on(host.create("slow", "slow", json!({}))).unwrap();
    let report = block_on(host.unload("slow")).unwrap();
    let error = report.shutdown_error.expect("the timeout");
    assert!(error.full_message().contains("100 ms"), "{}", error.full_message());
    assert!(report.retain_reason.is_some() && report.generation.is_some());
}

#[test]
fn panic_of_a_shutdown_is_in_the_report() {
    struct Panics;
    impl Plugin for Panics {
        fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
            Ok(Self)
        }
        fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
            Ok(Output::text("x"))
        }
        fn shutdown(self) -> Result<(), PluginError> {
            panic!("cannot stop")
        }
    }
    let host = Host::builder().build().unwrap();
    let manifest = || Manifest::new("panics", "1.0.0").unwrap();
    for _ in 0..3 {
        block_on(host.register::<Panics>(manifest())).unwrap();
        let report = block_on(host.unregister("panics")).unwrap();
        let error = report.shutdown_error.expect("the panic");
        assert!(error.full_message().contains("cannot stop"), "{}", error.full_message());
        assert_eq!(report.retain_reason, None);
    }
}

#[test]
fn shutdown_waits_for_an_unload_that_runs() {
    let ended = Arc::new(AtomicBool::new(false));
    let factory = Arc::clone(&ended);
    let host = Host::builder()
        .register_factory("slow", move |_: &Config| Ok(Slow(Arc::clone(&factory))))
        .build()
        .unwrap();
    block_on(host.create("slow", "slow", json!({}))).unwrap();
    let mut events = host.events();
    let other = host.clone();
    let unload = std::thread::spawn(move || block_on(other.unload("slow")));
    event(&mut events, |event| matches!(event, HostEvent::Retired { .. }));
    block_on(host.shutdown(Duration::from_secs(10)));
    let is_done = ended.load(Ordering::SeqCst);
    unload.join().unwrap().unwrap();
    assert!(is_done, "the plugin was still shutting down");
}

#[test]
fn hanging_factories_are_retained_and_limited() {
    let host = Host::builder()
        .limits(limits(|limits| {
            limits.start_timeout = Duration::from_millis(20);
            limits.max_retained_libraries = 3;
        }))
        .register_factory("hang", |_: &Config| -> Result<Plain, PluginError> {
            loop {
                std::thread::park();
            }
        })
        .build()
        .unwrap();
    let kinds: Vec<_> = (0..5)
        .map(|_| block_on(host.create("hang", "hang", json!({}))).unwrap_err().kind())
        .collect();
    assert_eq!(host.retained().len(), 3);
    assert_eq!(kinds[4], ErrorKind::Overloaded);
}

#[test]
fn unhealthy_plugin_of_a_factory_is_refused() {
    struct Ill;
    impl Plugin for Ill {
        fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
            Ok(Self)
        }
        fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
            Ok(Output::text("x"))
        }
        fn health(&self) -> Result<(), PluginError> {
            Err(PluginError::new(5, "ill"))
        }
    }
    let host = Host::builder().register_factory("ill", |_: &Config| Ok(Ill)).build().unwrap();
    let error = block_on(host.register::<Ill>(Manifest::new("a", "1.0.0").unwrap())).unwrap_err();
    assert_eq!(error.step(), Some(LoadStep::Health));
    let error = block_on(host.create("ill", "b", json!({}))).unwrap_err();
    assert_eq!((error.kind(), error.step()), (ErrorKind::StartFailed, Some(LoadStep::Health)));
    assert!(host.list().is_empty() && host.retained().is_empty());
}

#[test]
fn factory_may_use_its_host() {
    static HOST: OnceLock<Mutex<Option<Host>>> = OnceLock::new();
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&outcomes);
    let host = Host::builder()
        .limits(limits(|limits| limits.stop_timeout = Duration::from_secs(1)))
        .register_factory("plain", |_: &Config| Ok(Plain))
        .register_factory("nested", move |_: &Config| {
            let host = HOST.get().unwrap().lock().unwrap().clone().unwrap();
            let mut seen = seen.lock().unwrap();
            seen.push(
                block_on(host.create("plain", "inner", json!({})))
                    .map(|_| ())
                    .map_err(|e| e.kind()),
            );
            seen.push(
                block_on(host.create("plain", "outer", json!({})))
                    .map(|_| ())
                    .map_err(|e| e.kind()),
            );
            seen.push(block_on(host.unregister("outer")).map(|_| ()).map_err(|e| e.kind()));
            seen.push(block_on(host.reload("outer")).map(|_| ()).map_err(|e| e.kind()));
            let _ = (host.list(), host.stats(), host.plugin("outer").err());
            Ok(Plain)
        })
        .register_factory("ends", move |_: &Config| {
            let host = HOST.get().unwrap().lock().unwrap().clone().unwrap();
            block_on(host.shutdown(Duration::from_secs(1)));
            Ok(Plain)
        })
        .build()
        .unwrap();
    let _ = HOST.set(Mutex::new(Some(host.clone())));
    block_on(host.create("nested", "outer", json!({}))).unwrap();
    assert_eq!(
        *outcomes.lock().unwrap(),
        [Ok(()), Err(ErrorKind::Duplicate), Err(ErrorKind::NotFound), Err(ErrorKind::NotFound)]
    );
    assert_eq!(names(&host), ["inner", "outer"]);
    let started = Instant::now();
    let error = block_on(host.create("ends", "late", json!({}))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let error = block_on(host.create("plain", "later", json!({}))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
    for error in [
        block_on(host.unregister("outer")).unwrap_err(),
        block_on(host.register_fn("x", |_, _| Ok(Output::text("")))).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Shutdown, "{}", error.full_message());
    }
    *HOST.get().unwrap().lock().unwrap() = None;
}

#[test]
fn last_host_may_be_dropped_in_a_call() {
    let place: Arc<Mutex<Option<Host>>> = Arc::default();
    let taken = Arc::clone(&place);
    let host = Host::builder()
        .register_fn("last", move |_, _| {
            drop(taken.lock().unwrap().take());
            Ok(Output::text("dropped"))
        })
        .build()
        .unwrap();
    let handle = host.plugin("last").unwrap();
    let mut events = host.events();
    *place.lock().unwrap() = Some(host);
    let started = Instant::now();
    let reply = block_on(handle.execute(Request::text("x")));
    assert!(reply.is_ok_and(|reply| reply.as_bytes() == b"dropped"));
    event(&mut events, |event| matches!(event, HostEvent::Stopped));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn one_of_many_registrations_of_a_name_wins() {
    let host = Host::builder().register_factory("plain", |_: &Config| Ok(Plain)).build().unwrap();
    for _ in 0..30 {
        let (won, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (host, won, lost) = (&host, &won, &lost);
                scope.spawn(move || {
                    let outcome = match number % 3 {
                        0 => block_on(host.register_fn("x", |_, _| Ok(Output::text("x")))),
                        1 => block_on(host.create("plain", "x", json!({}))),
                        _ => block_on(host.register::<Plain>(Manifest::new("x", "1.0.0").unwrap())),
                    };
                    match outcome {
                        Ok(handle) => {
                            won.fetch_add(1, Ordering::SeqCst);
                            handle.call(Request::text("x")).unwrap();
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Duplicate);
                            lost.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!((won.into_inner(), lost.into_inner()), (1, 7));
        block_on(host.unregister("x")).unwrap();
    }
    assert!(host.list().is_empty() && host.retained().is_empty());
}

#[test]
fn registration_completes_without_its_future() {
    let host = Host::builder()
        .register_factory("plain", |_: &Config| {
            std::thread::sleep(Duration::from_millis(50));
            Ok(Plain)
        })
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = host.clone();
    runtime.block_on(async {
        tokio::spawn(async move { other.create("plain", "x", json!({})).await.map(|_| ()) });
        tokio::task::yield_now().await;
    });
    drop(runtime);
    until("it serves", || host.plugin("x").ok());
    // Never polled: nothing happens.
    drop(host.create("plain", "y", json!({})));
    assert_eq!(names(&host), ["x"]);
}

#[test]
fn token_ends_hosts_at_any_moment() {
    for round in 0..40_u64 {
        let token = CancellationToken::new();
        let plugins = Plugins::new();
        plugins.add("echo", "faulty").write();
        let cancel = token.clone();
        let cancelling_thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(round * 300));
            cancel.cancel();
            cancel.cancel();
        });
        let host = Host::builder()
            .plugin_dir(plugins.dir())
            .cancellation_token(token)
            .register_fn("fn", |_, _| Ok(Output::text("x")))
            .build()
            .unwrap();
        let copy = host.clone();
        let report = block_on(host.load_all());
        for refused in report.refused {
            assert_eq!(
                refused.error.kind(),
                ErrorKind::Shutdown,
                "{}",
                refused.error.full_message()
            );
        }
        cancelling_thread.join().unwrap();
        if round % 2 == 0 {
            drop(host);
            drop(copy);
        } else {
            block_on(copy.shutdown(Duration::from_secs(5)));
            assert!(copy.list().is_empty());
        }
    }
    until("no thread is left", || threads("hotbay-cancel").is_empty().then_some(()));
}

#[test]
fn unregister_while_calls_run() {
    let host = Host::builder()
        .limits(limits(|limits| limits.drain_timeout = Duration::from_millis(100)))
        .build()
        .unwrap();
    let (started, start) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let handle = block_on(host.register_fn("x", move |_, _| {
        let _ = started.send(());
        let _ = released.lock().unwrap().recv();
        Ok(Output::text("done"))
    }))
    .unwrap();
    let call = handle.clone();
    let running = std::thread::spawn(move || block_on(call.execute(Request::text("x"))));
    start.recv().unwrap();
    let report = block_on(host.unregister("x")).unwrap();
    assert!(report.retain_reason.is_some(), "{report:?}");
    // The name is free, and the old call still returns.
    block_on(host.register_fn("x", |_, _| Ok(Output::text("new")))).unwrap();
    release.send(()).unwrap();
    assert_eq!(running.join().unwrap().unwrap().as_text().unwrap(), "done");
    until("it is unloaded", || host.retained().is_empty().then_some(()));
    assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Retired);
}

#[test]
fn shutdown_waits_for_a_load_that_runs() {
    let ended = Arc::new(AtomicBool::new(false));
    let factory = Arc::clone(&ended);
    let (started, start) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (started, released) = (Mutex::new(started), Mutex::new(released));
    let host = Host::builder()
        .register_factory("slow", move |_: &Config| {
            let _ = started.lock().unwrap().send(());
            let _ = released.lock().unwrap().recv();
            Ok(Slow(Arc::clone(&factory)))
        })
        .build()
        .unwrap();
    let other = host.clone();
    let create = std::thread::spawn(move || block_on(other.create("slow", "slow", json!({}))));
    start.recv().unwrap();
    let other = host.clone();
    let shutdown = std::thread::spawn(move || {
        block_on(other.shutdown(Duration::from_secs(10)));
        ended.load(Ordering::SeqCst)
    });
    until("the host is closed", || {
        let error = host.plugin("slow").err()?;
        (error.kind() == ErrorKind::Shutdown).then_some(())
    });
    release.send(()).unwrap();
    assert_eq!(create.join().unwrap().unwrap_err().kind(), ErrorKind::Shutdown);
    assert!(shutdown.join().unwrap(), "the loaded plugin was still shutting down");
}

#[test]
fn every_refused_registration_is_an_event() {
    let host = Host::builder().register_factory("plain", |_: &Config| Ok(Plain)).build().unwrap();
    let mut events = host.events();
    let mut refused = |error: Option<hotbay::Error>| {
        let error = error.expect("it is refused");
        let Some(HostEvent::Refused { plugin, reason, hint }) = events.try_next() else {
            panic!("no event for `{}`", error.full_message());
        };
        assert_eq!(reason, error.full_message());
        assert_eq!(hint.as_deref(), error.hint());
        plugin
    };
    let nothing = || Ok(Output::text(""));
    assert_eq!(refused(block_on(host.register_fn("No", move |_, _| nothing())).err()), "No");
    assert_eq!(refused(block_on(host.create("plain", "No", json!({}))).err()), "No");
    assert_eq!(refused(block_on(host.create("plain", "a", json!(1))).err()), "a");
    assert_eq!(refused(block_on(host.create("unknown", "a", json!({}))).err()), "a");
}

#[test]
fn second_registration_of_a_name_is_reported_as_such() {
    let host = Host::builder().register_fn("x", |_, _| Ok(Output::text(""))).build().unwrap();
    let error = block_on(host.register_fn("x", |_, _| Ok(Output::text("")))).unwrap_err();
    assert_eq!(error.full_message(), "plugin `x` is already registered");
}

#[test]
fn cancelled_token_leaves_no_watch() {
    let plugins = Plugins::new();
    let token = CancellationToken::new();
    token.cancel();
    let hosts: Vec<_> = (0..20)
        .map(|_| {
            let builder = Host::builder().plugin_dir(plugins.dir()).hot_reload(true);
            builder.cancellation_token(token.clone()).build().unwrap()
        })
        .collect();
    // Other tests watch as well, but not forever.
    until("no watch is left", || threads("hotbay-watch").is_empty().then_some(()));
    drop(hosts);
}

/// A separate cargo call builds the program: a call that also builds the plugins would enable their
/// exports.
#[test]
#[allow(clippy::disallowed_methods, reason = "starts cargo")]
fn two_plugins_link_into_one_program() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tested = Command::new(cargo)
        .args(["test", "--package", "hotbay-linked", "--features", "linked"])
        .args(["--test", "linked", "--quiet"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    let output_text = String::from_utf8_lossy(&tested.stdout);
    let errors = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{output_text}\n{errors}");
    assert!(output_text.contains("3 passed"), "{output_text}");
}
