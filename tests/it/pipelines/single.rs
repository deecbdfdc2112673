//! Pipelines, one request at a time: order, errors, deadlines, and skipped steps.

use std::thread;
use std::time::Duration;

use hotbay::{
    CancellationToken, Error, ErrorKind, Host, HostBuilder, Output, PipelineStep, PluginError,
    Request,
};
use hotbay_tests::{Plugins, block_on, loaded, reloaded};
use serde_json::json;

use crate::scripted_plugin::{NEVER, SOON, ScriptedPlugin};

/// Registers a plugin that appends its name to its input.
fn adds(builder: HostBuilder, name: &'static str) -> HostBuilder {
    builder
        .register_fn(name, move |_, input| Ok(Output::text(format!("{} {name}", input.as_text()?))))
}

fn skipped(error: &Error) -> Vec<&str> {
    error.skipped().iter().map(hotbay::PluginName::as_str).collect()
}

fn plugin(error: &Error) -> Option<&str> {
    error.plugin().map(hotbay::PluginName::as_str)
}

#[test]
fn pipeline_passes_each_reply_to_next_step_in_order() {
    let builder = ["a", "b", "c"].into_iter().fold(Host::builder(), adds);
    let host = builder.build().unwrap();
    let run = |steps: &[&str]| {
        let pipeline = host.pipeline(steps.iter().copied()).unwrap();
        block_on(pipeline.run(Request::text("x"))).unwrap().as_text().unwrap().to_owned()
    };
    assert_eq!(run(&["c", "a", "b"]), "x c a b");
    assert_eq!(run(&["a"]), "x a");
    assert_eq!(run(&["b", "b", "b"]), "x b b b");
    assert_eq!(host.list().iter().map(|info| info.stats.calls).collect::<Vec<_>>(), [2, 4, 1]);
}

#[test]
fn pipeline_preserves_bytes_and_media_type() {
    let host = Host::builder()
        .register_fn("first", |_, _| Ok(Output::html("<p>".repeat(1000))))
        .register_fn("second", |_, input| {
            Ok(Output::text(format!("{} {}", input.content_type(), input.len())))
        })
        .build()
        .unwrap();
    let pipeline = host.pipeline(["first", "second"]).unwrap();
    let reply = block_on(pipeline.run(Request::bytes(&[0, 159, 146, 150]))).unwrap();
    assert!(reply.as_text().unwrap().ends_with(" 3000"), "{reply:?}");
    assert!(reply.as_text().unwrap().starts_with("text/html"), "{:?}", reply.as_text());
}

#[test]
fn plugin_reloaded_between_runs_is_used_at_once() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let install =
        |text: &str| plugins.add("swapped", "faulty").config(json!({ "answers": text })).write();
    loaded(&host, install("one"));
    let pipeline = host.pipeline(["swapped"]).unwrap();
    let run = || block_on(pipeline.run(Request::text("x")));
    assert_eq!(run().unwrap().as_bytes(), b"one");
    install("two");
    let generation = reloaded(&host, "swapped");
    assert_eq!(run().unwrap().generation(), generation);
    assert_eq!(run().unwrap().as_bytes(), b"two");
    block_on(host.unload("swapped")).unwrap();
    assert_eq!(run().unwrap_err().kind(), ErrorKind::NotFound);
    loaded(&host, install("three"));
    assert_eq!(run().unwrap().as_bytes(), b"three");
}

#[test]
fn missing_steps_and_empty_pipelines_are_refused() {
    let host = adds(Host::builder(), "there").build().unwrap();
    for steps in [vec!["there", "gone"], vec!["gone"], vec!["Not A Name"], vec![""], vec![]] {
        let error = host.pipeline(steps.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{steps:?}");
        let reported = error.full_message();
        assert!(steps.is_empty() || reported.contains(steps[steps.len() - 1]), "{reported}");
        assert!(reported.matches("`gone`").count() <= 1, "reported twice: {reported}");
    }
}

#[test]
fn step_missing_at_run_is_named_with_later_steps() {
    let builder = ["a", "b", "c", "d"].into_iter().fold(Host::builder(), adds);
    let host = builder.build().unwrap();
    let pipeline = host.pipeline(["a", "b", "c", "d"]).unwrap();
    block_on(host.unload("b")).unwrap();
    let error = block_on(pipeline.run(Request::text("x"))).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::NotFound, Some("b")));
    assert_eq!(skipped(&error), ["c", "d"]);
    assert_eq!(host.plugin("a").map(|_| host.list()[0].stats.calls).unwrap(), 1);
    drop(host);
    let error = block_on(pipeline.run(Request::text("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
}

#[test]
fn step_error_is_unchanged_and_names_skipped_steps() {
    let details = json!({ "row": 7, "why": ["a", null] });
    let own = details.clone();
    let builder = adds(adds(Host::builder(), "first"), "third");
    let host = builder
        .register_fn("second", move |_, _| {
            let error = PluginError::new(-42, "no, thanks").retryable();
            Err(error.with_details(own.clone()))
        })
        .build()
        .unwrap();
    let pipeline = host.pipeline(["first", "second", "third", "first"]).unwrap();
    let error = block_on(pipeline.run(Request::text("x"))).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::Plugin, Some("second")));
    assert_eq!(skipped(&error), ["third", "first"]);
    let reported = error.plugin_error().unwrap();
    assert_eq!(
        (reported.code(), reported.message(), reported.is_retryable()),
        (-42, "no, thanks", true)
    );
    assert_eq!(reported.details(), Some(&details));
    assert_eq!(host.list().iter().map(|info| info.stats.calls).collect::<Vec<_>>(), [1, 1, 0]);
    let last = host.pipeline(["first", "second"]).unwrap();
    let error = block_on(last.run(Request::text("x"))).unwrap_err();
    assert!(error.skipped().is_empty());
}

