//! The end of generations and hosts: what holds them, what is kept and why, and what is left.

use std::fs;
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Events, Host, HostEvent, Request};
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, events_until, host, limits, loaded, mappings, threads, unique,
    until,
};
use serde_json::json;

/// Waits for the end of a generation, and returns why it was kept; `None` if it was closed.
fn wait_for_end(events: &mut Events) -> Option<String> {
    let end =
        |event: &HostEvent| matches!(event, HostEvent::Kept { .. } | HostEvent::Closed { .. });
    match event(events, end) {
        HostEvent::Kept { reason, .. } => Some(reason),
        _ => None,
    }
}

#[test]
fn held_reply_keeps_library_and_stays_readable() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("held");
    let config = json!({ "output_bytes": 1000 });
    let folder = plugins.add(&name, "faulty").config(config).write();
    let reply = block_on(loaded(&host, &folder).execute(Request::text("x"))).unwrap();
    block_on(host.unload(&name)).unwrap();
    assert_eq!(wait_for_end(&mut events).as_deref(), Some("outputs: 1 still held"));
    assert_eq!(host.retained()[0].reason, "outputs: 1 still held");
    #[cfg(target_os = "linux")]
    assert!(mappings(&name) > 0);
    drop(host);
    assert_eq!(reply.as_bytes(), vec![b'x'; 1000]);
    assert_eq!(reply.into_vec().len(), 1000);
}

#[test]
fn inline_and_copied_replies_keep_nothing() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("short");
    let config = json!({ "scripted": true });
    let folder = plugins.add(&name, "faulty").config(config).write();
    let handle = loaded(&host, &folder);
    let long = json!({ "output_bytes": 1000 }).to_string();
    let copy = block_on(handle.execute(Request::json_text(&long))).unwrap().into_vec();
    let short = block_on(handle.execute(Request::json_text("{}"))).unwrap();
    block_on(host.unload(&name)).unwrap();
    assert_eq!(wait_for_end(&mut events), None);
    assert_eq!(mappings(&name), 0);
    assert_eq!((copy.len(), short.as_bytes()), (1000, b"{}".as_slice()));
}

#[test]
fn unload_waits_for_pin_and_refuses_new_calls() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("pinned");
    let handle = loaded(&host, plugins.add(&name, "faulty").write());
    let pinned = handle.pin().unwrap();
    let unload = {
        let (host, name) = (host.clone(), name.clone());
        thread::spawn(move || block_on(host.unload(&name)))
    };
    until("new calls are refused", || handle.call(Request::text("x")).err());
    for _ in 0..100 {
        let error = pinned.call(Request::text("hi")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired, "{}", error.full_message());
    }
    while let Some(event) = events.try_next() {
        let early = matches!(event, HostEvent::Retired { .. } | HostEvent::Closed { .. });
        assert!(!early, "{event:?} while pinned");
    }
    assert!(!unload.is_finished());
    drop(pinned);
    unload.join().unwrap().unwrap();
    assert_eq!(wait_for_end(&mut events), None);
    assert_eq!(mappings(&name), 0);
}

#[test]
fn unload_times_out_on_pin_then_closes_when_released() {
    let plugins = Plugins::new();
    let wait = limits(|limits| limits.drain_timeout = Duration::from_millis(20));
    let host = Host::builder().limits(wait).build().unwrap();
    let mut events = host.events();
    let handle = loaded(&host, plugins.add("pinned", "faulty").write());
    let pinned = handle.pin().unwrap();
    block_on(host.unload("pinned")).unwrap();
    assert_eq!(wait_for_end(&mut events).as_deref(), Some("calls: some are still running"));
    for _ in 0..2 {
        let error = pinned.call(Request::text("hi")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired, "{}", error.full_message());
    }
    drop(pinned);
    // Checked again when the last lease is released.
    assert_eq!(wait_for_end(&mut events), None);
    until("no library is listed", || host.retained().is_empty().then_some(()));
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn running_thread_keeps_library_until_closed_event() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let file = |name: &str| plugins.dir().join(name);
    for (name, when) in [("at-a-call", json!(true)), ("at-init", json!("init"))] {
        let (release, answer) = (file(&format!("{name}.go")), file(&format!("{name}.said")));
        let config = json!({ "leave_thread": when, "release": release, "answer": answer });
        let plugin = plugins.add(name, "faulty").config(config);
        let handle = loaded(&host, plugin.set("permissions", json!(["log"])).write());
        block_on(handle.execute(Request::text("x"))).unwrap();
        block_on(host.unload(name)).unwrap();
        assert_eq!(wait_for_end(&mut events).as_deref(), Some("threads: 1 still running"));
        fs::write(release, "").unwrap();
        // The file exists before its text.
        let logged = until("the thread has written its result", || {
            fs::read_to_string(&answer).ok().filter(|logged| !logged.is_empty())
        });
        assert_eq!(logged, "Closed");
        // Checked again when the thread exits.
        assert_eq!(wait_for_end(&mut events), None);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn only_caller_thread_leftovers_keep_library() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let name = unique("touch");
    let config = json!({ "touch_thread": true });
    let folder = plugins.add(&name, "faulty").config(config).write();
    let mut events = host.events();
    block_on(loaded(&host, &folder).execute(Request::text("x"))).unwrap();
    block_on(host.unload(&name)).unwrap();
    assert_eq!(wait_for_end(&mut events), None);
    assert_eq!(mappings(&name), 0);

    let handle = loaded(&host, &folder);
    thread::scope(|scope| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (called, was_called) = std::sync::mpsc::channel();
        scope.spawn(move || {
            called.send(handle.call(Request::text("x")).is_ok()).unwrap();
            // Lives on with the plugin's thread-local value.
            let _ = wait.recv();
        });
        assert!(was_called.recv().unwrap());
        block_on(host.unload(&name)).unwrap();
        let reason = wait_for_end(&mut events).expect("it is kept");
        assert!(reason.contains("thread"), "{reason}");
        drop(go);
    });
}

