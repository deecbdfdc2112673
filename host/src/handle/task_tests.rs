//! Pooled calls of a generation that runs them as tasks. A compiled-in plugin stands in for a
//! process; it answers at once on the calling thread.

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hotbay_plugin::{Output, PluginError};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::PluginHandle;
use super::batch::{BatchItem, BatchJob};
use crate::call::{CallState, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::{Generation, InstanceRef, Parts, State};
use crate::host::Host;
use crate::slot::{Admission, CallScope};
use crate::worker::WorkerThreads;
use crate::{Call, Layer, Next, Reply};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Creates a host with a plugin that answers with the name of the thread that it runs on.
fn host(layer: Option<PassThrough>) -> Host {
    let thread = || std::thread::current().name().unwrap_or_default().to_owned();
    let builder = Host::builder().register_fn("where", move |_, input| match input.as_text()? {
        "fail" => Err(PluginError::new(3, "as requested")),
        _ => Ok(Output::text(thread())),
    });
    let builder = layer.into_iter().fold(builder, |builder, layer| builder.layer(layer));
    builder.build().expect("a host")
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name("task").build().expect("a runtime")
}

struct PassThrough;

impl Layer for PassThrough {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        next.call(call)
    }
}

/// Replaces the current generation with one whose calls run as tasks, with two workers.
fn move_to_tasks(plugin: &PluginHandle, runtime: &Runtime) -> Arc<Generation> {
    let slot = &plugin.inner.slot;
    let paused = slot.pause().expect("a current generation");
    let before = &paused.generation;
    let backend = before.take_backend(TIMEOUT).expect("no lease is left");
    let parts = Parts {
        name: before.name.clone(),
        id: slot.next_generation(),
        version: before.version.clone(),
        limits: before.limits,
        policy: Arc::clone(&before.policy),
        retain_reason: None,
        is_confined: false,
        workers: WorkerThreads::new("thread".to_owned(), 1 << 20, 2),
        runtime: Some(runtime.handle().clone()),
        events: before.events.clone(),
        services: None,
    };
    let instance = InstanceRef::new(parts, backend);
    let generation = Arc::clone(instance.generation());
    assert!(slot.promote(instance).expect("it is not unloaded").is_none());
    generation
}

#[test]
fn pooled_calls_run_on_runtime_and_are_counted() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let generation = move_to_tasks(&plugin, &runtime);
    runtime.block_on(async {
        for _ in 0..3 {
            let reply = plugin.execute(Request::text("")).await.expect("an answer");
            assert_eq!(reply.as_text().expect("text"), "task");
            assert_eq!(reply.generation(), generation.id);
        }
        let all: Vec<_> = (0..20).map(|_| plugin.execute(Request::text(""))).collect();
        for one in all {
            assert_eq!(one.await.expect("an answer").as_text().expect("text"), "task");
        }
        let failed = plugin.execute(Request::text("fail")).await.expect_err("it fails");
        assert_eq!(failed.kind(), ErrorKind::Plugin);
        let denied = Request::text("").with_operation("write").with_timeout(TIMEOUT);
        assert_eq!(
            plugin.execute(denied).await.expect_err("no").kind(),
            ErrorKind::PermissionDenied
        );
    });
    let counters = &plugin.inner.slot.counters;
    assert_eq!(plugin.inner.slot.calls(), 25);
    assert_eq!(counters.errors.load(Ordering::Relaxed), 1);
    assert_eq!(counters.refused.load(Ordering::Relaxed), 1);
    assert_eq!(plugin.unbounded(), None);
    runtime.block_on(host.unload("where")).expect("a plugin");
    assert!(matches!(generation.state(), State::Closed));
}

