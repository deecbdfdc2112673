//! Deadlines: expired calls never start, running calls fail at the deadline, and late replies are
//! discarded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use std::{future::Future as _, pin::pin, thread};

use hotbay::{ErrorKind, Host, PipelineStep, Request};
use hotbay_tests::{Plugins, block_on, host, limits, loaded, until};
use serde_json::json;

use crate::scripted_plugin::{LATE, NEVER, SOON, ScriptedPlugin};

#[test]
fn expired_deadline_fails_call_before_plugin() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder);
    let pinned = fixture.handle.pin().unwrap();
    let pipeline = fixture.host.pipeline(["scripted"]).unwrap();
    let step = PipelineStep::new("scripted").with_timeout(Duration::ZERO);
    let hasty = fixture.host.pipeline([step]).unwrap();
    let past = Instant::now();
    let requests = [
        Request::text("never").with_timeout(Duration::ZERO),
        Request::text("never").with_deadline(past),
        Request::text("never").with_deadline(past).with_timeout(NEVER),
    ];
    let mut calls = 0;
    for request in requests {
        let outcomes = [
            fixture.handle.call(request.clone()),
            pinned.call(request.clone()),
            block_on(fixture.handle.execute(request.clone())),
            block_on(pipeline.run(request.clone())),
            block_on(hasty.run(Request::text("never"))),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
            assert_eq!(error.plugin().map(hotbay::PluginName::as_str), Some("scripted"));
            calls += 1;
        }
    }
    assert_eq!(scripted.inputs(), Vec::<String>::new());
    let info = fixture.info();
    assert_eq!(
        (info.stats.calls, info.stats.refused, info.stats.abandoned, info.stats.faults),
        (calls, calls, 0, 0)
    );
    // No fault is recorded.
    assert_eq!(fixture.handle.call(Request::text("hello")).unwrap().as_bytes(), b"hello");
}

#[test]
fn queued_call_past_deadline_never_runs() {
    let scripted = ScriptedPlugin::new();
    let one = limits(|limits| limits.max_workers = 1);
    let fixture = scripted.host(|builder| builder.limits(one));
    let running = fixture.execute("wait");
    scripted.wait_started("wait");
    let late = fixture.handle.execute(Request::text("late").with_timeout(SOON));
    let patient = fixture.handle.execute(Request::text("patient").with_timeout(NEVER));
    let error = block_on(late).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("deadline passed while the call was queued"), "{error}");
    assert_eq!(fixture.info().stats.abandoned, 0);
    scripted.release_all();
    block_on(running).unwrap();
    block_on(patient).unwrap();
    assert_eq!(scripted.inputs(), ["wait", "patient"]);
}

#[test]
fn running_call_past_deadline_fails_and_plugin_sees_it() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder);
    let call = fixture.handle.execute(Request::text("watch").with_timeout(LATE));
    scripted.wait_started("watch");
    if let Err(error) = block_on(call) {
        // Otherwise the plugin saw the cancellation and answered faster than the host.
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    }
    scripted.wait_finished("watch");
    assert_eq!(scripted.cancelled(), [("watch".to_owned(), Some(Duration::ZERO))]);
    until("the call returns", || (fixture.info().stats.running == 0).then_some(()));
    let before = fixture.info().stats.abandoned;
    let call = fixture.handle.execute(Request::text("wait").with_timeout(LATE));
    scripted.wait_started("wait");
    assert_eq!(block_on(call).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(scripted.finished(), ["watch"], "the second call keeps running");
    assert_eq!(fixture.info().stats.running, 1);
    scripted.release_all();
    scripted.wait_finished("wait");
    until("all calls return", || (fixture.info().stats.running == 0).then_some(()));
    let info = fixture.info();
    assert_eq!((info.stats.abandoned - before, info.stats.faults, info.stats.errors), (1, 0, 0));
    assert_eq!(info.stats.calls, 2, "each is counted once");
}

