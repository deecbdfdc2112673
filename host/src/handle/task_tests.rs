//! Pooled calls of a generation that runs them as tasks: a compiled-in plugin stands in for a
//! process, which answers at once and in the thread that asks.

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
use crate::generation::state::State;
use crate::generation::{Generation, InstanceRef, Parts};
use crate::host::Host;
use crate::pool::WorkerThreads;
use crate::slot::{Admission, CallScope};
use crate::{Call, Layer, Next, Reply};

const WAIT_MAX: Duration = Duration::from_secs(60);

/// A host with a plugin that answers with the name of the thread that it runs on.
fn host(layer: Option<Through>) -> Host {
    let thread = || std::thread::current().name().unwrap_or_default().to_owned();
    let builder = Host::builder().register_fn("where", move |_, input| match input.as_text()? {
        "fail" => Err(PluginError::new(3, "as asked")),
        _ => Ok(Output::text(thread())),
    });
    let builder = layer.into_iter().fold(builder, |builder, layer| builder.layer(layer));
    builder.build().expect("a host")
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name("task").build().expect("a runtime")
}

struct Through;

impl Layer for Through {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        next.call(call)
    }
}

/// Puts a generation in the place of the one that serves, whose calls run as tasks, two at once.
fn move_to_tasks(plugin: &PluginHandle, runtime: &Runtime) -> Arc<Generation> {
    let slot = &plugin.inner.slot;
    let paused = slot.pause().expect("it serves");
    let before = &paused.generation;
    let instance = before.take_backend(WAIT_MAX).expect("nobody calls it");
    let parts = Parts {
        name: before.name.clone(),
        id: slot.next_generation(),
        version: before.version.clone(),
        limits: before.limits,
        policy: Arc::clone(&before.policy),
        retain_reason: None,
        workers: WorkerThreads::new("thread".to_owned(), 1 << 20, 2),
        runtime: Some(runtime.handle().clone()),
        events: before.events.clone(),
        services: None,
    };
    let token = InstanceRef::new(parts, instance);
    let generation = Arc::clone(token.generation());
    assert!(slot.promote(token).expect("it is not unloaded").is_none());
    generation
}

#[test]
fn pooled_calls_run_on_the_runtime_and_the_layers_count_them() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
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
        let denied = Request::text("").operation("write").deadline_in(WAIT_MAX);
        assert_eq!(
            plugin.execute(denied).await.expect_err("no").kind(),
            ErrorKind::PermissionDenied
        );
    });
    let counters = &plugin.inner.slot.counters;
    assert_eq!(counters.calls.sum(), 25);
    assert_eq!(counters.errors.load(Ordering::Relaxed), 1);
    assert_eq!(counters.refused.load(Ordering::Relaxed), 1);
    assert_eq!(plugin.unbounded(), None);
    runtime.block_on(host.unload("where")).expect("it is there");
    assert!(matches!(generation.state(), State::Closed));
}

#[test]
fn calls_that_wait_at_a_reload_go_to_the_tasks_of_the_next_generation() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
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
fn with_layers_of_the_application_calls_go_to_threads_all_the_same() {
    let (host, runtime) = (host(Some(Through)), runtime());
    let plugin = host.plugin("where").expect("it is there");
    let _ = move_to_tasks(&plugin, &runtime);
    let reply = runtime.block_on(plugin.execute(Request::text("")));
    assert_eq!(reply.expect("an answer").as_text().expect("text"), "thread");
}

#[test]
fn chunks_run_as_tasks_with_an_outcome_for_each_call() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
    let _ = move_to_tasks(&plugin, &runtime);
    for timeout in [None, Some(WAIT_MAX)] {
        let outcomes = runtime.block_on(plugin.execute_each(calls(), timeout));
        check(&outcomes);
    }
}

/// Five calls: one fails, and one is answered before it is made.
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
    let wanted = [text(), Err(ErrorKind::Plugin), Err(ErrorKind::InvalidInput), text(), text()];
    assert_eq!(kinds, wanted);
}

