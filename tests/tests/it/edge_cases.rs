//! Edge cases: chains of threads, infinite waits, late faults of the old build, shutdown after a
//! reload, and very long texts.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use hotbay::{Error, ErrorKind, Host, HostEvent, LoadStep, Request};
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, events_until, host, limits, loaded, quarantine, refused,
    reloaded, rolled_back, unique, until,
};
use serde_json::{Value, json};

fn is_closed(event: &HostEvent) -> bool {
    matches!(event, HostEvent::Closed { .. })
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn chained_threads_keep_library_until_last_exits() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("chain");
    // Chains of many lengths, so that the last thread exits at any moment of the unload.
    for length in [0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 400, 800, 1600, 3200] {
        let config = json!({ "chain": { "length": length } });
        let folder = plugins.add(&name, "faulty").config(config).write();
        for _ in 0..2 {
            let handle = loaded(&host, &folder);
            assert_eq!(handle.call(Request::text("x")).unwrap().as_bytes(), b"x");
            block_on(host.unload(&name)).unwrap();
            // At once, or after being kept for a while.
            event(&mut events, is_closed);
            until("it is unmapped", || (hotbay_tests::mappings(&name) == 0).then_some(()));
        }
    }
    until("nothing is kept", || host.retained().is_empty().then_some(()));
}

#[test]
fn too_small_stack_is_enlarged_and_reported() {
    let plugins = Plugins::new();
    let small = json!({ "stack_bytes": 1 });
    plugins.add("small", "faulty").set("limits", small).write();
    let host = host(&plugins);
    let report = block_on(host.load_all());
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    let info = host.list().pop().unwrap();
    for notes in [&report.loaded[0].notes, &info.notes] {
        let [note] = notes.as_slice() else { panic!("{notes:?}") };
        for part in ["`limits.stack_bytes` is 1;", "requires at least 262144"] {
            assert!(note.contains(part), "`{part}` in: {note}");
        }
    }
    let small = host.plugin("small").unwrap();
    assert_eq!(small.call(Request::text("here")).unwrap().as_bytes(), b"here");
    assert_eq!(block_on(small.execute(Request::text("there"))).unwrap().as_bytes(), b"there");
    block_on(small.health()).unwrap();
}

#[test]
fn infinite_waits_are_accepted() {
    for handover in ["overlap", "pause", "stop-first"] {
        let plugins = Plugins::new();
        let endless = limits(|limits| {
            limits.start_timeout = Duration::MAX;
            limits.drain_timeout = Duration::MAX;
            limits.pause_timeout = Duration::MAX;
            limits.stop_timeout = Duration::MAX;
        });
        let policy = quarantine(|policy| {
            policy.max_faults = 2;
            policy.window = Duration::MAX;
            policy.initial_backoff = Duration::MAX;
            policy.max_backoff = Duration::MAX;
        });
        let host = Host::builder().limits(endless).quarantine(Some(policy)).build().unwrap();
        let mut events = host.events();
        let install = |at: u32| {
            let config = json!({ "scripted": true, "at": at });
            plugins.add("endless", "faulty").set("handover", handover).config(config).write()
        };
        let handle = loaded(&host, install(1));
        let panics = json!({ "panic_in": "execute" }).to_string();
        let kind = |text: &str| handle.call(Request::json_text(text)).err().map(|e| e.kind());
        assert_eq!(kind("{}"), None, "{handover}");
        assert!(block_on(handle.execute(Request::json_text("{}"))).is_ok());
        for _ in 0..2 {
            assert_eq!(kind(&panics), Some(ErrorKind::Panicked));
        }
        assert_eq!(kind("{}"), Some(ErrorKind::Quarantined));
        event(&mut events, |event| matches!(event, HostEvent::Quarantined { .. }));
        let before = handle.pin().unwrap();
        thread::scope(|scope| {
            install(2);
            let reload = scope.spawn(|| reloaded(&host, "endless"));
            // The reload waits for the pin, or has given up on it.
            until("the pin is reported", || {
                let error = before.call(Request::json_text("{}")).err()?;
                (error.kind() == ErrorKind::Retired).then_some(())
            });
            drop(before);
            assert_eq!(reload.join().unwrap().get(), 2);
        });
        assert_eq!(kind("{}"), None, "{handover}");
        block_on(host.shutdown(Duration::MAX));
        let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
        let closed = seen.iter().filter(|event| is_closed(event)).count();
        assert_eq!(closed, 2, "{handover}: {seen:#?}");
    }
}

