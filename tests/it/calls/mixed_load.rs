//! Deadlines, cancellations, drops and reloads at once while many threads call. Each call gets its
//! own outcome, and afterward the plugin works as before.

use std::future::Future as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use hotbay::{CancellationToken, ErrorKind, Host, HostLimits, PluginHandle, Request};
use hotbay_tests::{LIMIT, Plugins, block_on, limits, loaded, threads, unique, until};
use serde_json::json;

use crate::scripted_plugin::ScriptedPlugin;

/// A pseudorandom generator with a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[derive(Default)]
struct Outcomes {
    answered: AtomicU64,
    late: AtomicU64,
    cancelled: AtomicU64,
    dropped: AtomicU64,
}

/// Makes the calls of one caller: some with deadlines of microseconds, some cancelled, some
/// dropped.
fn storm(handle: &PluginHandle, seed: u64, calls: u64, outcomes: &Outcomes) {
    let mut random = Random(seed);
    for number in 0..calls {
        let text = format!("call {number} of {seed}, longer than an inline payload");
        let request = Request::text(&text);
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        match random.below(4) {
            0 => {
                let mut call = Box::pin(handle.execute(request));
                for _ in 0..random.below(4) {
                    let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    thread::yield_now();
                }
                add(&outcomes.dropped);
                continue;
            }
            kind => {
                let token = CancellationToken::new();
                let request = match kind {
                    1 => request.with_timeout(Duration::from_micros(random.below(400))),
                    2 => request.with_cancellation_token(token.clone()),
                    _ => request,
                };
                let call = handle.execute(request);
                if kind == 2 {
                    (0..random.below(4)).for_each(|_| thread::yield_now());
                    token.cancel();
                }
                match block_on(call) {
                    Ok(reply) => {
                        assert_eq!(reply.as_text().unwrap(), text);
                        add(&outcomes.answered)
                    }
                    Err(error) if kind == 1 => {
                        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
                        add(&outcomes.late)
                    }
                    Err(error) => {
                        assert_eq!((kind, error.kind()), (2, ErrorKind::Cancelled), "{error}");
                        add(&outcomes.cancelled)
                    }
                }
            }
        };
    }
}

fn wide() -> HostLimits {
    limits(|limits| (limits.max_workers, limits.max_abandoned_calls) = (3, 1000))
}

#[test]
fn storm_of_calls_keeps_worker_count() {
    let scripted = ScriptedPlugin::new();
    let name = unique("storm");
    let builder = Host::builder().limits(wide()).quarantine(None);
    let host = scripted.register(builder, &name).build().unwrap();
    let handle = host.plugin(&name).unwrap();
    let outcomes = Outcomes::default();
    thread::scope(|scope| {
        for seed in 0..4 {
            let (handle, outcomes) = (&handle, &outcomes);
            scope.spawn(move || storm(handle, seed, 250, outcomes));
        }
    });
    let info = || host.list().remove(0);
    until("nothing is left", || {
        let info = info();
        (info.stats.running == 0 && info.stats.waiting == 0).then_some(())
    });
    let sum = |counters: &[&AtomicU64]| -> u64 {
        counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    };
    let Outcomes { answered, late, cancelled, dropped } = &outcomes;
    assert_eq!(sum(&[answered, late, cancelled, dropped]), 1000);
    assert!(sum(&[answered]) > 0 && sum(&[late]) > 0);
    let (info, finished) = (info(), scripted.inputs().len() as u64);
    assert_eq!((info.stats.errors, info.stats.faults), (0, 0));
    assert!(info.stats.abandoned <= sum(&[late]), "{info:?}");
    // Started and rejected calls are counted; calls dropped before the start are not.
    assert_eq!(info.stats.calls - info.stats.refused, finished, "{info:?}");
    // All workers exist, and no more.
    let calls: Vec<_> =
        ["wait 1", "wait 2", "wait 3"].map(|text| handle.execute(Request::text(text))).into();
    for text in ["wait 1", "wait 2", "wait 3"] {
        scripted.wait_started(text);
    }
    let one_more = handle.execute(Request::text("wait 4"));
    assert_eq!(host.list()[0].stats.waiting, 1);
    until("surplus workers have exited", || (threads(&name).len() == 3).then_some(()));
    assert!(!scripted.inputs().contains(&"wait 4".to_owned()));
    scripted.release_all();
    for call in calls {
        block_on(call).unwrap();
    }
    block_on(one_more).unwrap();
    block_on(host.shutdown(LIMIT));
    assert_eq!(threads(&name), Vec::<String>::new());
    assert!(host.retained().is_empty());
}

#[test]
fn storm_through_reloads_loses_no_call() {
    let plugins = Plugins::new();
    let name = unique("swaps");
    let host = Host::builder().limits(wide()).quarantine(None).build().unwrap();
    let install = |number: u64| {
        let handover = if number.is_multiple_of(3) { "pause" } else { "overlap" };
        let plugin = plugins.add(&name, "faulty").set("handover", handover);
        plugin.config(json!({ "number": number })).write()
    };
    let handle = loaded(&host, install(0));
    let (outcomes, done) = (Outcomes::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|seed| {
                let (handle, outcomes) = (&handle, &outcomes);
                scope.spawn(move || storm(handle, seed, 250, outcomes))
            })
            .collect();
        scope.spawn(|| {
            for number in 1.. {
                install(number);
                hotbay_tests::reloaded(&host, &name);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let joined: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(joined.iter().all(Result::is_ok));
    });
    until("nothing is left", || {
        let info = &host.list()[0];
        (info.stats.running == 0 && info.stats.waiting == 0).then_some(())
    });
    until("no build is kept", || host.retained().is_empty().then_some(()));
    let reply = block_on(handle.execute(Request::text("still serving"))).unwrap();
    assert_eq!(reply.as_bytes(), b"still serving");
    assert_eq!((host.list()[0].stats.errors, host.list()[0].stats.faults), (0, 0));
    drop(reply);
    until("surplus workers have exited", || (threads(&name).len() <= 3).then_some(()));
    block_on(host.shutdown(LIMIT));
    assert_eq!(threads(&name), Vec::<String>::new());
}
