//! Full and old queues: which calls are rejected, which wait for space, and which get it.

use std::time::Duration;

use hotbay::{ErrorKind, HostLimits, Request};
use hotbay_tests::{block_on, limits, until};

use crate::scripted_plugin::{Fixture, NEVER, SOON, ScriptedPlugin};

/// Returns a host with one worker, busy with the first call, and a queue of this length.
fn busy(
    scripted: &ScriptedPlugin,
    change: impl FnOnce(&mut HostLimits),
) -> (Fixture, hotbay::Execute) {
    let limits = limits(|limits| {
        limits.max_workers = 1;
        change(limits);
    });
    let fixture = scripted.host(|builder| builder.limits(limits));
    let running = fixture.execute("wait");
    scripted.wait_started("wait");
    (fixture, running)
}

fn kind(call: hotbay::Execute) -> Option<ErrorKind> {
    block_on(call).err().map(|error| error.kind())
}

#[test]
fn full_queue_rejects_at_once_and_counts() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| limits.max_queued_calls = 1);
    let queued = fixture.execute("queued");
    assert_eq!(kind(fixture.execute("refused")), Some(ErrorKind::Overloaded));
    assert_eq!(fixture.info().stats.waiting, 1);
    scripted.release_all();
    assert!(block_on(running).is_ok() && block_on(queued).is_ok());
    assert_eq!(scripted.inputs(), ["wait", "queued"]);
    let info = fixture.info();
    assert_eq!(
        (info.stats.calls, info.stats.refused),
        (3, 1),
        "calls that never reached the plugin"
    );
}

#[test]
fn waiting_caller_gets_freed_place_in_order() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| limits.max_queued_calls = 1);
    let queued = fixture.execute("0");
    let waiting: Vec<_> = (1..6)
        .map(|number| {
            let text = number.to_string();
            fixture.handle.execute(Request::text(&text).with_space_timeout(NEVER))
        })
        .collect();
    // A call that does not wait cannot overtake waiting ones.
    assert_eq!(kind(fixture.execute("no place")), Some(ErrorKind::Overloaded));
    scripted.release_all();
    assert!(block_on(running).is_ok() && block_on(queued).is_ok());
    for call in waiting {
        block_on(call).unwrap();
    }
    assert_eq!(scripted.inputs(), ["wait", "0", "1", "2", "3", "4", "5"]);
}

#[test]
fn caller_waiting_too_long_for_place_is_overloaded() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| limits.max_queued_calls = 1);
    let placed = fixture.handle.execute(Request::text("placed").with_space_timeout(SOON));
    let outside = fixture.handle.execute(Request::text("outside").with_space_timeout(SOON));
    let none = fixture.handle.execute(Request::text("none").with_space_timeout(Duration::ZERO));
    assert_eq!(kind(none), Some(ErrorKind::Overloaded));
    assert_eq!(kind(outside), Some(ErrorKind::Overloaded));
    assert_eq!(fixture.info().stats.waiting, 1);
    scripted.release_all();
    assert!(block_on(running).is_ok() && block_on(placed).is_ok());
    assert_eq!(scripted.inputs(), ["wait", "placed"]);
}

#[test]
fn deadline_ends_wait_for_space() {
    let scripted = ScriptedPlugin::new();
    let (fixture, _running) = busy(&scripted, |limits| limits.max_queued_calls = 1);
    let _queued = fixture.execute("queued");
    let request = Request::text("late").with_space_timeout(NEVER).with_timeout(SOON);
    assert_eq!(kind(fixture.handle.execute(request)), Some(ErrorKind::DeadlineExceeded));
    scripted.release_all();
}