#[test]
fn late_reply_is_discarded_and_generation_closes() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let faulty = plugins.add("scripted", "faulty").config(json!({ "scripted": true })).write();
    let faulty = loaded(&host, faulty);
    let (entered, seen) = (plugins.dir().join("entered"), plugins.dir().join("seen"));
    let watch = json!({ "watch_call": "cancelled", "entered": entered, "seen": seen });
    let call = faulty.execute(Request::json(&watch).unwrap().with_timeout(LATE));
    until("the call starts", || entered.exists().then_some(()));
    if let Err(error) = block_on(call) {
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    }
    until("the plugin sees it", || seen.exists().then_some(()));
    let left = json!({ "watch_call": "remaining" });
    let reply = faulty.call(Request::json(&left).unwrap()).unwrap();
    assert_eq!(reply.as_text().unwrap(), "none");
    drop(reply);
    let reply = faulty.call(Request::json(&left).unwrap().with_timeout(NEVER)).unwrap();
    let ms: u64 = reply.as_text().unwrap().parse().unwrap();
    assert!(ms > 0 && ms <= 3_600_000, "{ms}");
    drop(reply);
    block_on(host.unload("scripted")).unwrap();
    hotbay_tests::event(&mut events, |event| matches!(event, hotbay::HostEvent::Closed { .. }));
}

#[test]
fn late_replies_never_answer_other_calls() {
    let scripted = ScriptedPlugin::new();
    let many = limits(|limits| {
        (limits.max_workers, limits.max_abandoned_calls) = (8, 200);
    });
    let fixture = scripted.host(|builder| builder.limits(many).quarantine(None));
    let names: Vec<_> = (0..60).map(|number| format!("wait {number}")).collect();
    let late: Vec<_> = names
        .iter()
        .map(|name| fixture.handle.execute(Request::text(name).with_timeout(SOON)))
        .collect();
    for call in late {
        assert_eq!(block_on(call).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }
    let texts: Vec<_> = (0..60).map(|number| format!("quick {number}")).collect();
    let quick: Vec<_> = texts.iter().map(|text| fixture.execute(text)).collect();
    // Late replies arrive while others call.
    scripted.release_all();
    for (text, call) in texts.iter().zip(quick) {
        assert_eq!(block_on(call).unwrap().as_text().unwrap(), text);
    }
    until("all calls return", || (fixture.info().stats.running == 0).then_some(()));
    let info = fixture.info();
    let starts = scripted.inputs().iter().filter(|input| input.starts_with("wait")).count();
    assert!(info.stats.abandoned as usize >= starts, "{} < {starts}", info.stats.abandoned);
    assert!(info.stats.abandoned <= 60 && info.stats.calls >= 120, "{info:?}");
}

#[test]
fn manifest_caps_request_deadline_default_fills_missing() {
    let plugins = Plugins::new();
    let hour = Duration::from_secs(3600);
    let host = Host::builder().default_deadline(hour).build().unwrap();
    let plain = plugins.add("plain", "faulty").config(json!({ "scripted": true }));
    let plain = loaded(&host, plain.write());
    let bounded = plugins.add("bounded", "faulty").config(json!({ "scripted": true }));
    let bounded = bounded.set("limits", json!({ "deadline_ms": 60_000 }));
    let bounded = loaded(&host, bounded.write());
    let left = |handle: &hotbay::PluginHandle, action: Option<u64>| -> Option<u64> {
        let text = json!({ "watch_call": "remaining" }).to_string();
        let mut request = Request::json_text(&text);
        if let Some(seconds) = action {
            request = request.with_timeout(Duration::from_secs(seconds));
        }
        let reply = block_on(handle.execute(request)).unwrap();
        reply.as_text().unwrap().parse::<u64>().ok()
    };
    let near = |found: Option<u64>, seconds: u64| {
        let max = seconds * 1000;
        let found = found.expect("a deadline");
        assert!(found <= max && found + 50_000 > max, "{found} of {max}");
    };
    near(left(&plain, None), 3600);
    near(left(&plain, Some(7200)), 7200);
    near(left(&plain, Some(600)), 600);
    near(left(&bounded, None), 60);
    near(left(&bounded, Some(7200)), 60);
    // A call on the caller's thread is bounded only by its request.
    let text = json!({ "watch_call": "remaining" }).to_string();
    let reply = bounded.call(Request::json_text(&text)).unwrap();
    assert_eq!(reply.as_text().unwrap(), "none");
}

#[test]
fn deadlines_of_any_length_are_accepted() {
    let scripted = ScriptedPlugin::new();
    let patient = limits(|limits| limits.queue_timeout = Some(Duration::MAX));
    let fixture = scripted.host(|builder| builder.limits(patient).default_deadline(Duration::MAX));
    let step = PipelineStep::new("scripted").with_timeout(Duration::MAX);
    let pipeline = fixture.host.pipeline([step]).unwrap();
    let request =
        || Request::text("x").with_timeout(Duration::MAX).with_space_timeout(Duration::MAX);
    fixture.handle.call(request()).unwrap();
    block_on(fixture.handle.execute(request())).unwrap();
    block_on(fixture.execute("x")).unwrap();
    block_on(pipeline.run(request())).unwrap();
    block_on(fixture.host.shutdown(Duration::MAX));
}

/// Panics when woken for the first time.
struct PanickingWaker(AtomicBool);

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        assert!(self.0.swap(true, Ordering::SeqCst), "woken for the first time");
    }
}

