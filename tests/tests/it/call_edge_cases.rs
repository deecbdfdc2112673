//! Edge cases of call limits: failed pauses, schemas of replaced builds, streams to stuck plugins,
//! and which plugin a fault counts for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;

use futures_util::stream;
use hotbay::{
    Call, Error, ErrorKind, Host, HostEvent, Layer, LoadStep, Next, PipelineStep, Reply, Request,
    RunOptions,
};
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, limits, loaded, quarantine, reloaded, rolled_back, threads,
    unique, until,
};
use serde_json::json;

use crate::scripted_plugin::{LATE, NEVER, SOON, ScriptedPlugin};

#[test]
fn failed_pauses_add_no_workers() {
    let plugins = Plugins::new();
    let name = unique("pauses");
    let install = |number: u32| {
        let plugin = plugins.add(&name, "faulty").set("handover", "pause");
        let plugin = plugin.set("limits", json!({ "workers": 2 }));
        plugin.config(json!({ "scripted": true, "number": number })).write()
    };
    let hasty = limits(|limits| (limits.pause_timeout, limits.max_abandoned_calls) = (SOON / 6, 1));
    let host = Host::builder().limits(hasty).build().unwrap();
    let handle = loaded(&host, install(0));
    let release = plugins.dir().join("go");
    let hang = json!({ "hang_in": "execute", "release": release });
    let mut held = Vec::new();
    for number in 1..=6 {
        held.extend([(); 2].map(|()| handle.execute(Request::json(&hang).unwrap())));
        until("both workers hang", || (host.list()[0].stats.running >= 2).then_some(()));
        install(number);
        let error = rolled_back(&host, &name);
        assert_eq!(error.step(), Some(LoadStep::Drain), "{}", error.full_message());
        let (there, running) = (threads(&name), host.list()[0].stats.running);
        assert!(there.len() <= 3 && running <= 3, "after {number}: {running} in {there:?}");
    }
    std::fs::write(release, "").unwrap();
    for call in held {
        block_on(call).unwrap();
    }
}

#[test]
fn failed_pause_does_not_clear_stuck_calls() {
    let plugins = Plugins::new();
    let install = |number: u32| {
        let plugin = plugins.add("pauses", "faulty").set("handover", "pause");
        plugin.config(json!({ "scripted": true, "number": number })).write()
    };
    let hasty = limits(|limits| {
        (limits.pause_timeout, limits.max_abandoned_calls, limits.max_workers) = (SOON / 6, 1, 1);
    });
    let host = Host::builder().limits(hasty).build().unwrap();
    let handle = loaded(&host, install(0));
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let hang = json!({ "hang_in": "execute", "release": release, "entered": entered });
    let late = handle.execute(Request::json(&hang).unwrap().with_timeout(LATE));
    until("it hangs", || entered.exists().then_some(()));
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    until("it is stuck", || {
        (host.list()[0].state == hotbay::PluginState::Quarantined).then_some(())
    });
    install(1);
    assert_eq!(rolled_back(&host, "pauses").step(), Some(LoadStep::Drain));
    assert_eq!(host.list()[0].state, hotbay::PluginState::Quarantined);
    let request = || Request::text("{}");
    for outcome in [handle.call(request()), block_on(handle.execute(request()))] {
        assert_eq!(outcome.map(drop).unwrap_err().kind(), ErrorKind::Quarantined);
    }
    std::fs::write(release, "").unwrap();
    until("it is back", || (host.list()[0].state == hotbay::PluginState::Serving).then_some(()));
}

/// Holds the first call on its way to the plugin until the test releases it.
struct Slow(Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>);

impl Layer for Slow {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let first = self.0.lock().unwrap().take();
        if let Some((here, go)) = first {
            here.send(()).unwrap();
            go.recv_timeout(LIMIT).unwrap();
        }
        next.call(call)
    }
}

