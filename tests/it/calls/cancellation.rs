//! Cancellation of calls: by dropping their futures, or by tokens.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use hotbay::{CancellationToken, ErrorKind, Request};
use hotbay_tests::{LIMIT, block_on, limits, quarantine, threads, until};

use crate::scripted_plugin::{Fixture, NEVER, ScriptedPlugin};

/// Returns a host with one worker that quarantines on the first fault.
fn strict(scripted: &ScriptedPlugin) -> Fixture {
    let one = limits(|limits| limits.max_workers = 1);
    let policy = quarantine(|policy| policy.max_faults = 1);
    scripted.host(|builder| builder.limits(one).quarantine(policy))
}

fn is_clean(fixture: &Fixture) {
    let info = fixture.info();
    assert_eq!((info.state.as_str(), info.stats.faults, info.stats.abandoned), ("serving", 0, 0));
}

#[test]
fn call_dropped_before_start_never_runs() {
    let scripted = ScriptedPlugin::new();
    let fixture = strict(&scripted);
    let running = fixture.execute("wait");
    scripted.wait_started("wait");
    drop(fixture.execute("dropped"));
    let last = fixture.execute("last");
    scripted.release_all();
    block_on(running).unwrap();
    block_on(last).unwrap();
    assert_eq!(scripted.inputs(), ["wait", "last"]);
    is_clean(&fixture);
}

#[test]
fn call_dropped_while_running_notifies_plugin() {
    let scripted = ScriptedPlugin::new();
    let fixture = strict(&scripted);
    let watching = fixture.execute("watch");
    scripted.wait_started("watch");
    drop(watching);
    scripted.wait_finished("watch");
    assert_eq!(scripted.cancelled(), [("watch".to_owned(), None)]);
    // A cancelled call that does not check for cancellation blocks no other call.
    let sigterm_ignoring = fixture.execute("wait");
    scripted.wait_started("wait");
    drop(sigterm_ignoring);
    assert_eq!(block_on(fixture.execute("next")).unwrap().as_bytes(), b"next");
    until("only that one is left", || (fixture.info().stats.running == 1).then_some(()));
    scripted.release_all();
    until("the call returns", || (fixture.info().stats.running == 0).then_some(()));
    assert_eq!(block_on(fixture.execute("again")).unwrap().as_bytes(), b"again");
    is_clean(&fixture);
}

#[test]
fn cancelled_token_prevents_every_call() {
    let scripted = ScriptedPlugin::new();
    let fixture = strict(&scripted);
    let token = CancellationToken::new();
    token.cancel();
    let request = || Request::text("never").with_cancellation_token(token.clone());
    let pinned = fixture.handle.pin().unwrap();
    let pipeline = fixture.host.pipeline(["scripted", "scripted"]).unwrap();
    let outcomes = [
        fixture.handle.call(request()),
        pinned.call(request()),
        block_on(fixture.handle.execute(request())),
        block_on(pipeline.run(request())),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    }
    block_on(fixture.execute("last")).unwrap();
    assert_eq!(scripted.inputs(), ["last"]);
    is_clean(&fixture);
}

#[test]
fn one_token_cancels_waiting_and_running_calls() {
    let scripted = ScriptedPlugin::new();
    let fixture = strict(&scripted);
    let token = CancellationToken::new();
    let call = |text: &str| {
        let request =
            Request::text(text).with_cancellation_token(token.clone()).with_timeout(NEVER);
        fixture.handle.execute(request)
    };
    let running = call("wait");
    scripted.wait_started("wait");
    let queued: Vec<_> = (0..20).map(|number| call(&number.to_string())).collect();
    let other = fixture.execute("other");
    token.cancel();
    let error = block_on(running).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    for call in queued {
        assert_eq!(block_on(call).unwrap_err().kind(), ErrorKind::Cancelled);
    }
    // The running call blocks no other call.
    assert_eq!(block_on(other).unwrap().as_bytes(), b"other");
    assert_eq!(scripted.inputs(), ["wait", "other"]);
    scripted.release_all();
    is_clean(&fixture);
}

