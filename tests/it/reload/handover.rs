//! Handover of state between builds: overlapping, paused, and with the old build stopped first.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, LoadStep, Manifest, PluginHandle, Request};
use hotbay_plugin::prelude::*;
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, events_until, host, limits, loaded, reloaded, rolled_back,
    under_load, unique, until,
};
use serde_json::{Value, json};

fn total(handle: &PluginHandle) -> u64 {
    handle.call(Request::text("x")).unwrap().json().unwrap()
}

#[test]
fn state_survives_every_handover() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    for handover in ["overlap", "pause", "stop-first"] {
        let install = |at: u64| {
            let config = json!({ "count": true, "at": at });
            plugins.add(handover, "faulty").set("handover", handover).config(config).write()
        };
        let handle = loaded(&host, install(1));
        for generation in 2..6 {
            assert_eq!(total(&handle), generation - 1, "{handover}");
            install(generation);
            assert_eq!(reloaded(&host, handover).get(), generation);
        }
    }
}

#[test]
fn counter_restores_state_of_first_version() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let install = |step: u64| {
        let counter = plugins.add("counter", "counter").set("handover", "pause");
        counter.config(json!({ "start": 1000, "step": step })).write()
    };
    let state = Snapshot::new(1, 40_u64.to_le_bytes());
    let counter =
        block_on(host.load_with(install(1), hotbay::LoadOptions::new().with_state(state))).unwrap();
    let next = || counter.call(Request::text("")).unwrap().json::<u64>().unwrap();
    assert_eq!(next(), 41);
    install(10);
    reloaded(&host, "counter");
    assert_eq!(next(), 51);
    let state = Snapshot::new(3, "");
    block_on(host.unload("counter")).unwrap();
    let error = block_on(host.load_with(install(1), hotbay::LoadOptions::new().with_state(state)))
        .unwrap_err();
    assert_eq!(error.step(), Some(LoadStep::Restore), "{}", error.full_message());
}

/// Counts on four threads while the build is replaced fifty times; no count is lost or repeated.
fn count_under_load(handover: &str) {
    let plugins = Plugins::new();
    let patient = limits(|limits| limits.pause_timeout = LIMIT);
    let host = Host::builder().limits(patient).build().unwrap();
    let install = |at: u64| {
        let config = json!({ "count": true, "at": at });
        plugins.add("counts", "faulty").set("handover", handover).config(config).write()
    };
    let handle = loaded(&host, install(1));
    let calls = AtomicU64::new(0);
    let served = |outcome: Result<hotbay::Reply, hotbay::Error>| {
        let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
        assert!(reply.json::<u64>().unwrap() > 0);
        calls.fetch_add(1, Ordering::Relaxed);
    };
    under_load(&handle, 4, served, |traffic| {
        for generation in 2..=51 {
            install(generation);
            assert_eq!(reloaded(&host, "counts").get(), generation);
            if generation % 10 == 0 {
                traffic.wait_for_progress();
            }
        }
    });
    assert_eq!(total(&handle), calls.into_inner() + 1, "by {handover}");
}

#[test]
fn paused_handover_loses_and_repeats_no_call() {
    count_under_load("pause");
}

#[test]
fn stop_first_handover_loses_and_repeats_no_call() {
    count_under_load("stop-first");
}

#[test]
fn pin_rolls_back_pause_and_both_builds_serve_again() {
    let plugins = Plugins::new();
    let wait = limits(|limits| limits.pause_timeout = Duration::from_millis(50));
    let host = Host::builder().limits(wait).build().unwrap();
    let mut events = host.events();
    for handover in ["pause", "stop-first"] {
        let install = |at: u32| {
            let config = json!({ "count": true, "at": at });
            plugins.add(handover, "faulty").set("handover", handover).config(config).write()
        };
        let handle = loaded(&host, install(1));
        assert_eq!(total(&handle), 1);
        let pinned = handle.pin().unwrap();
        install(2);
        let error = rolled_back(&host, handover);
        let message = error.full_message();
        assert_eq!((error.kind(), error.step()), (ErrorKind::Overloaded, Some(LoadStep::Drain)));
        assert!(
            message.contains("calls or pins were still active after 50 ms (active: 1)"),
            "{message}"
        );
        assert!(message.contains("generation 1 keeps serving"), "{message}");
        event(&mut events, |event| matches!(event, HostEvent::RolledBack { .. }));
        assert_eq!(total(&handle), 2);
        assert_eq!(pinned.call(Request::text("x")).unwrap().as_bytes(), b"3");
        assert_eq!(block_on(handle.execute(Request::text("x"))).unwrap().as_bytes(), b"4");
        drop(pinned);
        assert!(reloaded(&host, handover).get() > 1);
        assert_eq!(total(&handle), 5);
    }
    assert!(host.retained().is_empty());
}