#[test]
fn input_is_validated_by_build_that_is_called() {
    type CallMethod = fn(&hotbay::PluginHandle, Request<'static>) -> Result<Reply, Error>;
    let methods: [(&str, CallMethod); 3] = [
        ("pin", |handle, request| handle.pin().unwrap().call(request)),
        ("execute", |handle, request| block_on(handle.execute(request))),
        ("call", |handle, request| handle.call(request)),
    ];
    for (method, call) in methods {
        let plugins = Plugins::new();
        let (here, is_here) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let slow = Slow(Mutex::new(Some((here, may_go))));
        let host = Host::builder().layer(slow).build().unwrap();
        let plugin = plugins.add("checked", "faulty").config(json!({ "answers": "old" }));
        let schema = json!({ "type": "object", "required": ["user"] });
        let handle = loaded(&host, plugin.set("input_schema", schema).write());
        let outcome = thread::scope(|scope| {
            let call = scope.spawn(|| call(&handle, Request::json_text("[1, 2]")));
            is_here.recv_timeout(LIMIT).unwrap();
            plugins.add("checked", "faulty").config(json!({ "answers": "new" })).write();
            reloaded(&host, "checked");
            go.send(()).unwrap();
            call.join().unwrap()
        });
        match outcome {
            Ok(reply) => assert_eq!(reply.as_bytes(), b"new", "{method}"),
            Err(error) => {
                let kinds = [ErrorKind::InvalidInput, ErrorKind::Retired];
                assert!(kinds.contains(&error.kind()), "{method}: {}", error.full_message());
            }
        }
    }
}

#[test]
fn stream_step_deadline_ends_despite_stuck_plugin() {
    let strict = Some(hotbay::Quarantine::default());
    for (max_abandoned_calls, policy) in [(0, strict.clone()), (1, strict), (0, None), (1, None)] {
        let scripted = ScriptedPlugin::new();
        let few = limits(|limits| {
            (limits.max_workers, limits.max_abandoned_calls) = (1, max_abandoned_calls);
        });
        let fixture = scripted.host(|builder| builder.limits(few).quarantine(policy.clone()));
        let step = PipelineStep::new("scripted").with_timeout(SOON);
        let pipeline = fixture.host.pipeline([step]).unwrap();
        for many in [RunOptions::ordered(), RunOptions::unordered()] {
            let requests: Vec<_> = (0..6).map(|_| Request::text("wait")).collect();
            let mut outcomes = pipeline.run_many(stream::iter(requests), many.with_max_chunk(3));
            let mut indexes = Vec::new();
            while let Some(done) = block_on(outcomes.next()) {
                let error = done.outcome.unwrap_err();
                // Timed out, rejected, or failed for lack of a worker.
                let kinds =
                    [ErrorKind::DeadlineExceeded, ErrorKind::Quarantined, ErrorKind::Overloaded];
                assert!(kinds.contains(&error.kind()), "{}", error.full_message());
                indexes.push(done.index);
            }
            indexes.sort_unstable();
            assert_eq!(indexes, [0, 1, 2, 3, 4, 5], "{max_abandoned_calls}, {policy:?}");
        }
        scripted.release_all();
    }
}

#[test]
fn items_returned_by_pause_survive_its_length() {
    let plugins = Plugins::new();
    let file = |name: &str| plugins.dir().join(name);
    let install = |number: u32| {
        let config = json!({
            "scripted": true, "number": number, "hang_in": "snapshot", "release": file("taken"),
        });
        let plugin = plugins.add("paused", "faulty").set("handover", "pause");
        plugin.set("limits", json!({ "workers": 1 })).config(config).write()
    };
    let patient = limits(|limits| limits.pause_timeout = LIMIT);
    let host = Host::builder().limits(patient).quarantine(None).build().unwrap();
    let handle = loaded(&host, install(1));
    let step = PipelineStep::new("paused").with_timeout(LATE);
    let pipeline = host.pipeline([step]).unwrap();
    let hang = json!({ "hang_in": "execute", "entered": file("entered"), "release": file("go") });
    let quick = json!({ "answers": "quick" });
    let mut requests = vec![Request::json(&hang).unwrap()];
    requests.extend((1..8).map(|_| Request::json(&quick).unwrap()));
    install(2);
    let outcomes = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel::<()>();
        let many = scope.spawn(move || {
            let mut many = pipeline.run_many(stream::iter(requests), RunOptions::ordered());
            let mut outcomes = Vec::new();
            while let Some(done) = block_on(many.next()) {
                outcomes.push(done.outcome.map(Reply::into_vec).map_err(|e| e.full_message()));
            }
            drop(sender);
            outcomes
        });
        until("the first one runs", || file("entered").exists().then_some(()));
        let reload = scope.spawn(|| reloaded(&host, "paused"));
        until("it is paused", || {
            let error = block_on(handle.health()).err()?;
            (error.kind() == ErrorKind::Overloaded).then_some(())
        });
        std::fs::write(file("go"), "").unwrap();
        // The pause outlasts the step's deadline, unless the items are answered first.
        let _ = receiver.recv_timeout(LATE * 2);
        std::fs::write(file("taken"), "").unwrap();
        reload.join().unwrap();
        many.join().unwrap()
    });
    // The first item may have timed out before the pause began.
    assert_eq!(outcomes.len(), 8);
    for outcome in &outcomes[1..] {
        assert_eq!(outcome.as_deref(), Ok(&b"quick"[..]), "{outcomes:?}");
    }
}

