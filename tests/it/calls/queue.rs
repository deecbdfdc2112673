//! Pooled calls: the queue is bounded, each call gets its own reply, and none is lost.

use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hotbay::{CancellationToken, Error, ErrorKind, Host, PluginHandle, Request, UnloadReport};
use hotbay_tests::{Plugins, block_on, host, limits, loaded, unique, until};
use serde_json::json;

use crate::scripted_plugin::{NEVER, ScriptedPlugin};

/// A plugin whose only worker hangs in the first call until released.
struct Busy {
    plugins: Plugins,
    host: Host,
    handle: PluginHandle,
    running: hotbay::Execute,
}

impl Busy {
    fn with_queue(queue: u32) -> Self {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let plugin = plugins.add(&unique("busy"), "faulty");
        let plugin = plugin.set("limits", json!({ "workers": 1, "queue": queue }));
        let handle = loaded(&host, plugin.config(json!({ "scripted": true })).write());
        let file = |name: &str| plugins.dir().join(name);
        let (release, entered) = (file("go"), file("entered"));
        let hang = json!({ "hang_in": "execute", "release": release, "entered": entered });
        let running = handle.execute(Request::json(&hang).expect("JSON"));
        until("the first call runs", || entered.exists().then_some(()));
        Self { plugins, host, handle, running }
    }

    fn release_file(&self) -> PathBuf {
        self.plugins.dir().join("go")
    }

    fn unload(&self) -> JoinHandle<Result<UnloadReport, Error>> {
        let (host, name) = (self.host.clone(), self.handle.name().to_string());
        thread::spawn(move || block_on(host.unload(&name)))
    }
}