#[test]
fn a_group_is_answered_by_one_exchange_and_each_call_goes_through_the_layers() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
    let generation = move_to_tasks(&plugin, &runtime);
    let inner = Arc::clone(&plugin.inner);
    let outcomes = runtime.spawn(async move {
        let token = inner.slot.lease(generation.id.get()).expect("it serves");
        let mut calls = calls();
        calls.push(BatchItem::Pending(Request::text("").operation("write")));
        let many = BatchJob::for_tests(&inner);
        many.call_together(&token, &mut calls).await;
        calls
    });
    let mut outcomes = runtime.block_on(outcomes).expect("no panic");
    // The layers refused it, so that it was not waited for.
    let refused = outcomes.pop();
    assert!(
        matches!(refused, Some(BatchItem::Failed(error)) if error.kind() == ErrorKind::PermissionDenied)
    );
    check(&outcomes);
    assert_eq!(plugin.inner.slot.counters.calls.sum(), 5);
}

#[test]
fn an_exchange_ends_when_nobody_wants_the_answer_or_its_generation_has_to_end() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
    let generation = move_to_tasks(&plugin, &runtime);
    let slot = &plugin.inner.slot;
    runtime.block_on(async {
        let token = slot.lease(generation.id.get()).expect("it serves");
        let state = CallState::default();
        state.mark_async();
        let never = || pending::<Result<(), Error>>();
        let (ended, ()) = tokio::join!(slot.until_cancelled(&token, &state, never()), async {
            state.cancel();
        });
        assert_eq!(ended.expect_err("it was taken back").kind(), ErrorKind::Cancelled);
        // Whoever comes too late hears it too; an answer that is there counts all the same.
        let ended = slot.until_cancelled(&token, &state, never()).await;
        assert_eq!(ended.expect_err("it was taken back").kind(), ErrorKind::Cancelled);
        assert!(slot.until_cancelled(&token, &state, ready(Ok(()))).await.is_ok());

        let state = CallState::default();
        state.mark_async();
        let exchange = slot.until_cancelled(&token, &state, never());
        let (ended, ()) = tokio::join!(exchange, async { generation.abort_calls() });
        assert_eq!(ended.expect_err("its plugin ended").kind(), ErrorKind::Retired);
    });
}

#[test]
fn a_call_taken_back_by_its_token_is_told_so_and_is_no_lost_worker() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
    let _ = move_to_tasks(&plugin, &runtime);
    runtime.block_on(async {
        for _ in 0..200 {
            let token = CancellationToken::new();
            let call = plugin.execute(Request::text("").cancelled_by(token.clone()));
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
fn a_runtime_that_ends_leaves_no_call_without_an_answer() {
    let (host, ended) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
    let _ = move_to_tasks(&plugin, &ended);
    ended.shutdown_timeout(WAIT_MAX);
    let call = plugin.execute(Request::text(""));
    assert_eq!(plugin.inner.slot.running(), (0, 0));
    // It waits for a generation that can run it.
    let lives = runtime();
    let _ = move_to_tasks(&plugin, &lives);
    assert!(lives.block_on(call).is_ok());
}

#[test]
fn answers_that_do_not_come_in_time_are_held_against_the_generation_that_was_asked() {
    let (host, runtime) = (host(None), runtime());
    let plugin = host.plugin("where").expect("it is there");
    let generation = move_to_tasks(&plugin, &runtime);
    let slot = &plugin.inner.slot;
    let token = slot.lease(generation.id.get()).expect("it serves");
    let (request, state, told) = (Request::text(""), CallState::default(), CallState::default());
    told.time_out();
    let judge = |state, error| {
        let scope = CallScope::pooled(&request, &token, state);
        slot.record_outcome(Admission::Normal, &scope, &Err(error));
        (slot.counters.abandoned.load(Ordering::Relaxed), slot.health.is_quarantined())
    };
    let not_asked = || slot.deadline_error("was not called");
    let unanswered = || slot.deadline_error("did not answer").in_generation(generation.id);
    let left = || Error::new(ErrorKind::Disconnected, "ended").in_generation(generation.id);
    for _ in 0..9 {
        assert_eq!(judge(&state, not_asked()), (0, false));
        assert_eq!(judge(&state, left()), (0, false));
        // The clock has held it against the plugin before.
        assert_eq!(judge(&told, unanswered()), (0, false));
    }
    for faults in 1..5 {
        assert_eq!(judge(&state, unanswered()), (faults, false));
        assert_eq!(judge(&state, unanswered()), (faults, false), "a call counts once");
        state.reset();
    }
    assert_eq!(judge(&state, unanswered()), (5, true));
}
