//! Calls during a pause for a reload wait no longer than their deadline or token allows.

use std::thread;

use hotbay::{CancellationToken, ErrorKind, Host, Request};
use hotbay_tests::{LIMIT, Plugins, block_on, limits, loaded, reloaded, until};
use serde_json::json;

use crate::scripted_plugin::SOON;

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
