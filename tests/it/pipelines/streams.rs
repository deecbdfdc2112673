//! Streams of requests through pipelines: one outcome per request, in bounded memory, despite
//! failures, hanging calls and reloads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use hotbay::{
    Completed, ErrorKind, Host, Output, PipelineStep, PluginError, Request, RunMany, RunOptions,
};
use hotbay_tests::{Plugins, block_on, loaded, until};
use serde_json::json;

use crate::scripted_plugin::{LATE, ScriptedPlugin};

fn numbers(count: u64) -> impl futures_util::Stream<Item = Request<'static>> + Send + 'static {
    stream::iter((0..count).map(|number| Request::owned(number.to_string().into_bytes())))
}

fn texts(texts: &[&str]) -> impl futures_util::Stream<Item = Request<'static>> + Send + 'static {
    let requests: Vec<_> =
        texts.iter().map(|text| Request::owned(text.as_bytes().to_vec())).collect();
    stream::iter(requests)
}

/// Collects all outcomes as texts or error kinds; fails if the stream stalls.
fn all(mut many: RunMany) -> Vec<(u64, Result<String, ErrorKind>)> {
    let mut all = Vec::new();
    block_on(async {
        while let Some(done) = next(&mut many).await {
            let outcome = done.outcome.map(|reply| reply.as_text().unwrap().to_owned());
            all.push((done.index, outcome.map_err(|error| error.kind())));
        }
    });
    all
}

async fn next(many: &mut RunMany) -> Option<Completed> {
    let next = tokio::time::timeout(Duration::from_secs(10), many.next()).await;
    next.expect("an outcome, or the end")
}

/// Returns a host whose plugin `odd` fails for every seventh number and panics for every eleventh.
fn failing_host() -> Host {
    Host::builder()
        .quarantine(None)
        .register_fn("odd", |_, input| {
            let number: i32 = input.as_text()?.parse().expect("a number");
            assert!(number % 11 != 3, "{number}");
            match number % 7 {
                2 => Err(PluginError::new(number, "every seventh")),
                _ => Ok(Output::copy_of(input.as_bytes())),
            }
        })
        .register_fn("after", |_, input| Ok(Output::text(format!("{}!", input.as_text()?))))
        .build()
        .unwrap()
}

#[test]
fn ordered_outcomes_keep_order_and_error_indexes() {
    let host = failing_host();
    let pipeline = host.pipeline(["odd", "after"]).unwrap();
    for many in [
        RunOptions::ordered(),
        RunOptions::ordered().with_max_chunk(7).with_max_chunks(3),
        RunOptions::ordered().with_max_chunk(1),
    ] {
        let mut outcomes = pipeline.run_many(numbers(500), many);
        let mut expected = 0_u64;
        block_on(async {
            while let Some(done) = next(&mut outcomes).await {
                assert_eq!(done.index, expected);
                match done.outcome {
                    Ok(reply) => assert_eq!(reply.as_text().unwrap(), format!("{expected}!")),
                    Err(error) if expected % 11 == 3 => {
                        assert_eq!(error.kind(), ErrorKind::Panicked);
                        assert_eq!(error.fault().unwrap().message(), expected.to_string());
                        assert_eq!(error.skipped().len(), 1);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Plugin);
                        let code = error.plugin_error().unwrap().code();
                        assert_eq!((code as u64, expected % 7), (expected, 2));
                        assert_eq!(error.skipped()[0].as_str(), "after");
                    }
                }
                expected += 1;
            }
        });
        assert_eq!(expected, 500);
    }
}

#[test]
fn unordered_outcomes_yield_each_index_once() {
    let host = failing_host();
    let pipeline = host.pipeline(["odd", "after"]).unwrap();
    let outcomes = all(pipeline.run_many(numbers(500), RunOptions::unordered().with_max_chunk(9)));
    let indices: BTreeSet<_> = outcomes.iter().map(|(index, _)| *index).collect();
    assert_eq!((outcomes.len(), indices.len()), (500, 500));
    for (index, outcome) in outcomes {
        if let Ok(text) = outcome {
            assert_eq!(text, format!("{index}!"));
        }
    }
}

