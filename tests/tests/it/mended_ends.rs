//! What an attack on the ends of calls found: wakers that panic, for calls and for readers of
//! events, and pools that end each other.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::{future::Future, thread};

use hotbay::pool::{PoolLimits, WorkerPool};
use hotbay::{CancellationToken, ErrorKind, Host, HostEvent, Request};
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, limits, loaded, quarantine, reloaded, unique, until,
};
use serde_json::json;

use crate::puppet::{LATE, NEVER, Puppet, SOON};

/// Panics whenever it is woken.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("a waker, on purpose"));
    }
}

/// Panics whenever it is woken, with what panics when it is dropped.
struct Explodes;

struct Bomb;

impl Wake for Explodes {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new(Bomb));
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new("a bomb, on purpose"));
    }
}

/// Lets a future know a waker; it is not done by then.
fn waits_with(future: Pin<&mut impl Future>, waker: Waker) {
    assert!(future.poll(&mut Context::from_waker(&waker)).is_pending());
}

fn panics() -> Waker {
    Waker::from(Arc::new(Panics))
}

#[test]
fn a_waker_that_panics_at_an_unload_keeps_nobody_else_from_being_told() {
    let plugins = Plugins::new();
    let hasty = limits(|limits| (limits.drain_wait_max, limits.workers_max) = (SOON, 1));
    let host = Host::builder().limits(hasty).build().unwrap();
    let mut events = host.events();
    let folder = plugins.add("woken", "faulty").config(json!({ "obey": true })).write();
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
        unload.join().expect("the unload does not panic").unwrap();
    });
    assert_eq!(host.list().len(), 0);
    for call in good {
        let kind = block_on(call).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Retired, "told while the first one still runs");
    }
    assert_eq!(block_on(bad).unwrap_err().kind(), ErrorKind::Retired);
    std::fs::write(release, "").unwrap();
    // Its answer, or that nobody waited for it any longer.
    let _ = block_on(running);
    event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    let handle = loaded(&host, &folder);
    assert!(block_on(handle.execute(Request::text("{}"))).is_ok());
}

#[test]
fn a_reader_of_events_whose_waker_panics_does_not_disturb_a_promotion() {
    let plugins = Plugins::new();
    let policy = quarantine(|policy| {
        policy.faults_max = 1;
        (policy.back_off_first, policy.back_off_max) = (NEVER, NEVER);
    });
    let host = Host::builder().quarantine(policy).build().unwrap();
    let install = |number: u32| {
        let config = json!({ "obey": true, "number": number });
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
        let generation = reload.expect("the reload does not panic");
        let outcomes =
            [handle.call(Request::text("{}")), block_on(handle.execute(Request::text("{}")))];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap().generation(), generation);
        }
    }
    event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
}

#[test]
fn a_reader_of_events_whose_waker_panics_does_not_disturb_calls_after_a_late_one() {
    let puppet = Puppet::new();
    let policy = quarantine(|policy| {
        policy.faults_max = 1;
        (policy.back_off_first, policy.back_off_max) = (SOON / 30, SOON / 30);
    });
    let one = limits(|limits| limits.workers_max = 1);
    let scene = puppet.host(|builder| builder.limits(one).quarantine(policy));
    block_on(scene.execute("warm")).unwrap();
    let mut events = scene.host.events();
    let mut next = Box::pin(events.next());
    waits_with(next.as_mut(), panics());
    let late = scene.handle.execute(Request::text("wait").deadline_in(LATE));
    puppet.begins("wait");
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    for request in [|| Request::text("x"), || Request::text("x").deadline_in(NEVER)] {
        until("it serves again", || match block_on(scene.handle.execute(request())) {
            Ok(reply) => Some(assert_eq!(reply.as_bytes(), b"x")),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Quarantined);
                None
            }
        });
    }
    puppet.open();
}

#[test]
fn a_reader_of_events_whose_waker_panics_does_not_disturb_a_plugin_that_was_stuck() {
    let puppet = Puppet::new();
    let few = limits(|limits| (limits.workers_max, limits.abandoned_max) = (1, 1));
    let policy = quarantine(|policy| policy.faults_max = 1000);
    let scene = puppet.host(|builder| builder.limits(few).quarantine(policy));
    let mut events = scene.host.events();
    let mut next = Box::pin(events.next());
    waits_with(next.as_mut(), panics());
    let late = scene.handle.execute(Request::text("wait").deadline_in(LATE));
    puppet.begins("wait");
    let queued = scene.execute("queued");
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    puppet.open();
    // Answered before it was stuck or after it, or told that it is.
    if let Err(error) = block_on(queued) {
        assert_eq!(error.kind(), ErrorKind::Quarantined);
    }
    until("it is back", || (scene.info().running == 0).then_some(()));
    assert_eq!(scene.info().state, "serving");
    assert_eq!(block_on(scene.execute("after")).unwrap().as_bytes(), b"after");
}

#[test]
fn a_waker_whose_panic_panics_when_it_is_dropped_takes_no_worker_with_it() {
    let puppet = Puppet::new();
    let name = unique("bomb");
    let one = limits(|limits| limits.workers_max = 1);
    let host = puppet.register(Host::builder().limits(one), &name).build().unwrap();
    let handle = host.plugin(&name).unwrap();
    for round in ["wait 1", "wait 2", "wait 3"] {
        let mut bad = Box::pin(handle.execute(Request::text(round)));
        puppet.begins(round);
        waits_with(bad.as_mut(), Waker::from(Arc::new(Explodes)));
        let queued = handle.execute(Request::text("queued"));
        puppet.let_one();
        assert_eq!(block_on(queued).unwrap().as_bytes(), b"queued");
        assert_eq!(block_on(bad).unwrap().as_text().unwrap(), round);
        let bounded = Request::text("bounded").deadline_in(NEVER);
        assert_eq!(block_on(handle.execute(bounded)).unwrap().as_bytes(), b"bounded");
    }
    let info = &host.list()[0];
    assert_eq!((info.running, info.waiting, info.state.as_str()), (0, 0, "serving"));
}

#[test]
fn a_worker_that_ends_the_pool_whose_task_holds_its_own_comes_back() {
    let mut limits = PoolLimits::default();
    limits.workers = 1;
    let pool = || WorkerPool::<u32>::new(limits.clone(), &CancellationToken::new()).unwrap();
    let (first, second) = (pool(), pool());
    let (enter, entered) = mpsc::channel::<()>();
    let (go, may_go) = mpsc::channel::<()>();
    let held = second
        .submit(move || {
            enter.send(()).unwrap();
            may_go.recv_timeout(LIMIT).unwrap();
            1
        })
        .unwrap();
    entered.recv_timeout(LIMIT).unwrap();
    let (begin, may_begin) = mpsc::channel::<()>();
    let token = second.token();
    let ends = first
        .submit(move || {
            may_begin.recv_timeout(LIMIT).unwrap();
            // Drops what waits there, and with it the last handle of the pool this runs in.
            token.cancel();
            2
        })
        .unwrap();
    let never = second
        .submit(move || {
            drop(first);
            3
        })
        .unwrap();
    begin.send(()).unwrap();
    assert_eq!(ends.wait_timeout(LIMIT).expect("the worker comes back"), Ok(2));
    go.send(()).unwrap();
    assert_eq!(held.wait(), Ok(1));
    assert_eq!(never.wait(), Err(hotbay::pool::TaskError::NeverRan));
}