#[test]
fn late_fault_of_old_build_is_not_counted_for_new() {
    const CALLS: usize = 5;
    let plugins = Plugins::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 2;
        policy.window = LIMIT * 60;
        policy.initial_backoff = LIMIT * 60;
        policy.max_backoff = LIMIT * 60;
    });
    let host = Host::builder().quarantine(Some(policy)).build().unwrap();
    let mut events = host.events();
    let install = |at: u32| {
        plugins.add("heir", "faulty").config(json!({ "scripted": true, "at": at })).write()
    };
    let handle = loaded(&host, install(1));
    let release = plugins.dir().join("go");
    let call_with = |action: Value| {
        let outcome = handle.call(Request::json_text(&action.to_string()));
        outcome.map(|reply| reply.generation().get())
    };
    let panicked_in = |outcome: Result<u64, Error>| {
        let error = outcome.expect_err("it panics");
        assert_eq!(error.kind(), ErrorKind::Panicked, "{}", error.full_message());
        error.generation().map(|generation| generation.get())
    };
    thread::scope(|scope| {
        let entered: Vec<_> = (0..CALLS).map(|at| plugins.dir().join(format!("in-{at}"))).collect();
        let old: Vec<_> = entered
            .iter()
            .map(|entered| {
                let mut action = json!({ "hang_in": "execute", "panic_in": "execute" });
                action["release"] = json!(release);
                action["entered"] = json!(entered);
                scope.spawn(|| call_with(action))
            })
            .collect();
        until("all calls run", || entered.iter().all(|file| file.exists()).then_some(()));
        install(2);
        assert_eq!(reloaded(&host, "heir").get(), 2);
        std::fs::write(&release, "").unwrap();
        for call in old {
            assert_eq!(panicked_in(call.join().unwrap()), Some(1));
        }
    });
    let seen = events_until(&mut events, is_closed);
    let faults = seen.iter().filter(|event| matches!(event, HostEvent::Faulted { .. })).count();
    assert_eq!(faults, CALLS, "{seen:#?}");
    let quarantined = |event: &HostEvent| matches!(event, HostEvent::Quarantined { .. });
    assert!(!seen.iter().any(quarantined), "{seen:#?}");
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
    // The new build counts only its own faults.
    assert_eq!(panicked_in(call_with(json!({ "panic_in": "execute" }))), Some(2));
    assert_eq!(call_with(json!({})).unwrap(), 2);
    assert_eq!(panicked_in(call_with(json!({ "panic_in": "execute" }))), Some(2));
    assert_eq!(call_with(json!({})).unwrap_err().kind(), ErrorKind::Quarantined);
    event(&mut events, quarantined);
}

#[test]
fn shutdown_waits_for_earlier_replaced_builds() {
    let plugins = Plugins::new();
    let patient = limits(|limits| limits.stop_timeout = LIMIT);
    let host = Host::builder().limits(patient).build().unwrap();
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let config = json!({ "hang_in": "shutdown", "release": release, "entered": entered });
    loaded(&host, plugins.add("slow", "faulty").config(config).write());
    let mut events = host.events();
    plugins.add("slow", "faulty").write();
    assert_eq!(reloaded(&host, "slow").get(), 2);
    until("the old build shuts down", || entered.exists().then_some(()));
    let mut seen = thread::scope(|scope| {
        let shutdown = scope.spawn(|| block_on(host.shutdown(LIMIT)));
        let is_of_new = |event: &HostEvent| matches!(event, HostEvent::Closed { generation, .. } if generation.get() == 2);
        let seen = events_until(&mut events, is_of_new);
        assert!(!shutdown.is_finished(), "the old build has not finished");
        std::fs::write(&release, "").unwrap();
        shutdown.join().unwrap();
        seen
    });
    while let Some(event) = events.try_next() {
        seen.push(event);
    }
    let old = |event: &HostEvent| match event {
        HostEvent::Retired { generation, .. } if generation.get() == 1 => Some("retired"),
        HostEvent::Closed { generation, .. } if generation.get() == 1 => Some("closed"),
        HostEvent::Stopped => Some("stopped"),
        _ => None,
    };
    let reported: Vec<_> = seen.iter().filter_map(old).collect();
    assert_eq!(reported, ["retired", "closed", "stopped"], "{seen:#?}");
}

#[test]
fn events_end_with_last_host_despite_handles() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handle = loaded(&host, plugins.add("left", "faulty").write());
    let other = host.clone();
    let mut events = host.events();
    drop(host);
    assert!(events.try_next().is_none() && handle.call(Request::text("x")).is_ok());
    drop(other);
    let seen = block_on(async {
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            seen.push(event);
        }
        seen
    });
    assert!(matches!(seen.last(), Some(HostEvent::Stopped)), "{seen:#?}");
    assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(block_on(handle.health()).unwrap_err().kind(), ErrorKind::Shutdown);
}

