//! Wakers that panic, of calls and of event readers: other calls, workers and reloads go on.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread;

use hotbay::{ErrorKind, Host, HostEvent, Request};
use hotbay_tests::{Plugins, block_on, event, limits, loaded, quarantine, reloaded, unique, until};
use serde_json::json;

use crate::scripted_plugin::{LATE, NEVER, SOON, ScriptedPlugin};

/// Panics whenever it is woken.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("a waker, on purpose"));
    }
}

/// Panics whenever it is woken, with a payload that panics when dropped.
struct PanicsWithPanickingPayload;

struct PanicOnDrop;

impl Wake for PanicsWithPanickingPayload {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new(PanicOnDrop));
    }
}

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        resume_unwind(Box::new("a payload that panics, on purpose"));
    }
}

/// Registers a waker with a pending future.
fn waits_with(future: Pin<&mut impl Future>, waker: Waker) {
    assert!(future.poll(&mut Context::from_waker(&waker)).is_pending());
}

fn panics() -> Waker {
    Waker::from(Arc::new(Panics))
}

#[test]
fn panicking_waker_at_unload_does_not_block_others() {
    let plugins = Plugins::new();
    let hasty = limits(|limits| (limits.drain_timeout, limits.max_workers) = (SOON, 1));
    let host = Host::builder().limits(hasty).build().unwrap();
    let mut events = host.events();
    let folder = plugins.add("woken", "faulty").config(json!({ "scripted": true })).write();
    let handle = loaded(&host, &folder);
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let hang = json!({ "hang_in": "execute", "release": release, "entered": entered });
    let running = handle.execute(Request::json(&hang).unwrap());
    until("it hangs", || entered.exists().then_some(()));
    let mut bad = Box::pin(handle.execute(Request::text("{}")));
    waits_with(bad.as_mut(), panics());
    let good: Vec<_> = (0..3).map(|_| handle.execute(Request::text("{}"))).collect();
    thread::scope(|scope| {
        let unload = scope.spawn(|| block_on(host.unload("woken")));
        unload.join().expect("unload does not panic").unwrap();
    });
    assert_eq!(host.list().len(), 0);
    for call in good {
        let kind = block_on(call).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Retired, "failed while the first call still runs");
    }
    assert_eq!(block_on(bad).unwrap_err().kind(), ErrorKind::Retired);
    std::fs::write(release, "").unwrap();
    // The reply, or an error because the call was abandoned.
    let _ = block_on(running);
    event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    let handle = loaded(&host, &folder);
    assert!(block_on(handle.execute(Request::text("{}"))).is_ok());
}

#[test]
fn panicking_event_reader_does_not_disturb_promotion() {
    let plugins = Plugins::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 1;
        (policy.initial_backoff, policy.max_backoff) = (NEVER, NEVER);
    });
    let host = Host::builder().quarantine(policy).build().unwrap();
    let install = |number: u32| {
        let config = json!({ "scripted": true, "number": number });
        plugins.add("read", "faulty").config(config).write()
    };
    let handle = loaded(&host, install(1));
    let mut events = host.events();
    let panic = json!({ "panic_in": "execute" });
    let error = block_on(handle.execute(Request::json(&panic).unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    event(&mut events, |event| matches!(event, HostEvent::Quarantined { .. }));
    while events.try_next().is_some() {}
    {
        let mut next = Box::pin(events.next());
        waits_with(next.as_mut(), panics());
        install(2);
        let reload = thread::scope(|scope| scope.spawn(|| reloaded(&host, "read")).join());
        let generation = reload.expect("reload does not panic");
        let outcomes =
            [handle.call(Request::text("{}")), block_on(handle.execute(Request::text("{}")))];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap().generation(), generation);
        }
    }
    event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
}

#[test]
fn panicking_event_reader_does_not_disturb_later_calls() {
    let scripted = ScriptedPlugin::new();
    let policy = quarantine(|policy| {
        policy.max_faults = 1;
        (policy.initial_backoff, policy.max_backoff) = (SOON / 30, SOON / 30);
    });
    let one = limits(|limits| limits.max_workers = 1);
    let fixture = scripted.host(|builder| builder.limits(one).quarantine(policy));
    block_on(fixture.execute("warm")).unwrap();
    let mut events = fixture.host.events();
    let mut next = Box::pin(events.next());
    waits_with(next.as_mut(), panics());
    let late = fixture.handle.execute(Request::text("wait").with_timeout(LATE));
    scripted.wait_started("wait");
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    for request in [|| Request::text("x"), || Request::text("x").with_timeout(NEVER)] {
        until("the plugin serves again", || match block_on(fixture.handle.execute(request())) {
            Ok(reply) => Some(reply.into_vec()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Quarantined);
                None
            }
        });
    }
    scripted.release_all();
}

#[test]
fn panicking_event_reader_does_not_disturb_stuck_plugin() {
    let scripted = ScriptedPlugin::new();
    let few = limits(|limits| (limits.max_workers, limits.max_abandoned_calls) = (1, 1));
    let policy = quarantine(|policy| policy.max_faults = 1000);
    let fixture = scripted.host(|builder| builder.limits(few).quarantine(policy));
    let mut events = fixture.host.events();
    let mut next = Box::pin(events.next());
    waits_with(next.as_mut(), panics());
    let late = fixture.handle.execute(Request::text("wait").with_timeout(LATE));
    scripted.wait_started("wait");
    let queued = fixture.execute("queued");
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    scripted.release_all();
    // Answered before or after the plugin was stuck, or rejected meanwhile.
    if let Err(error) = block_on(queued) {
        assert_eq!(error.kind(), ErrorKind::Quarantined);
    }
    until("the calls return", || (fixture.info().stats.running == 0).then_some(()));
    until("the plugin serves", || {
        (fixture.info().state == hotbay::PluginState::Serving).then_some(())
    });
    assert_eq!(block_on(fixture.execute("after")).unwrap().as_bytes(), b"after");
}

#[test]
fn panic_payload_that_panics_on_drop_kills_no_worker() {
    let scripted = ScriptedPlugin::new();
    let name = unique("bomb");
    let one = limits(|limits| limits.max_workers = 1);
    let host = scripted.register(Host::builder().limits(one), &name).build().unwrap();
    let handle = host.plugin(&name).unwrap();
    for round in ["wait 1", "wait 2", "wait 3"] {
        let mut bad = Box::pin(handle.execute(Request::text(round)));
        scripted.wait_started(round);
        waits_with(bad.as_mut(), Waker::from(Arc::new(PanicsWithPanickingPayload)));
        let queued = handle.execute(Request::text("queued"));
        scripted.release_one();
        assert_eq!(block_on(queued).unwrap().as_bytes(), b"queued");
        assert_eq!(block_on(bad).unwrap().as_text().unwrap(), round);
        let bounded = Request::text("bounded").with_timeout(NEVER);
        assert_eq!(block_on(handle.execute(bounded)).unwrap().as_bytes(), b"bounded");
    }
    until("the calls return", || {
        let info = &host.list()[0];
        (info.stats.running == 0 && info.stats.waiting == 0).then_some(())
    });
    assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
}