#[test]
fn token_cancels_call_whose_future_is_not_polled() {
    let scripted = ScriptedPlugin::new();
    let fixture = strict(&scripted);
    let token = CancellationToken::new();
    let running =
        fixture.handle.execute(Request::text("wait").with_cancellation_token(token.clone()));
    scripted.wait_started("wait");
    let other = fixture.execute("other");
    token.cancel();
    let limit = Duration::from_secs(5);
    let outcome = block_on(async { tokio::time::timeout(limit, other).await });
    scripted.release_all();
    let outcome = outcome.expect("a cancelled call does not wait for its worker");
    assert_eq!(outcome.unwrap().as_bytes(), b"other");
    assert_eq!(block_on(running).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn sync_call_sees_cancelled_token() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder);
    let token = CancellationToken::new();
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            fixture.handle.call(Request::text("watch").with_cancellation_token(token.clone()))
        });
        scripted.wait_started("watch");
        token.cancel();
        assert_eq!(call.join().unwrap().unwrap().as_bytes(), b"watch");
    });
}

#[test]
fn cancel_or_drop_after_reply_has_no_effect() {
    let scripted = ScriptedPlugin::new();
    let fixture = strict(&scripted);
    let token = CancellationToken::new();
    let request = Request::text("first").with_cancellation_token(token.clone());
    let reply = block_on(fixture.handle.execute(request)).unwrap();
    token.cancel();
    assert_eq!(reply.as_bytes(), b"first");
    // A finished reply takes precedence over a later cancellation.
    let token = CancellationToken::new();
    let answered =
        fixture.handle.execute(Request::text("second").with_cancellation_token(token.clone()));
    scripted.wait_finished("second");
    until("the worker is free", || (fixture.info().stats.running == 0).then_some(()));
    token.cancel();
    assert_eq!(block_on(answered).unwrap().as_bytes(), b"second");
    let dropped = fixture.execute("third");
    scripted.wait_finished("third");
    until("the worker is free", || (fixture.info().stats.running == 0).then_some(()));
    drop(dropped);
    assert_eq!(block_on(fixture.execute("fourth")).unwrap().as_bytes(), b"fourth");
    assert_eq!(fixture.info().stats.calls, 4);
    is_clean(&fixture);
}

#[test]
fn future_polled_after_completion_is_harmless() {
    let scripted = ScriptedPlugin::new();
    let fixture = strict(&scripted);
    let mut call = pin!(fixture.execute("once"));
    until("it is answered", || {
        call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready().then_some(())
    });
    let again = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(again, Poll::Pending));
}

#[test]
fn randomly_dropped_calls_leave_nothing_behind() {
    let scripted = ScriptedPlugin::new();
    let name = hotbay_tests::unique("quick");
    let builder = hotbay::Host::builder();
    let host = scripted.register(builder, &name).build().unwrap();
    let handle = host.plugin(&name).unwrap();
    let (mut answered, mut dropped) = (0_u64, 0_u64);
    for round in 0..1000_u64 {
        let text = format!("{round}, which is longer than an inline payload");
        let mut call = Box::pin(handle.execute(Request::text(&text)));
        let mut context = Context::from_waker(Waker::noop());
        let mut answer = None;
        for _ in 0..(round * 7919 % 40) {
            thread::yield_now();
            if let Poll::Ready(outcome) = call.as_mut().poll(&mut context) {
                answer = Some(outcome);
                break;
            }
        }
        match answer {
            Some(outcome) => {
                assert_eq!(outcome.expect("the call succeeds").as_text().unwrap(), text);
                answered += 1;
            }
            None => dropped += 1,
        }
    }
    assert_eq!(answered + dropped, 1000);
    until("nothing runs", || {
        let info = &host.list()[0];
        (info.stats.running == 0).then_some(())
    });
    let reply = block_on(handle.execute(Request::text("still serving"))).unwrap();
    assert_eq!(reply.as_bytes(), b"still serving");
    until("nothing waits", || (host.list()[0].stats.waiting == 0).then_some(()));
    let info = &host.list()[0];
    assert_eq!(info.state, hotbay::PluginState::Serving);
    assert_eq!((info.stats.errors, info.stats.faults, info.stats.abandoned), (0, 0, 0));
    // Each call counts once; calls dropped before they started count as rejected.
    until("all are counted", || (host.list()[0].stats.calls == 1001).then_some(()));
    assert_eq!(host.list()[0].stats.refused, 1001 - scripted.inputs().len() as u64);
    let workers = usize::try_from(hotbay::HostLimits::default().max_workers).unwrap();
    until("replaced workers exit", || (threads(&name).len() <= workers).then_some(()));
    block_on(host.shutdown(LIMIT));
    assert_eq!(threads(&name), Vec::<String>::new());
}