/// Returns the error of a future that completes at the first poll.
fn at_once<T>(future: impl Future<Output = Result<T, Error>>) -> Error {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(Err(error)) => error,
        Poll::Ready(Ok(_)) => panic!("the call succeeded"),
        Poll::Pending => panic!("the future is pending"),
    }
}

#[test]
fn state_queries_during_pause_return_at_once() {
    let plugins = Plugins::new();
    let patient = limits(|limits| limits.pause_timeout = LIMIT);
    let host = Host::builder().limits(patient).build().unwrap();
    for handover in ["pause", "stop-first"] {
        let install = |at: u32| {
            let config = json!({ "count": true, "at": at });
            plugins.add(handover, "faulty").set("handover", handover).config(config).write()
        };
        let handle = loaded(&host, install(1));
        block_on(handle.health()).unwrap();
        let pinned = handle.pin().unwrap();
        install(2);
        thread::scope(|scope| {
            let reload = scope.spawn(|| reloaded(&host, handover));
            until("it is paused", || pinned.call(Request::text("x")).err());
            for error in [at_once(handle.health()), at_once(handle.snapshot())] {
                assert_eq!(error.kind(), ErrorKind::Overloaded, "{handover}");
                // A waiting call reports how long it waited.
                let reported = error.to_string();
                assert!(
                    reported.contains("is being reloaded") && !reported.contains("waited"),
                    "{reported}"
                );
            }
            assert!(!reload.is_finished(), "the pin blocks the reload");
            drop(pinned);
            assert_eq!(reload.join().unwrap().get(), 2);
        });
        block_on(handle.health()).unwrap();
        assert!(block_on(handle.snapshot()).unwrap().is_some());
    }
}

#[test]
fn huge_panic_message_reaches_caller_truncated() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let config = json!({ "panic_in": "execute", "panic_bytes": 1 << 20 });
    let handle = loaded(&host, plugins.add("verbose", "faulty").config(config).write());
    let check = |message: &str| {
        let text = message.strip_suffix("… (cut)").expect("it is cut");
        // One byte less if a character would be split.
        assert!((16 << 10) - message.len() <= 1, "{}", message.len());
        let letters = text.strip_prefix('a').expect("the text starts with `a`");
        assert!(letters.chars().all(|letter| letter == 'é'));
    };
    for pooled in [false, true] {
        let error = match pooled {
            false => handle.call(Request::text("x")).unwrap_err(),
            true => block_on(handle.execute(Request::text("x"))).unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let fault = error.fault().unwrap();
        check(fault.message());
        assert!(fault.location().is_some_and(|at| at.contains("behavior.rs")), "{fault:?}");
        match event(&mut events, |event| matches!(event, HostEvent::Faulted { .. })) {
            HostEvent::Faulted { fault, .. } => check(fault.message()),
            other => panic!("{other:?}"),
        }
    }
    // Its memory is freed.
    block_on(host.unload("verbose")).unwrap();
    match event(&mut events, is_closed) {
        HostEvent::Closed { leaked_bytes, .. } => {
            assert!(leaked_bytes.is_none_or(|bytes| bytes < 1 << 20), "{leaked_bytes:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn kept_libraries_bound_loads_like_reloads() {
    let plugins = Plugins::new();
    let bounded = limits(|limits| limits.max_retained_libraries = 1);
    let host = Host::builder().plugin_dir(plugins.dir()).limits(bounded).build().unwrap();
    let install = |name: &str, at: u32| {
        let config = json!({ "output_bytes": 100, "at": at });
        plugins.add(name, "faulty").config(config).write()
    };
    let stays = loaded(&host, install("stays", 1));
    let serves = loaded(&host, install("serves", 1));
    let held = stays.call(Request::text("x")).unwrap();
    block_on(host.unload("stays")).unwrap();
    assert_eq!(host.retained().len(), 1);
    let check = |error: Error| {
        let reported = error.full_message();
        let kind = (error.kind(), error.step());
        assert_eq!(kind, (ErrorKind::Overloaded, Some(LoadStep::Open)), "{reported}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("`max_retained_libraries`")),
            "{error:?}"
        );
    };
    let (folder, again) = (install("comes", 1), install("stays", 1));
    check(refused(&host, &folder));
    check(refused(&host, &again));
    install("serves", 2);
    check(rolled_back(&host, "serves"));
    assert_eq!(serves.call(Request::text("x")).unwrap().generation().get(), 1);
    assert_eq!(host.list().len(), 1);
    drop(held);
    until("it is closed", || host.retained().is_empty().then_some(()));
    // The refused load reserved no name.
    loaded(&host, &folder);
    loaded(&host, &again);
    assert_eq!(reloaded(&host, "serves").get(), 2);
}
