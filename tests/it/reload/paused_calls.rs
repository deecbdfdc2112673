//! Pauses for a reload: calls wait no longer than their deadline or token allows, queries of the
//! state do not wait, and failed pauses leave everything as it was.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use hotbay::{CancellationToken, Error, ErrorKind, Host, LoadStep, Request};
use hotbay_tests::{
    LIMIT, Plugins, block_on, limits, loaded, reloaded, rolled_back, threads, unique, until,
};
use serde_json::json;

use crate::scripted_plugin::{LATE, SOON};

/// Makes a call, on its own thread or pooled, while a reload waits for a running call, then
/// releases that call. Returns the outcome of the call, and the number of calls that the plugin
/// received.
fn call_in_a_pause(
    pooled: bool,
    request: impl FnOnce() -> Request<'static> + Send,
    meanwhile: impl FnOnce(),
) -> (Result<u64, ErrorKind>, u64) {
    let plugins = Plugins::new();
    let patient = limits(|limits| limits.pause_timeout = LIMIT);
    let host = Host::builder().limits(patient).build().unwrap();
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let install = |number: u32| {
        let hang = json!({
            "hang_in": "execute", "release": release, "entered": entered,
            "count": true, "number": number,
        });
        plugins.add("paused", "faulty").set("handover", "pause").config(hang).write()
    };
    let handle = loaded(&host, install(1));
    let running = handle.execute(Request::text("x"));
    until("the first call runs", || entered.exists().then_some(()));
    install(2);
    thread::scope(|scope| {
        let reload = scope.spawn(|| reloaded(&host, "paused"));
        until("it is paused", || {
            let error = block_on(handle.health()).err()?;
            (error.kind() == ErrorKind::Overloaded).then_some(())
        });
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let call = scope.spawn({
            let handle = handle.clone();
            move || {
                let outcome = match pooled {
                    true => block_on(handle.execute(request())),
                    false => handle.call(request()),
                };
                drop(sender);
                outcome.map(|reply| reply.json().unwrap()).map_err(|error| error.kind())
            }
        });
        // By then it waits, unless the machine is very busy.
        let _ = receiver.recv_timeout(SOON * 2);
        meanwhile();
        // It ends on its own, or with the pause.
        let _ = receiver.recv_timeout(SOON * 10);
        std::fs::write(&release, "").unwrap();
        let outcome = call.join().unwrap();
        reload.join().unwrap();
        block_on(running).unwrap();
        let calls = handle.call(Request::text("x")).unwrap().json().unwrap();
        (outcome, calls)
    })
}

#[test]
fn deadline_during_pause_prevents_call() {
    let (outcome, calls) = call_in_a_pause(false, || Request::text("x").with_timeout(SOON), || {});
    assert_eq!(outcome, Err(ErrorKind::DeadlineExceeded), "after {calls} calls");
    assert_eq!(calls, 2, "the call before and the counting call");
}

#[test]
fn cancellation_during_pause_prevents_call() {
    let token = CancellationToken::new();
    let request = || Request::text("x").with_cancellation_token(token.clone());
    let (outcome, calls) = call_in_a_pause(false, request, || token.cancel());
    assert_eq!(outcome, Err(ErrorKind::Cancelled), "after {calls} calls");
    assert_eq!(calls, 2, "the call before and the counting call");
}

#[test]
fn pooled_call_expired_or_cancelled_in_pause_never_runs() {
    let late = || Request::text("x").with_timeout(SOON);
    let outcome = call_in_a_pause(true, late, || {});
    assert_eq!(outcome, (Err(ErrorKind::DeadlineExceeded), 2));
    let token = CancellationToken::new();
    let request = || Request::text("x").with_cancellation_token(token.clone());
    let outcome = call_in_a_pause(true, request, || token.cancel());
    assert_eq!(outcome, (Err(ErrorKind::Cancelled), 2));
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
