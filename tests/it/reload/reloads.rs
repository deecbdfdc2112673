//! Reloads while calls are in flight: which build answers, what is reported, and which plugins can
//! be reloaded.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::task::{Context, Waker};
use std::thread;

use hotbay::{ErrorKind, Host, HostEvent, LoadStep, Reloaded, Request};
use hotbay_tests::{
    Plugins, block_on, event, events_until, host, images, limits, loaded, quarantine, reloaded,
    rolled_back, threads, under_load, unique, until,
};
use serde_json::json;

/// Reloads a plugin `swaps` times between two configs while four threads call it. Every reply must
/// match its generation.
fn swap_under_load(package: &str, swaps: u64, configs: [serde_json::Value; 2], texts: [&str; 2]) {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("swap");
    let install = |at: u64| {
        let config = configs[usize::try_from(at % 2).unwrap()].clone();
        plugins.add(&name, package).config(config).write()
    };
    let handle = loaded(&host, install(1));
    let replies = Mutex::new(BTreeMap::<u64, u64>::new());
    let check = |outcome: Result<hotbay::Reply, hotbay::Error>| {
        let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
        let generation = reply.generation().get();
        let expected = texts[usize::try_from(generation % 2).unwrap()];
        assert_eq!(reply.as_text().unwrap(), expected, "of generation {generation}");
        *replies.lock().unwrap().entry(generation).or_default() += 1;
    };
    under_load(&handle, 4, check, |traffic| {
        for generation in 2..=swaps + 1 {
            install(generation);
            assert_eq!(reloaded(&host, &name).get(), generation);
            if generation % 10 == 0 {
                traffic.wait_for_progress();
            }
        }
    });
    // All but the last are closed, some only after a held reply is dropped.
    let mut closed = 0;
    while closed < swaps {
        let end = |event: &HostEvent| {
            matches!(event, HostEvent::Closed { .. } | HostEvent::Missed { .. })
        };
        match event(&mut events, end) {
            HostEvent::Closed { .. } => closed += 1,
            missed => panic!("{missed:?}"),
        }
    }
    assert_eq!(images(&name).len(), usize::from(cfg!(target_os = "linux")), "{:?}", images(&name));
    until("nothing is kept", || host.retained().is_empty().then_some(()));
    assert!(replies.lock().unwrap().len() as u64 > swaps / 10);
    assert_eq!(host.list()[0].stats.refused, 0);
}

#[test]
fn reloads_under_load_fail_no_call() {
    let configs = ["of an even generation, all of it", "of an odd generation, all of it"];
    let answers = configs.map(|text| json!({ "answers": text }));
    swap_under_load("faulty", 200, answers, configs);
}

#[test]
fn working_plugin_is_swapped_under_load() {
    let texts = ["A TEXT OF MORE THAN 24 BYTES", "a text of more than 24 bytes"];
    let configs = ["upper", "lower"].map(|mode| json!({ "mode": mode }));
    swap_under_load("transform", 200, configs, texts);
}

#[test]
fn reload_moves_queued_calls_and_lets_running_end() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("queued");
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let hangs = json!({ "hang_in": "execute", "release": release, "entered": entered });
    let one_worker = json!({ "workers": 1 });
    let plugin = plugins.add(&name, "faulty").config(hangs).set("limits", one_worker.clone());
    let handle = loaded(&host, plugin.write());
    let running = handle.execute(Request::text("x"));
    until("the first call runs", || entered.exists().then_some(()));
    let queued: Vec<_> = (0..50).map(|_| handle.execute(Request::text("x"))).collect();
    let config = json!({ "answers": "new" });
    plugins.add(&name, "faulty").config(config).set("limits", one_worker).write();
    assert_eq!(reloaded(&host, &name).get(), 2);
    for queued in queued {
        let reply = block_on(queued).unwrap();
        assert_eq!((reply.as_bytes(), reply.generation().get()), (b"new".as_slice(), 2));
    }
    let old = format!("{name}-1");
    #[cfg(target_os = "linux")]
    assert_eq!(
        threads(&old),
        [old.as_str(); 2],
        "the hanging worker and the thread that opened it"
    );
    std::fs::write(release, "").unwrap();
    let reply = block_on(running).unwrap();
    assert_eq!((reply.as_bytes(), reply.generation().get()), (b"x".as_slice(), 1));
    event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    until("its threads have exited", || threads(&old).is_empty().then_some(()));
}