#[test]
fn panicking_waker_delays_no_other_deadline() {
    let scripted = ScriptedPlugin::new();
    let wide = limits(|limits| limits.max_workers = 4);
    let fixture = scripted.host(|builder| builder.limits(wide).quarantine(None));
    let soon = Instant::now() + SOON;
    let call = |text: &str| fixture.handle.execute(Request::text(text).with_deadline(soon));
    let mut panicking = pin!(call("wait panicking"));
    let (second, third) = (call("wait second"), call("wait third"));
    let waker = Waker::from(Arc::new(PanickingWaker(AtomicBool::new(false))));
    assert!(matches!(panicking.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending));
    let waited = catch_unwind(AssertUnwindSafe(|| {
        let within = |call: hotbay::Execute| {
            block_on(async {
                tokio::time::timeout(Duration::from_secs(5), call)
                    .await
                    .map(|answer| answer.map(drop).map_err(|error| error.kind()))
            })
        };
        let later = fixture.handle.execute(Request::text("wait later").with_timeout(SOON * 2));
        [within(second), within(third), within(later)]
    }));
    scripted.release_all();
    for outcome in waited.unwrap() {
        assert_eq!(outcome, Ok(Err(ErrorKind::DeadlineExceeded)));
    }
}

#[test]
fn deadline_holds_after_host_is_dropped() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder);
    let call = fixture.handle.execute(Request::text("wait").with_timeout(LATE));
    scripted.wait_started("wait");
    drop(fixture.host);
    let outcome = block_on(async { tokio::time::timeout(Duration::from_secs(5), call).await });
    scripted.release_all();
    let answered =
        outcome.expect("the call returns at the deadline while the plugin keeps running");
    assert_eq!(answered.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
}

#[test]
fn sync_call_past_deadline_runs_to_completion() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder);
    // The reply is kept: the caller waited for it.
    let reply = fixture.handle.call(Request::text("watch").with_timeout(LATE)).unwrap();
    assert_eq!(reply.as_bytes(), b"watch");
    assert_eq!(scripted.cancelled(), [("watch".to_owned(), Some(Duration::ZERO))]);
    let handle = fixture.handle.clone();
    let other =
        thread::spawn(move || handle.call(Request::text("left")).map(hotbay::Reply::into_vec));
    assert_eq!(other.join().unwrap().unwrap(), b"none");
    assert_eq!(fixture.info().stats.abandoned, 0);
}