#[test]
fn full_queue_overloads_and_waiting_calls_complete() {
    let busy = Busy::with_queue(2);
    let call = || busy.handle.execute(Request::json_text("{}"));
    let waiting = [call(), call()];
    let error = block_on(call()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    let message = error.to_string();
    assert!(message.contains("its queue is full (2 calls)"), "{message}");
    assert!(error.is_overloaded() && error.is_retryable());
    assert!(error.hint().is_some_and(|hint| hint.contains("limits.queue")), "{error:?}");
    assert_eq!(error.retry_after(), None, "no call was timed yet");
    assert_eq!(busy.host.list()[0].stats.waiting, 2);
    // A call on the caller's thread does not queue.
    for _ in 0..64 {
        assert!(busy.handle.call(Request::json_text("{}")).is_ok());
    }
    // One of those calls was measured, so the host can estimate the wait.
    let wait = block_on(call()).unwrap_err().retry_after().expect("an estimate");
    assert!((Duration::from_millis(1)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
    std::fs::write(busy.release_file(), "").unwrap();
    block_on(busy.running).unwrap();
    for call in waiting {
        assert_eq!(block_on(call).unwrap().as_bytes(), b"{}");
    }
}

#[test]
fn unload_retires_waiting_calls_and_lets_running_end() {
    let busy = Busy::with_queue(10);
    let waiting: Vec<_> = (0..3).map(|_| busy.handle.execute(Request::json_text("{}"))).collect();
    let unload = busy.unload();
    for call in waiting {
        assert_eq!(block_on(call).unwrap_err().kind(), ErrorKind::Retired);
    }
    assert!(!unload.is_finished(), "one call still runs");
    std::fs::write(busy.release_file(), "").unwrap();
    assert!(block_on(busy.running).is_ok());
    unload.join().unwrap().unwrap();
    assert!(busy.host.retained().is_empty(), "{:?}", busy.host.retained());
}

#[test]
fn concurrent_calls_receive_their_own_replies() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let echo = loaded(&host, plugins.add("echo", "faulty").write());
    thread::scope(|scope| {
        for caller in 0..8 {
            let echo = &echo;
            scope.spawn(move || {
                let text = |call: u32| format!("call {call} of caller {caller}, with some length");
                let calls: Vec<_> =
                    (0..125).map(|call| echo.execute(Request::text(&text(call)))).collect();
                for (call, answer) in (0..).zip(calls) {
                    let reply = block_on(answer).expect("an answer");
                    assert_eq!(reply.as_text().expect("text"), text(call));
                }
            });
        }
    });
    let info = &host.list()[0];
    assert_eq!(
        (info.stats.calls, info.stats.errors, info.stats.refused, info.stats.waiting),
        (1000, 0, 0, 0)
    );
}

#[test]
fn abandoned_waiting_call_never_runs() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let config = json!({ "count": true, "scripted": true });
    let plugin = plugins.add("counter", "faulty").config(config);
    let counter = loaded(&host, plugin.set("limits", json!({ "workers": 1 })).write());
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let hang = json!({ "hang_in": "execute", "release": release, "entered": entered });
    let running = counter.execute(Request::json(&hang).expect("JSON"));
    until("the first call runs", || entered.exists().then_some(()));
    drop(counter.execute(Request::json_text(r#"{"count": true}"#)));
    let expected = counter.execute(Request::json_text(r#"{"count": true}"#));
    std::fs::write(release, "").unwrap();
    block_on(running).unwrap();
    assert_eq!(block_on(expected).unwrap().as_text().unwrap(), "2");
}

#[test]
fn calls_run_on_several_workers() {
    let plugins = Plugins::new();
    let file = |name: &str| plugins.dir().join(name);
    let wide = hotbay_tests::limits(|limits| limits.max_workers = 2);
    let host = Host::builder().limits(wide).build().unwrap();
    let plugin = plugins.add("wide", "faulty").config(json!({ "scripted": true }));
    let wide = loaded(&host, plugin.write());
    let release = file("go");
    let calls: Vec<_> = ["one", "two"]
        .map(|name| json!({ "hang_in": "execute", "release": release, "entered": file(name) }))
        .iter()
        .map(|hang| wide.execute(Request::json(hang).expect("JSON")))
        .collect();
    until("both run", || (file("one").exists() && file("two").exists()).then_some(()));
    std::fs::write(release, "").unwrap();
    for call in calls {
        block_on(call).unwrap();
    }
}

#[test]
fn cancelled_waiting_calls_count_as_rejected() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder.limits(limits(|limits| limits.max_workers = 1)));
    let running = fixture.execute("wait");
    scripted.wait_started("wait");
    let token = CancellationToken::new();
    let request = || Request::text("x").with_cancellation_token(token.clone());
    let waiting: Vec<_> = (0..10).map(|_| fixture.handle.execute(request())).collect();
    assert_eq!(fixture.info().stats.waiting, 10);
    token.cancel();
    for call in waiting {
        assert_eq!(block_on(call).unwrap_err().kind(), ErrorKind::Cancelled);
    }
    scripted.release_all();
    block_on(running).unwrap();
    until("all calls are done", || {
        (fixture.info().stats.waiting + fixture.info().stats.running == 0).then_some(())
    });
    let info = fixture.info();
    assert_eq!(
        (info.stats.calls, info.stats.refused, info.stats.errors, info.stats.faults),
        (11, 10, 0, 0)
    );
}

#[test]
fn dropped_waiting_call_leaves_queue_at_once() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder.limits(limits(|limits| limits.max_workers = 1)));
    let running = fixture.execute("wait");
    scripted.wait_started("wait");
    let stays = fixture.execute("stays");
    let requests: [fn() -> Request<'static>; 4] = [
        || Request::text("dropped"),
        || Request::text("dropped").with_timeout(NEVER),
        || Request::text("dropped").with_space_timeout(NEVER),
        || Request::text("dropped").with_cancellation_token(CancellationToken::new()),
    ];
    for request in requests {
        let waiting: Vec<_> = (0..5).map(|_| fixture.handle.execute(request())).collect();
        assert_eq!(fixture.info().stats.waiting, 6);
        drop(waiting);
        assert_eq!(fixture.info().stats.waiting, 1, "only the call that was not dropped");
    }
    scripted.release_all();
    block_on(running).unwrap();
    assert_eq!(block_on(stays).unwrap().as_bytes(), b"stays");
    assert_eq!(scripted.inputs(), ["wait", "stays"]);
}