#[test]
fn stalled_consumer_bounds_reads_of_endless_stream() {
    let host = failing_host();
    let pipeline = host.pipeline(["after"]).unwrap();
    for many in [RunOptions::ordered(), RunOptions::unordered()] {
        let consumed = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&consumed);
        let endless = stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Request::text("x")
        });
        let mut outcomes = pipeline.run_many(endless, many.with_max_chunk(8).with_max_chunks(3));
        assert_eq!(consumed.load(Ordering::Relaxed), 0, "nothing runs before the first poll");
        block_on(async {
            for _ in 0..20 {
                next(&mut outcomes).await.unwrap();
            }
        });
        until("nothing runs", || (host.list()[0].stats.running == 0).then_some(()));
        let max = 20 + 8 * 4;
        assert!(consumed.load(Ordering::Relaxed) <= max, "{consumed:?} of at most {max}");
        drop(outcomes);
        until("nothing is left", || (host.list()[0].stats.waiting == 0).then_some(()));
    }
}

#[test]
fn hanging_item_fails_alone_within_its_chunk() {
    let scripted = ScriptedPlugin::new();
    let host = scripted.register(Host::builder(), "scripted").build().unwrap();
    let step = PipelineStep::new("scripted").with_timeout(LATE);
    let pipeline = host.pipeline([step]).unwrap();
    let inputs = ["0", "1", "2", "wait", "4", "5", "6", "7", "8", "9"];
    let outcomes = all(pipeline.run_many(texts(&inputs), RunOptions::ordered()));
    scripted.release_all();
    for (at, (index, outcome)) in outcomes.iter().enumerate() {
        let expected = match at {
            3 => Err(ErrorKind::DeadlineExceeded),
            _ => Ok(inputs[at].to_owned()),
        };
        assert_eq!((*index, outcome), (at as u64, &expected));
    }
    assert_eq!(outcomes.len(), 10);
    assert_eq!(host.list()[0].stats.abandoned, 1);
}

#[test]
fn swap_during_stream_loses_and_repeats_nothing() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let install =
        |number: u32| plugins.add("swapped", "faulty").config(json!({ "number": number })).write();
    loaded(&host, install(0));
    let pipeline = host.pipeline(["swapped", "swapped"]).unwrap();
    for many in [RunOptions::ordered(), RunOptions::unordered()] {
        let mut outcomes =
            pipeline.run_many(numbers(6000), many.with_max_chunk(50).with_max_chunks(4));
        let mut seen = BTreeSet::new();
        let mut generations = BTreeSet::new();
        block_on(async {
            while let Some(done) = next(&mut outcomes).await {
                let reply = done.outcome.unwrap_or_else(|error| panic!("{error:?}"));
                assert_eq!(reply.as_text().unwrap(), done.index.to_string());
                generations.insert(reply.generation().get());
                assert!(seen.insert(done.index), "{} arrived twice", done.index);
                if seen.len() % 1500 == 700 {
                    install(u32::try_from(seen.len()).unwrap());
                    let host = host.clone();
                    // One swap is awaited and one is not, so that one may find the next build.
                    let swap = std::thread::spawn(move || drop(block_on(host.reload("swapped"))));
                    if seen.len() % 3000 == 700 {
                        swap.join().unwrap();
                    }
                }
            }
        });
        assert_eq!(seen.len(), 6000);
        assert!(generations.len() > 1, "{generations:?}");
        install(1_000_000);
        drop(block_on(host.reload("swapped")));
        install(0);
        drop(block_on(host.reload("swapped")));
    }
}

#[test]
fn empty_stream_ends_and_stream_after_shutdown_fails() {
    let host = failing_host();
    let pipeline = host.pipeline(["after"]).unwrap();
    assert_eq!(all(pipeline.run_many(numbers(0), RunOptions::ordered())), []);
    let mut one = pipeline.run_many(numbers(1), RunOptions::ordered());
    block_on(async {
        assert!(next(&mut one).await.is_some());
        assert!(next(&mut one).await.is_none() && next(&mut one).await.is_none());
    });
    block_on(host.shutdown(Duration::ZERO));
    let outcomes = all(pipeline.run_many(numbers(5), RunOptions::ordered().with_max_chunk(2)));
    let expected: Vec<_> = (0..5).map(|index| (index, Err(ErrorKind::Shutdown))).collect();
    assert_eq!(outcomes, expected);
}