#[test]
fn not_unloadable_library_is_kept() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let plugin = plugins.add("keeper", "faulty").set("unload", "keep");
    loaded(&host, plugin.write());
    block_on(host.unload("keeper")).unwrap();
    let reason = wait_for_end(&mut events).expect("it is kept");
    assert!(reason.contains("`unload` to `keep`"), "{reason}");
}

#[test]
fn last_host_drop_leaves_no_mapping_thread_or_file() {
    let plugins = Plugins::new();
    let staging = tempfile::TempDir::new().unwrap();
    let name = unique("dropped");
    let folder = plugins.add(&name, "faulty").write();
    let builder = Host::builder().staging_dir(staging.path());
    let host = builder.build().unwrap();
    let handle = loaded(&host, folder);
    let other = host.clone();
    block_on(handle.execute(Request::text("x"))).unwrap();
    drop(host);
    assert!(handle.call(Request::text("x")).is_ok(), "a clone still exists");
    #[cfg(target_os = "linux")]
    assert!(mappings(&name) > 0 && !threads(&name).is_empty());
    drop(other);
    assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(mappings(&name), 0);
    until("its threads have exited", || threads(&name).is_empty().then_some(()));
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
}

#[test]
fn concurrent_shutdowns_are_one_and_final() {
    let plugins = Plugins::new();
    let folder = plugins.add("one", "faulty").write();
    let later = plugins.add("later", "faulty").write();
    let host = host(&plugins);
    let mut events = host.events();
    let handle = loaded(&host, folder);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| block_on(host.shutdown(LIMIT)));
        }
    });
    block_on(host.shutdown(LIMIT));
    assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Shutdown);
    let error = block_on(handle.execute(Request::text("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
    assert_eq!(host.plugin("one").unwrap_err().kind(), ErrorKind::Shutdown);
    let error = block_on(host.load(&later)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
    let report = block_on(host.load_all());
    assert!(report.loaded.is_empty());
    assert!(host.list().is_empty());
    let stopped = |event: &HostEvent| matches!(event, HostEvent::Stopped);
    let seen = events_until(&mut events, stopped);
    assert!(seen.iter().any(|event| matches!(event, HostEvent::Closed { .. })));
    while let Some(event) = events.try_next() {
        assert!(!stopped(&event), "reported twice");
    }
}

#[test]
fn shutdown_without_grace_skips_hanging_call() {
    let plugins = Plugins::new();
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let config = json!({ "hang_in": "execute", "release": release, "entered": entered });
    let host = host(&plugins);
    let mut events = host.events();
    let handle = loaded(&host, plugins.add("hangs", "faulty").config(config).write());
    let running = handle.execute(Request::text("late"));
    until("the call runs", || entered.exists().then_some(()));
    block_on(host.shutdown(Duration::ZERO));
    assert_eq!(wait_for_end(&mut events).as_deref(), Some("calls: some are still running"));
    event(&mut events, |event| matches!(event, HostEvent::Stopped));
    drop(host);
    fs::write(release, "").unwrap();
    assert_eq!(block_on(running).unwrap().as_bytes(), b"late");
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