#[test]
fn callers_waiting_for_places_are_bounded() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| {
        (limits.max_queued_calls, limits.max_queue_waiters) = (1, 2);
    });
    let wait = |text: &str| fixture.handle.execute(Request::text(text).with_space_timeout(NEVER));
    let waiting = [wait("0"), wait("1"), wait("2")];
    assert_eq!(kind(wait("one too many")), Some(ErrorKind::Overloaded));
    // Dropped calls free space, whatever their position.
    let [first, second, third] = waiting;
    drop((first, third));
    let fresh = wait("3");
    scripted.release_all();
    assert!(block_on(running).is_ok() && block_on(second).is_ok() && block_on(fresh).is_ok());
    assert_eq!(scripted.inputs(), ["wait", "1", "3"]);
}

#[test]
fn dropped_calls_free_full_queue() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| limits.max_queued_calls = 2);
    drop([fixture.execute("a"), fixture.execute("b")]);
    let fresh = [fixture.execute("c"), fixture.execute("d")];
    assert_eq!(kind(fixture.execute("e")), Some(ErrorKind::Overloaded));
    scripted.release_all();
    block_on(running).unwrap();
    for call in fresh {
        block_on(call).unwrap();
    }
    assert_eq!(scripted.inputs(), ["wait", "c", "d"]);
}

#[test]
fn place_of_dropped_call_goes_to_waiting_caller() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| limits.max_queued_calls = 1);
    let queued = fixture.execute("dropped");
    let waits = fixture.handle.execute(Request::text("waits").with_space_timeout(SOON * 3));
    drop(queued);
    let mut waits = std::pin::pin!(waits);
    let early = block_on(async { tokio::time::timeout(SOON * 10, waits.as_mut()).await });
    scripted.release_all();
    assert!(early.is_err(), "the call has a place, but failed early: {early:?}");
    assert!(block_on(waits).is_ok() && block_on(running).is_ok());
}

#[test]
fn unload_fails_callers_waiting_for_places() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| limits.max_queued_calls = 1);
    let waiting: Vec<_> = (0..4)
        .map(|_| fixture.handle.execute(Request::text("waits").with_space_timeout(NEVER)))
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| block_on(fixture.host.unload("scripted")).unwrap());
        for call in waiting {
            assert_eq!(kind(call), Some(ErrorKind::Retired));
        }
        scripted.release_all();
    });
    assert!(block_on(running).is_ok());
}

#[test]
fn full_queue_message_names_its_limit() {
    let scripted = ScriptedPlugin::new();
    let (fixture, _running) = busy(&scripted, |limits| limits.max_queued_calls = 1);
    let _queued = fixture.execute("queued");
    let _outside: Vec<_> = (0..3)
        .map(|_| fixture.handle.execute(Request::text("outside").with_space_timeout(NEVER)))
        .collect();
    let message = block_on(fixture.execute("refused")).unwrap_err().to_string();
    scripted.release_all();
    assert!(message.contains("its queue is full (1 call)"), "{message}");
}

#[test]
fn calls_queued_longer_than_max_wait_are_shed() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |limits| limits.queue_timeout = Some(SOON));
    let old: Vec<_> = (0..3).map(|_| fixture.execute("old")).collect();
    for call in old {
        let error = block_on(call).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.to_string().contains("queue_timeout"), "{error}");
    }
    let info = fixture.info();
    assert_eq!((info.stats.shed, info.stats.waiting, info.stats.abandoned), (3, 0, 0));
    scripted.release_all();
    // A call that started in time may run as long as it needs.
    block_on(running).unwrap();
    assert_eq!(scripted.inputs(), ["wait"]);
}

#[test]
fn calls_of_one_caller_start_in_order() {
    let scripted = ScriptedPlugin::new();
    let (fixture, running) = busy(&scripted, |_| {});
    let texts: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let calls: Vec<_> = texts
        .iter()
        .map(|text| fixture.handle.execute(Request::text(text).with_timeout(NEVER)))
        .collect();
    scripted.release_all();
    block_on(running).unwrap();
    for (text, call) in texts.iter().zip(calls) {
        assert_eq!(block_on(call).unwrap().as_text().unwrap(), text);
    }
    assert_eq!(scripted.inputs()[1..], texts);
    until("nothing runs", || (fixture.info().stats.running == 0).then_some(()));
}