#[test]
fn calls_during_pause_are_answered_by_new_build() {
    let plugins = Plugins::new();
    let patient = limits(|limits| limits.pause_timeout = LIMIT);
    let host = Host::builder().limits(patient).build().unwrap();
    let install = |config: Value| {
        plugins.add("waits", "faulty").set("handover", "pause").config(config).write()
    };
    let handle = loaded(&host, install(json!({})));
    let pinned = handle.pin().unwrap();
    install(json!({ "answers": "new" }));
    thread::scope(|scope| {
        let reload = scope.spawn(|| reloaded(&host, "waits"));
        until("it is paused", || pinned.call(Request::text("x")).err());
        let pooled: Vec<_> = (0..20).map(|_| handle.execute(Request::text("x"))).collect();
        let calls = [(); 4].map(|()| scope.spawn(|| handle.call(Request::text("x")).unwrap()));
        assert!(host.list()[0].stats.waiting == 20 && !reload.is_finished());
        drop(pinned);
        assert_eq!(reload.join().unwrap().get(), 2);
        for reply in calls {
            assert_eq!(reply.join().unwrap().as_bytes(), b"new");
        }
        for reply in pooled {
            assert_eq!(block_on(reply).unwrap().as_bytes(), b"new");
        }
    });
}

/// A plugin that, during a call, pins another plugin and calls it while that one is paused.
struct Middle {
    inner: OnceLock<PluginHandle>,
    pinned: mpsc::SyncSender<()>,
}

impl Middle {
    fn answer(&self) -> Result<Output, PluginError> {
        let failed = |error: hotbay::Error| PluginError::new(500, error.full_message());
        let inner = self.inner.get().expect("set before the first call");
        let pinned = inner.pin().map_err(failed)?;
        self.pinned.send(()).expect("the test waits");
        until("it is paused", || match pinned.call(Request::text("x")) {
            Ok(_) => {
                CALLS.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(error) => Some(error),
        });
        let reply = inner.call(Request::text("x")).map_err(failed)?;
        CALLS.fetch_add(1, Ordering::Relaxed);
        let again = inner.pin().map_err(failed)?;
        assert_eq!(again.generation(), pinned.generation());
        Ok(Output::text(format!("{} by {}", reply.as_text().unwrap(), reply.generation())))
    }
}

/// Calls answered by the inner plugin.
static CALLS: AtomicU64 = AtomicU64::new(0);

static COMPILED_IN: OnceLock<Middle> = OnceLock::new();

struct CompiledIn;

impl Plugin for CompiledIn {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        COMPILED_IN.get().expect("it was set").answer()
    }
}

#[test]
fn nested_call_does_not_deadlock_pause() {
    let plugins = Plugins::new();
    let (pinned, was_pinned) = mpsc::sync_channel(1);
    let middle = |pinned| Middle { inner: OnceLock::new(), pinned };
    let function = Arc::new(middle(pinned.clone()));
    assert!(COMPILED_IN.set(middle(pinned)).is_ok());
    let patient = limits(|limits| limits.pause_timeout = LIMIT);
    let builder = Host::builder().limits(patient);
    let builder = builder.register::<CompiledIn>(Manifest::new("compiled-in", "1.0.0").unwrap());
    let inside = Arc::clone(&function);
    let host = builder.register_fn("function", move |_, _| inside.answer()).build().unwrap();
    let install = |at: u64| {
        let config = json!({ "count": true, "at": at });
        plugins.add("inner", "faulty").set("handover", "pause").config(config).write()
    };
    let inner = loaded(&host, install(0));
    let middles = [&*function, COMPILED_IN.get().unwrap()];
    for one in middles {
        assert!(one.inner.set(inner.clone()).is_ok());
    }
    let mut generation = 1;
    for name in ["function", "compiled-in"] {
        let outer = host.plugin(name).unwrap();
        for pooled in [false, true] {
            install(generation);
            thread::scope(|scope| {
                let call = scope.spawn(|| match pooled {
                    false => outer.call(Request::text("x")),
                    true => block_on(outer.execute(Request::text("x"))),
                });
                was_pinned.recv().unwrap();
                let reload = scope.spawn(|| reloaded(&host, "inner"));
                let reply = call.join().unwrap().unwrap();
                // The call is not lost: the state is taken after it.
                let calls = CALLS.load(Ordering::Relaxed);
                let expected = format!("{calls} by {generation}");
                assert_eq!(reply.as_text().unwrap(), expected);
                generation += 1;
                assert_eq!(reload.join().unwrap().get(), generation);
            });
        }
    }
    assert_eq!(total(&inner), CALLS.load(Ordering::Relaxed) + 1);
}