#[test]
fn panic_in_step_is_fault_of_its_plugin() {
    let host = adds(Host::builder(), "after")
        .register_fn("panics", |_, _| panic!("in the middle"))
        .build()
        .unwrap();
    let pipeline = host.pipeline(["panics", "after"]).unwrap();
    let error = block_on(pipeline.run(Request::text("x"))).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::Panicked, Some("panics")));
    assert_eq!(error.fault().unwrap().message(), "in the middle");
    assert_eq!(skipped(&error), ["after"]);
}

#[test]
fn token_cancelled_between_steps_skips_the_rest() {
    let token = CancellationToken::new();
    let cancels = token.clone();
    let host = adds(adds(Host::builder(), "second"), "third")
        .register_fn("first", move |_, input| {
            let reply = Output::copy_of(input.as_bytes());
            cancels.cancel();
            Ok(reply)
        })
        .build()
        .unwrap();
    let pipeline = host.pipeline(["first", "second", "third"]).unwrap();
    let request = Request::text("x").with_cancellation_token(token);
    let error = block_on(pipeline.run(request)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let skipped = skipped(&error);
    // Reported at once, or after the step that cancelled has finished.
    assert!(skipped.ends_with(&["second", "third"]), "{skipped:?}");
    let others: Vec<_> = host.list().iter().skip(1).map(|info| info.stats.calls).collect();
    assert_eq!(others, [0, 0]);
}

#[test]
fn each_step_deadline_starts_with_its_step() {
    let scripted = ScriptedPlugin::new();
    let host = scripted.register(adds(Host::builder(), "after"), "scripted").build().unwrap();
    let step = |timeout: Duration| PipelineStep::new("scripted").with_timeout(timeout);
    let pipeline = host.pipeline([step(SOON), PipelineStep::new("after")]).unwrap();
    let error = block_on(pipeline.run(Request::text("wait"))).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::DeadlineExceeded, Some("scripted")));
    assert_eq!(skipped(&error), ["after"]);
    scripted.release_all();
    // A step's own deadline applies to that step; the request's applies to the whole run.
    let left = |pipeline: hotbay::Pipeline, request: Request<'_>| {
        block_on(pipeline.run(request)).unwrap().as_text().unwrap().to_owned()
    };
    let after = host.pipeline([PipelineStep::new("after").with_timeout(NEVER), "scripted".into()]);
    let report_remaining =
        |_: &hotbay::CallContext<'_>, _: hotbay::Payload<'_>| Ok(Output::text("left"));
    drop(after.unwrap());
    let host = scripted.register(Host::builder().register_fn("says", report_remaining), "scripted");
    let host = host.build().unwrap();
    let own = host.pipeline([PipelineStep::new("says").with_timeout(NEVER), "scripted".into()]);
    assert_eq!(left(own.unwrap(), Request::text("x")), "none");
    let all = host.pipeline(["says", "scripted"]).unwrap();
    let ms: u64 = left(all, Request::text("x").with_timeout(NEVER)).parse().unwrap();
    assert!(ms > 3_000_000, "{ms}");
}

#[test]
fn dropped_run_cancels_current_step_and_skips_the_rest() {
    let scripted = ScriptedPlugin::new();
    let host = scripted.register(adds(Host::builder(), "after"), "scripted").build().unwrap();
    let pipeline = host.pipeline(["scripted", "after"]).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            block_on(async {
                let run = pipeline.run(Request::text("watch"));
                let starts = async {
                    while scripted.inputs().is_empty() {
                        tokio::task::yield_now().await;
                    }
                };
                let mut run = std::pin::pin!(run);
                let mut starts = std::pin::pin!(starts);
                std::future::poll_fn(|context| {
                    assert!(run.as_mut().poll(context).is_pending());
                    starts.as_mut().poll(context)
                })
                .await;
            });
        });
    });
    scripted.wait_finished("watch");
    assert_eq!(host.plugin("after").map(|_| host.list()[0].stats.calls).unwrap(), 0);
}

#[test]
fn concurrent_runs_keep_their_own_requests() {
    let builder = ["a", "b"].into_iter().fold(Host::builder(), adds);
    let host = builder.build().unwrap();
    let pipeline = host.pipeline(["a", "b"]).unwrap();
    thread::scope(|scope| {
        for caller in 0..4 {
            let pipeline = pipeline.clone();
            scope.spawn(move || {
                for call in 0..100 {
                    let text = format!("{caller} {call}");
                    let reply = block_on(pipeline.run(Request::text(&text))).unwrap();
                    assert_eq!(reply.as_text().unwrap(), format!("{text} a b"));
                }
            });
        }
    });
}