#[test]
fn reload_events_come_in_order() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let install = |at: u32| plugins.add("events", "faulty").config(json!({ "at": at })).write();
    loaded(&host, install(1));
    let mut events = host.events();
    install(2);
    reloaded(&host, "events");
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    let [
        HostEvent::Promoted { plugin, version, generation, from },
        HostEvent::Retired { generation: retired, .. },
        HostEvent::Closed { generation: closed, leaked_bytes, .. },
    ] = seen.as_slice()
    else {
        panic!("{seen:#?}");
    };
    assert_eq!((plugin.as_str(), version.to_string().as_str()), ("events", "0.1.0"));
    assert_eq!((generation.get(), from.map(|from| from.get())), (2, Some(1)));
    assert_eq!((retired.get(), closed.get()), (1, 1));
    assert!(leaked_bytes.is_none_or(|bytes| bytes == 0), "{leaked_bytes:?}");
    let info = &host.list()[0];
    assert_eq!(info.generation.map(|generation| generation.get()), Some(2));
    assert_eq!(info.manifest.config()["at"], 2);
}

#[test]
fn unchanged_plugin_is_not_reloaded() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handle = loaded(&host, plugins.add("same", "faulty").write());
    for _ in 0..2 {
        plugins.add("same", "faulty").write();
        assert_eq!(block_on(host.reload("same")).unwrap(), Reloaded::Unchanged);
    }
    assert_eq!(handle.call(Request::text("x")).unwrap().generation().get(), 1);
}

#[test]
fn only_plugins_from_folders_reload() {
    let host = Host::builder().register_fn("inside", |_, _| Ok("x".into())).build().unwrap();
    for (name, kind) in [("inside", ErrorKind::Unsupported), ("insid", ErrorKind::NotFound)] {
        let error = rolled_back(&host, name);
        assert_eq!(error.kind(), kind, "{}", error.full_message());
    }
    assert!(host.plugin("inside").unwrap().call(Request::text("x")).is_ok());
}

#[test]
fn plugin_renamed_in_folder_is_not_reloaded() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    loaded(&host, plugins.add("before", "faulty").write());
    plugins.add_in("before", "after", "faulty").write();
    let error = rolled_back(&host, "before");
    assert_eq!((error.kind(), error.step()), (ErrorKind::Manifest, Some(LoadStep::Manifest)));
    assert!(error.full_message().contains("`after`"), "{}", error.full_message());
}

#[test]
fn concurrent_reloads_coalesce_to_latest() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    loaded(&host, plugins.add("office", "faulty").write());
    let config = json!({ "hang_in": "init", "release": release, "entered": entered });
    plugins.add("office", "faulty").config(config).write();
    thread::scope(|scope| {
        let first = scope.spawn(|| block_on(host.reload("office")));
        until("the first reload runs", || entered.exists().then_some(()));
        plugins.add("office", "faulty").config(json!({ "answers": "latest" })).write();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(host.reload("office"))).collect();
        for request in &mut waiting {
            let mut context = Context::from_waker(Waker::noop());
            assert!(request.as_mut().poll(&mut context).is_pending());
        }
        std::fs::write(&release, "").unwrap();
        let latest = block_on(waiting.pop().unwrap()).unwrap();
        let first = first.join().unwrap().unwrap();
        let generations = [first, latest].map(|reloaded| match reloaded {
            Reloaded::Promoted(generation) => generation.get(),
            _ => 0,
        });
        assert_eq!(generations, [2, 3]);
        for superseded in waiting {
            let error = block_on(superseded).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Superseded, "{}", error.full_message());
        }
    });
    let reply = host.plugin("office").unwrap().call(Request::text("x")).unwrap();
    assert_eq!(reply.as_bytes(), b"latest");
}