/// Installs a plugin that holds an exclusive resource.
fn exclusive(plugins: &Plugins, name: &str, more: Value) -> std::path::PathBuf {
    let mut config = json!({ "count": true, "lock": plugins.dir().join("lock") });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugins.add(name, "faulty").set("handover", "stop-first").config(config).write()
}

#[test]
fn stop_first_releases_exclusive_resource_before_start() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handle = loaded(&host, exclusive(&plugins, "port", json!({})));
    assert_eq!(total(&handle), 1);
    let mut events = host.events();
    exclusive(&plugins, "port", json!({ "at": 2 }));
    assert_eq!(reloaded(&host, "port").get(), 2);
    assert_eq!(total(&handle), 2);
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
    assert!(matches!(seen[0], HostEvent::Retired { .. }), "{seen:?}");
    assert!(matches!(seen.last(), Some(HostEvent::Promoted { from: None, .. })), "{seen:?}");
    // With another handover the new build cannot start beside the old one.
    let config = json!({ "count": true, "lock": plugins.dir().join("lock"), "at": 3 });
    plugins.add("port", "faulty").set("handover", "overlap").config(config).write();
    let message = rolled_back(&host, "port").full_message();
    assert!(
        message.contains("is taken") && message.contains("generation 2 keeps serving"),
        "{message}"
    );
}

#[test]
fn failed_start_after_stop_restarts_old_build_with_state() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let name = unique("port");
    let schema = json!({ "type": "object" }).to_string();
    let install = |more: Value| {
        let folder = exclusive(&plugins, &name, more);
        // A schema file, which belongs to the installed build.
        let file = folder.join("schema.json");
        fs::write(&file, &schema).unwrap();
        let manifest = folder.join("plugin.json");
        let mut fields: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
        fields["config_schema"] = "schema.json".into();
        fs::write(manifest, fields.to_string()).unwrap();
        folder
    };
    let handle = loaded(&host, install(json!({})));
    assert_eq!(total(&handle), 1);
    let mut events = host.events();
    let mut generation = 1;
    for (entry, step) in
        [("init", LoadStep::Init), ("restore", LoadStep::Restore), ("health", LoadStep::Health)]
    {
        install(json!({ "error_in": entry }));
        let error = rolled_back(&host, &name);
        let message = error.full_message();
        generation += 2;
        assert_eq!((error.kind(), error.step()), (ErrorKind::StartFailed, Some(step)), "{message}");
        let again = format!("the previous build was restarted as generation {generation}");
        assert!(message.contains(&again) && message.contains("on request"), "{message}");
        assert_eq!(error.generation().map(|serves| serves.get()), Some(generation));
        match event(&mut events, |event| matches!(event, HostEvent::RolledBack { .. })) {
            HostEvent::RolledBack { generation: serves, .. } => {
                assert_eq!(serves.map(|serves| serves.get()), Some(generation));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(total(&handle), generation.div_ceil(2));
        assert_eq!(hotbay_tests::images(&name).len(), usize::from(cfg!(target_os = "linux")));
    }
    install(json!({ "at": 2 }));
    reloaded(&host, &name);
    assert_eq!(total(&handle), 5);
}

#[test]
fn failed_start_of_both_builds_frees_name() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let switch = plugins.dir().join("broken");
    let broken = json!({ "error_in": "init", "while": switch });
    let handle = loaded(&host, exclusive(&plugins, "port", broken));
    let mut events = host.events();
    fs::write(&switch, "").unwrap();
    exclusive(&plugins, "port", json!({ "panic_in": "init" }));
    let queued = {
        let pinned = handle.pin().unwrap();
        thread::scope(|scope| {
            let reload = scope.spawn(|| rolled_back(&host, "port"));
            until("it is paused", || pinned.call(Request::text("x")).err());
            let queued = handle.execute(Request::text("x"));
            drop(pinned);
            let error = reload.join().unwrap();
            let message = error.full_message();
            for part in
                ["is no longer loaded", "failed to restart", "panicked: in init, on request"]
            {
                assert!(message.contains(part), "`{part}` in: {message}");
            }
            assert!(!message.contains("keeps serving"), "{message}");
            assert_eq!((error.kind(), error.generation()), (ErrorKind::StartFailed, None));
            queued
        })
    };
    let is_rolled_back = |event: &HostEvent| matches!(event, HostEvent::RolledBack { .. });
    let HostEvent::RolledBack { generation: None, .. } = event(&mut events, is_rolled_back) else {
        panic!("nothing serves");
    };
    assert_eq!(block_on(queued).unwrap_err().kind(), ErrorKind::Retired);
    assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Retired);
    assert_eq!(host.plugin("port").unwrap_err().kind(), ErrorKind::NotFound);
    fs::remove_file(switch).unwrap();
    let handle = loaded(&host, exclusive(&plugins, "port", json!({})));
    assert_eq!(total(&handle), 1);
}
