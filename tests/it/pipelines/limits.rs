//! Limits of items in a pipeline stream: deadlines, tokens, and the end of the stream.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::stream;
use hotbay::{CancellationToken, ErrorKind, Host, PipelineStep, Reply, Request, RunOptions};
use hotbay_tests::{LIMIT, Plugins, block_on, limits, loaded, reloaded, until};
use serde_json::json;

use crate::scripted_plugin::{LATE, NEVER, SOON, ScriptedPlugin};

#[test]
fn dropped_stream_is_cancelled_after_an_item_timed_out() {
    for late in [false, true] {
        let scripted = ScriptedPlugin::new();
        let host = scripted.register(Host::builder(), "scripted").build().unwrap();
        let pipeline = host.pipeline(["scripted"]).unwrap();
        let watch = format!("watch {late}");
        let mut requests = Vec::new();
        if late {
            requests.push(Request::text("wait").with_timeout(LATE));
        }
        requests.push(Request::owned(watch.clone().into_bytes()));
        let mut outcomes = pipeline.run_many(stream::iter(requests), RunOptions::ordered());
        block_on(async {
            let starts = async {
                while !scripted.inputs().contains(&watch) {
                    tokio::task::yield_now().await;
                }
            };
            let mut starts = std::pin::pin!(starts);
            let mut left_request = std::pin::pin!(outcomes.next());
            std::future::poll_fn(|context| {
                assert!(left_request.as_mut().poll(context).is_pending());
                starts.as_mut().poll(context)
            })
            .await;
        });
        drop(outcomes);
        let taken_back = std::panic::catch_unwind(|| {
            let started = std::time::Instant::now();
            while !scripted.finished().contains(&watch) {
                assert!(started.elapsed() < Duration::from_secs(5), "`{watch}` still runs");
                std::thread::yield_now();
            }
        });
        scripted.release_all();
        assert!(taken_back.is_ok(), "`{watch}` was not cancelled");
    }
}

/// Streams one request to a busy plugin with one worker, and returns its error kind.
fn behind_a_busy_worker(request: Request<'static>, meanwhile: impl FnOnce()) -> Option<ErrorKind> {
    let scripted = ScriptedPlugin::new();
    let one = limits(|limits| limits.max_workers = 1);
    let fixture = scripted.host(|builder| builder.limits(one));
    let running = fixture.execute("wait");
    scripted.wait_started("wait");
    let pipeline = fixture.host.pipeline(["scripted"]).unwrap();
    let mut outcomes = pipeline.run_many(stream::iter([request]), RunOptions::ordered());
    let next = block_on(async {
        assert!(tokio::time::timeout(SOON, outcomes.next()).await.is_err());
        meanwhile();
        tokio::time::timeout(Duration::from_secs(5), outcomes.next()).await
    });
    scripted.release_all();
    drop(running);
    let done = next.expect("an outcome while the plugin is busy")?;
    done.outcome.err().map(|error| error.kind())
}

#[test]
fn item_expired_in_queue_is_reported() {
    let request = Request::text("late").with_timeout(SOON * 4);
    let outcome = behind_a_busy_worker(request, || {});
    assert_eq!(outcome, Some(ErrorKind::DeadlineExceeded));
}

#[test]
fn item_cancelled_in_queue_is_reported() {
    let token = CancellationToken::new();
    let request = Request::text("cancelled").with_cancellation_token(token.clone());
    let outcome = behind_a_busy_worker(request, || token.cancel());
    assert_eq!(outcome, Some(ErrorKind::Cancelled));
}

#[test]
fn run_many_applies_limits_of_single_run_per_item() {
    let scripted = ScriptedPlugin::new();
    let builder = Host::builder().default_deadline(Duration::from_secs(60));
    let host = scripted.register(builder, "scripted").build().unwrap();
    let step = PipelineStep::new("scripted");
    let plain = host.pipeline([step.clone()]).unwrap();
    let stepped = host.pipeline([step.with_timeout(NEVER)]).unwrap();
    let left_request = || Request::text("left");
    let cases = [
        (&plain, left_request(), 60_000, "the default"),
        (&plain, left_request().with_timeout(NEVER), 3_600_000, "the request's own"),
        (&stepped, left_request(), 3_600_000, "the step's"),
    ];
    for (pipeline, request, max, what) in cases {
        let one = block_on(pipeline.run(request.clone())).unwrap().as_text().unwrap().to_owned();
        let mut many = pipeline.run_many(stream::iter([request]), RunOptions::ordered());
        let many = block_on(many.next()).unwrap().outcome.unwrap();
        let many = many.as_text().unwrap().to_owned();
        for (method, left) in [("run", one), ("run_many", many)] {
            let left: u64 = left.parse().unwrap();
            assert!(left <= max && left + 50_000 > max, "{method}, {what}: {left} of {max}");
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
