//! The lifecycle of a plugin: load, call, snapshot, unload, load again.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use hotbay::{ErrorKind, Host, HostEvent, LoadStep, PluginError, Request, Snapshot};
use hotbay_tests::{
    Plugins, block_on, event, events_until, host, loaded, mappings, threads, unique, until,
};
use serde_json::json;

#[test]
fn lifecycle_events_come_in_order() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let config = json!({ "scripted": true });
    let folder = plugins.add("life", "faulty").config(config).write();
    let life = loaded(&host, &folder);
    let panic = json!({ "panic_in": "execute" }).to_string();
    block_on(life.execute(Request::json_text(&panic))).expect_err("a panic");
    block_on(host.load(plugins.dir().join("nothing"))).expect_err("no such folder");
    block_on(host.unload("life")).unwrap();
    block_on(host.shutdown(hotbay_tests::LIMIT));
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let kinds: Vec<_> = seen.iter().map(kind_of).collect();
    let expected = ["Loaded", "Faulted", "Refused", "Retired", "Closed", "Stopped"];
    assert_eq!(kinds, expected);
}

fn kind_of(event: &HostEvent) -> String {
    let reported = format!("{event:?}");
    let end = reported.find([' ', '{']).unwrap_or(reported.len());
    reported[..end].to_owned()
}

#[test]
fn unloaded_library_is_unmapped_and_loads_again() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("again");
    let folder = plugins.add(&name, "faulty").write();
    for _ in 0..5 {
        let handle = loaded(&host, &folder);
        block_on(handle.execute(Request::text("x"))).unwrap();
        block_on(host.unload(&name)).unwrap();
        event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
        assert_eq!(mappings(&name), 0);
        until("its threads have exited", || threads(&name).is_empty().then_some(()));
        let error = handle.call(Request::text("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired);
        let error = block_on(handle.execute(Request::text("x"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired);
        assert_eq!(handle.pin().unwrap_err().kind(), ErrorKind::Retired);
        assert_eq!(block_on(handle.health()).unwrap_err().kind(), ErrorKind::Retired);
        assert_eq!(host.plugin(&name).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(host.retained().is_empty());
}

#[test]
fn snapshot_carries_state() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let config = json!({ "count": true });
    let folder = plugins.add("counter", "faulty").config(config).write();
    let counter = loaded(&host, &folder);
    for expected in ["1", "2", "3"] {
        let reply = counter.call(Request::text("x")).unwrap();
        assert_eq!(reply.as_text().unwrap(), expected);
    }
    let state = block_on(counter.snapshot()).unwrap().expect("a state");
    assert_eq!((state.version(), state.as_bytes()), (1, b"3".as_slice()));
    block_on(host.unload("counter")).unwrap();

    let counter =
        block_on(host.load_with(&folder, hotbay::LoadOptions::new().with_state(state))).unwrap();
    let reply = counter.call(Request::text("x")).unwrap();
    assert_eq!(reply.as_text().unwrap(), "4");
}

#[test]
fn state_of_wrong_shape_is_refused_by_plugin() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let name = unique("shape");
    let folder = plugins.add(&name, "faulty").write();
    let error = block_on(
        host.load_with(&folder, hotbay::LoadOptions::new().with_state(Snapshot::new(7, "3"))),
    )
    .unwrap_err();
    assert_eq!(error.step(), Some(LoadStep::Restore));
    assert_eq!(error.plugin_error().map(PluginError::code), Some(409));
    assert_eq!(mappings(&name), 0);
    let without = loaded(&host, &folder);
    assert!(block_on(without.snapshot()).unwrap().is_none());
    assert!(block_on(without.health()).is_ok());
}

#[test]
fn plugin_error_reaches_caller_unchanged() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let details = json!({ "field": "ünï", "tries": [1, 2.5, null], "nested": { "deep": true } });
    let error = json!({
        "code": -7, "message": "no\nsuch \"thing\"", "retryable": true, "details": details,
    });
    let config = json!({ "error_in": "execute", "error": error });
    let handle = loaded(&host, plugins.add("failing", "faulty").config(config).write());
    let outcomes = [
        handle.call(Request::text("x")),
        block_on(handle.execute(Request::text("x"))),
        handle.pin().unwrap().call(Request::text("x")),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plugin);
        assert!(error.fault().is_none());
        let own = error.plugin_error().expect("the plugin's own error");
        assert_eq!((own.code(), own.message()), (-7, "no\nsuch \"thing\""));
        assert!(own.is_retryable());
        assert_eq!(own.details(), Some(&details));
    }
    let info = &host.list()[0];
    assert_eq!((info.stats.calls, info.stats.errors, info.stats.faults), (3, 3, 0));
}

#[test]
fn logging_requires_permission() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let config = json!({ "log": ["one", "two"] });
    let silent = plugins.add("silent", "faulty").config(config.clone());
    let loud = plugins.add("loud", "faulty").config(config);
    let loud = loud.set("permissions", json!(["log"]));
    for (plugin, answer) in [(silent, "Denied"), (loud, "logged")] {
        let handle = loaded(&host, plugin.write());
        let reply = handle.call(Request::text("x")).unwrap();
        assert_eq!(reply.json::<Vec<String>>().unwrap(), [answer, answer]);
    }
}