#[test]
fn queued_calls_run_on_next_generation_after_reload() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let before = move_to_tasks(&plugin, &runtime);
    let calls: Vec<_> = (0..50).map(|_| plugin.execute(Request::text(""))).collect();
    let after = move_to_tasks(&plugin, &runtime);
    runtime.block_on(async {
        for call in calls {
            let generation = call.await.expect("an answer").generation();
            assert!(generation == before.id || generation == after.id);
        }
    });
}

#[test]
fn calls_with_layers_of_application_run_on_threads() {
    let (host, runtime) = (host(Some(PassThrough)), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let _ = move_to_tasks(&plugin, &runtime);
    let reply = runtime.block_on(plugin.execute(Request::text("")));
    assert_eq!(reply.expect("an answer").as_text().expect("text"), "thread");
}

#[test]
fn chunk_runs_as_task_with_an_outcome_for_each_call() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let _ = move_to_tasks(&plugin, &runtime);
    for timeout in [None, Some(TIMEOUT)] {
        let outcomes = runtime.block_on(plugin.execute_each(calls(), timeout));
        check(&outcomes);
    }
}

/// Returns five calls: one will fail, and one has failed before it is made.
fn calls() -> Vec<BatchItem> {
    let texts = ["", "fail", "", "", ""].map(|text| BatchItem::Pending(Request::text(text)));
    let mut calls = Vec::from(texts);
    calls[2] = BatchItem::Failed(Error::new(ErrorKind::InvalidInput, "was failed before"));
    calls
}

fn check(outcomes: &[BatchItem]) {
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            BatchItem::Pending(_) => panic!("a call was not made"),
            BatchItem::Answered(_, reply) => Ok(reply.as_text().expect("text").to_owned()),
            BatchItem::Failed(error) => Err(error.kind()),
        })
        .collect();
    let text = || Ok("task".to_owned());
    let expected = [text(), Err(ErrorKind::Plugin), Err(ErrorKind::InvalidInput), text(), text()];
    assert_eq!(kinds, expected);
}

#[test]
fn batch_is_answered_by_one_exchange_after_the_layers() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let generation = move_to_tasks(&plugin, &runtime);
    let inner = Arc::clone(&plugin.inner);
    let outcomes = runtime.spawn(async move {
        let instance = inner.slot.lease(generation.id.get()).expect("a current generation");
        let mut calls = calls();
        calls.push(BatchItem::Pending(Request::text("").with_operation("write")));
        let batch = BatchJob::for_tests(&inner);
        batch.call_together(&instance, &mut calls).await;
        calls
    });
    let mut outcomes = runtime.block_on(outcomes).expect("no panic");
    // A layer rejected it, so the exchange did not wait for it.
    let rejected = outcomes.pop();
    assert!(
        matches!(rejected, Some(BatchItem::Failed(error)) if error.kind() == ErrorKind::PermissionDenied)
    );
    check(&outcomes);
    assert_eq!(plugin.inner.slot.calls(), 5);
}

#[test]
fn brief_batch_has_outcomes_and_counters_of_the_layers() {
    let runtime = runtime();
    let counted = [false, true].map(|is_brief| {
        let host = host(None);
        let plugin = host.plugin("where").expect("a plugin");
        let generation = move_to_tasks(&plugin, &runtime);
        let inner = Arc::clone(&plugin.inner);
        let outcomes = runtime.spawn(async move {
            let instance = inner.slot.lease(generation.id.get()).expect("a current generation");
            let batch = BatchJob::for_tests(&inner);
            let mut calls = calls();
            match is_brief {
                true => batch.call_briefly(&instance, &mut calls).await,
                false => batch.call_together(&instance, &mut calls).await,
            }
            calls
        });
        check(&runtime.block_on(outcomes).expect("no panic"));
        let (slot, counters) = (&plugin.inner.slot, &plugin.inner.slot.counters);
        let counts = [&counters.errors, &counters.faults, &counters.refused, &counters.abandoned];
        (slot.calls(), counts.map(|count| count.load(Ordering::Relaxed)))
    });
    assert_eq!(counted[0], (4, [1, 0, 0, 0]));
    assert_eq!(counted[0], counted[1]);
}