#[test]
fn reload_breaking_dependents_is_refused() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    loaded(&host, plugins.add("store", "faulty").write());
    for (name, expected) in [("exact", "=0.1.0"), ("web", "^0.1")] {
        let requires = json!({ "store": expected });
        loaded(&host, plugins.add(name, "faulty").set("requires", requires).write());
    }
    let newer = |version: &str| {
        let plugin = plugins.add("store", "faulty").set("version", version);
        plugin.patch("version=0.1.0\n", &format!("version={version}\n")).write();
    };
    newer("0.1.7");
    let error = rolled_back(&host, "store");
    assert_eq!((error.kind(), error.step()), (ErrorKind::Requires, Some(LoadStep::Requires)));
    let message = error.full_message();
    assert!(message.contains("`exact` requires =0.1.0") && !message.contains("web"), "{message}");
    block_on(host.unload("exact")).unwrap();
    assert_eq!(reloaded(&host, "store").get(), 2);
    newer("0.2.0");
    let message = rolled_back(&host, "store").full_message();
    assert!(message.contains("0.2.0") && message.contains("`web` requires ^0.1"), "{message}");
    assert_eq!(host.plugin("store").unwrap().pin().unwrap().generation().get(), 2);
}

#[test]
fn reload_with_missing_requirement_is_refused() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    loaded(&host, plugins.add("web", "faulty").write());
    plugins.add("web", "faulty").set("requires", json!({ "store": "^0.1" })).write();
    let error = rolled_back(&host, "web");
    assert_eq!((error.kind(), error.step()), (ErrorKind::Requires, Some(LoadStep::Requires)));
    let message = error.full_message();
    assert!(message.contains("requires `store` ^0.1, which is not loaded"), "{message}");
    loaded(&host, plugins.add("store", "faulty").write());
    assert_eq!(reloaded(&host, "web").get(), 2);
    let error = block_on(host.unload("store")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Requires, "the new build requires it");
}

#[test]
fn reload_ends_quarantine() {
    let plugins = Plugins::new();
    let policy = quarantine(|policy| policy.max_faults = 2);
    let host = Host::builder().quarantine(Some(policy)).build().unwrap();
    let config = json!({ "panic_in": "execute" });
    let handle = loaded(&host, plugins.add("fixed", "faulty").config(config).write());
    let kinds = [(); 3].map(|()| handle.call(Request::text("x")).unwrap_err().kind());
    assert_eq!(kinds, [ErrorKind::Panicked, ErrorKind::Panicked, ErrorKind::Quarantined]);
    plugins.add("fixed", "faulty").write();
    reloaded(&host, "fixed");
    assert!(handle.call(Request::text("x")).is_ok());
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
}

#[test]
fn pin_keeps_its_generation_and_is_reported() {
    let plugins = Plugins::new();
    let wait = limits(|limits| limits.drain_timeout = hotbay_tests::LIMIT);
    let host = Host::builder().limits(wait).build().unwrap();
    let mut events = host.events();
    let handle = loaded(&host, plugins.add("pinned", "faulty").write());
    let pinned = handle.pin().unwrap();
    plugins.add("pinned", "faulty").config(json!({ "answers": "new" })).write();
    reloaded(&host, "pinned");
    let error = pinned.call(Request::text("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retired);
    assert_eq!(error.generation().map(|generation| generation.get()), Some(1));
    assert_eq!(handle.call(Request::text("x")).unwrap().as_bytes(), b"new");
    drop(pinned);
    event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
}