#[test]
fn futures_run_on_any_executor() {
    let plugins = Plugins::new();
    let folder = plugins.add("anywhere", "faulty").write();
    let host = host(&plugins);
    let mut events = host.events();
    let handle = run_by_hand(host.load(folder)).unwrap();
    let reply = run_by_hand(handle.execute(Request::text("hi"))).unwrap();
    assert_eq!(reply.as_bytes(), b"hi");
    run_by_hand(handle.health()).unwrap();
    assert!(run_by_hand(handle.snapshot()).unwrap().is_none());
    run_by_hand(host.unload("anywhere")).unwrap();
    let first = run_by_hand(events.next());
    assert!(matches!(first, Some(HostEvent::Loaded { .. })));
    run_by_hand(host.shutdown(hotbay_tests::LIMIT));
    let report = run_by_hand(host.load_all());
    assert!(report.loaded.is_empty());
}

/// Runs a future on a minimal executor: no timers, no I/O, no other tasks.
fn run_by_hand<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn reply_describes_itself_and_can_be_forwarded() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let filler = plugins.add("filler", "faulty");
    let filler = loaded(&host, filler.config(json!({ "output_bytes": 5000 })).write());
    let echo = loaded(&host, plugins.add("echo", "faulty").write());
    let reply = filler.call(Request::text("x")).unwrap();
    assert_eq!(reply.content_type(), "application/octet-stream");
    assert_eq!(reply.generation().get(), 1);
    let reply = block_on(echo.execute(Request::from(reply))).unwrap();
    assert_eq!(reply.into_vec(), vec![b'x'; 5000]);
}

#[test]
fn leaked_bytes_are_reported_at_close() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let leak = |bytes: u64| -> i64 {
        let config = json!({ "leak_bytes": bytes });
        let folder = plugins.add("leaky", "faulty").config(config).write();
        let leaky = loaded(&host, folder);
        let mut events = host.events();
        block_on(leaky.execute(Request::text("x"))).unwrap();
        block_on(host.unload("leaky")).unwrap();
        let closed = event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
        let HostEvent::Closed { leaked_bytes, .. } = closed else {
            unreachable!("the loop waits for this event");
        };
        leaked_bytes.expect("its allocator counts")
    };
    // Repeated, since different threads allocate and release each time.
    for _ in 0..10 {
        assert_eq!(leak(0), 0);
    }
    assert_eq!(leak(1 << 20), 1 << 20);
}

#[test]
fn two_hosts_are_isolated() {
    let plugins = Plugins::new();
    let folder = plugins.add("twice", "faulty").config(json!({ "count": true })).write();
    let (one, other) = (host(&plugins), host(&plugins));
    let (first, second) = (loaded(&one, &folder), loaded(&other, &folder));
    for expected in ["1", "2"] {
        let reply = first.call(Request::text("x")).unwrap();
        assert_eq!(reply.as_text().unwrap(), expected);
    }
    drop(one);
    assert_eq!(first.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(second.call(Request::text("x")).unwrap().as_text().unwrap(), "1");
    assert!(Host::builder().build().unwrap().list().is_empty());
}