#[test]
fn exchange_ends_on_cancellation_or_unload() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let generation = move_to_tasks(&plugin, &runtime);
    let slot = &plugin.inner.slot;
    runtime.block_on(async {
        let instance = slot.lease(generation.id.get()).expect("a current generation");
        let state = CallState::default();
        let never = || pending::<Result<(), Error>>();
        let (outcome, ()) = tokio::join!(slot.until_cancelled(&instance, &state, never()), async {
            state.cancel();
        });
        assert_eq!(outcome.expect_err("it was cancelled").kind(), ErrorKind::Cancelled);
        // Also if it was cancelled before; but a result that is ready is returned.
        let outcome = slot.until_cancelled(&instance, &state, never()).await;
        assert_eq!(outcome.expect_err("it was cancelled").kind(), ErrorKind::Cancelled);
        assert!(slot.until_cancelled(&instance, &state, ready(Ok(()))).await.is_ok());

        let state = CallState::default();
        let exchange = slot.until_cancelled(&instance, &state, never());
        let (outcome, ()) = tokio::join!(exchange, async { generation.abort_calls() });
        assert_eq!(outcome.expect_err("its plugin was unloaded").kind(), ErrorKind::Retired);
    });
}

#[test]
fn call_cancelled_by_token_abandons_no_worker() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let _ = move_to_tasks(&plugin, &runtime);
    runtime.block_on(async {
        for _ in 0..200 {
            let token = CancellationToken::new();
            let call = plugin.execute(Request::text("").with_cancellation_token(token.clone()));
            token.cancel();
            match call.await {
                Ok(reply) => assert_eq!(reply.as_text().expect("text"), "task"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            }
        }
        assert!(plugin.execute(Request::text("")).await.is_ok());
    });
    assert_eq!(plugin.inner.slot.running().1, 0);
    assert!(!plugin.inner.slot.health.is_quarantined());
}

#[test]
fn runtime_shutdown_leaves_no_call_without_a_result() {
    let (host, stopped) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let _ = move_to_tasks(&plugin, &stopped);
    stopped.shutdown_timeout(TIMEOUT);
    let call = plugin.execute(Request::text(""));
    assert_eq!(plugin.inner.slot.running(), (0, 0));
    // It waits for a generation that can run it.
    let running = runtime();
    let _ = move_to_tasks(&plugin, &running);
    assert!(running.block_on(call).is_ok());
}

#[test]
fn timeout_counts_as_fault_of_called_generation_only_once() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("a plugin");
    let generation = move_to_tasks(&plugin, &runtime);
    let slot = &plugin.inner.slot;
    let instance = slot.lease(generation.id.get()).expect("a current generation");
    let (request, state, timed_out) =
        (Request::text(""), CallState::default(), CallState::default());
    timed_out.time_out();
    let record = |state, error| {
        let scope = CallScope::pooled(&request, &instance, state);
        slot.record_outcome(Admission::Normal, &scope, &Err(error));
        (slot.counters.abandoned.load(Ordering::Relaxed), slot.health.is_quarantined())
    };
    let not_called = || slot.deadline_error("was not called");
    let unanswered = || slot.deadline_error("did not answer").in_generation(generation.id);
    let exited = || Error::new(ErrorKind::Disconnected, "exited").in_generation(generation.id);
    for _ in 0..9 {
        assert_eq!(record(&state, not_called()), (0, false));
        assert_eq!(record(&state, exited()), (0, false));
        // The timer has recorded this timeout before.
        assert_eq!(record(&timed_out, unanswered()), (0, false));
    }
    for faults in 1..5 {
        assert_eq!(record(&state, unanswered()), (faults, false));
        assert_eq!(record(&state, unanswered()), (faults, false), "a call counts once");
        state.reset();
    }
    assert_eq!(record(&state, unanswered()), (5, true));
}