/// Holds a reply of the plugin until the test releases it, and records whether it arrived after the deadline.
#[derive(Clone, Default)]
struct Keeps(Arc<(Mutex<bool>, Condvar, AtomicBool)>);

impl Layer for Keeps {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let deadline = call.request().deadline();
        let answer = next.call(call);
        let Some(deadline) = deadline else { return answer };
        let (is_open, changed, timed_out) = &*self.0;
        timed_out.store(std::time::Instant::now() >= deadline, Ordering::SeqCst);
        let closed = is_open.lock().unwrap();
        drop(changed.wait_timeout_while(closed, LIMIT, |is_open| !*is_open).unwrap());
        answer
    }
}

#[test]
fn layer_slow_after_reply_is_not_plugin_fault() {
    let (scripted, keeps) = (ScriptedPlugin::new(), Keeps::default());
    let policy = quarantine(|policy| {
        policy.max_faults = 1;
        (policy.initial_backoff, policy.max_backoff) = (NEVER, NEVER);
    });
    let fixture = scripted.host(|builder| builder.quarantine(policy).layer(keeps.clone()));
    let mut events = fixture.host.events();
    block_on(fixture.execute("warm")).unwrap();
    let outcome = block_on(fixture.handle.execute(Request::text("quick").with_timeout(LATE)));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    scripted.wait_finished("quick");
    let (is_open, changed, timed_out) = &*keeps.0;
    assert_eq!((fixture.info().state.as_str(), fixture.info().stats.faults), ("serving", 0));
    block_on(fixture.execute("while held")).unwrap();
    *is_open.lock().unwrap() = true;
    changed.notify_all();
    until("the layer is done", || (fixture.info().stats.running == 0).then_some(()));
    assert!(!timed_out.load(Ordering::SeqCst), "the plugin itself timed out; is the machine busy?");
    assert_eq!((fixture.info().state.as_str(), fixture.info().stats.faults), ("serving", 0));
    assert!(events.try_next().is_none());
}

#[test]
fn late_call_from_before_quarantine_is_not_probe() {
    let scripted = ScriptedPlugin::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 2;
        (policy.initial_backoff, policy.max_backoff) = (SOON / 30, NEVER);
    });
    let three = limits(|limits| limits.max_workers = 3);
    let fixture = scripted.host(|builder| builder.limits(three).quarantine(policy));
    let mut events = fixture.host.events();
    let old = fixture.handle.execute(Request::text("wait old").with_timeout(LATE));
    scripted.wait_started("wait old");
    for _ in 0..2 {
        let error = fixture.handle.call(Request::text("panic")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
    }
    event(&mut events, |event| matches!(event, HostEvent::Quarantined { .. }));
    thread::scope(|scope| {
        let probe = scope.spawn(|| {
            until("a probe is let through", || {
                let outcome = fixture.handle.call(Request::text("wait probe"));
                (!outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Quarantined))
                    .then(|| outcome.map(drop))
            })
        });
        scripted.wait_started("wait probe");
        assert_eq!(block_on(old).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        scripted.release_all();
        probe.join().unwrap().unwrap();
    });
    let next = event(&mut events, |event| {
        matches!(event, HostEvent::Quarantined { .. } | HostEvent::Restored { .. })
    });
    assert!(matches!(next, HostEvent::Restored { .. }), "{next:?}");
}
