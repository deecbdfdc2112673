//! Pipelines of libraries, processes and compiled-in plugins: the result does not depend on the
//! kind of a step.

use std::fs;
use std::path::Path;

use futures_util::stream;
use hotbay::{
    Error, ErrorKind, Host, HostBuilder, Output, PluginError, PluginName, Request, RunOptions,
};
use hotbay_tests::{Plugins, ProgramFolder, block_on, loaded};
use serde_json::{Value, json};

use crate::both_kinds::{Kind, action_request};

/// Registers the fixture as a library and as a process, and functions that turn a text into an
/// action for it.
fn mixed(plugins: &Plugins) -> Host {
    let turned = |builder: HostBuilder, name: &str, action: fn(&str) -> Value| {
        builder.register_fn(name, move |_, input| Output::json(&action(input.as_text()?)))
    };
    let builder = Host::builder()
        .quarantine(None)
        .register_fn("upper", |_, input| Ok(Output::text(input.as_text()?.to_uppercase())));
    let builder = turned(builder, "to-fail", |text| {
        json!({
            "do": "fail", "code": -7, "message": text, "retryable": true, "details": { "a": [1] },
        })
    });
    let builder = turned(builder, "to-panic", |text| json!({ "do": "panic", "message": text }));
    let host = builder.build().unwrap();
    loaded(&host, Kind::Library.served(plugins, "library").install());
    loaded(&host, Kind::Process.served(plugins, "process").install());
    host
}

fn run(host: &Host, steps: &[&str]) -> Result<String, Error> {
    let pipeline = host.pipeline(steps.iter().copied()).unwrap();
    let reply = block_on(pipeline.run(Request::text("a text")))?;
    Ok(format!("{} {}", reply.content_type(), reply.as_text().unwrap()))
}

#[test]
fn pipeline_result_is_independent_of_kind() {
    let plugins = Plugins::new();
    let host = mixed(&plugins);
    for steps in [
        ["library", "upper", "process"],
        ["process", "library", "upper"],
        ["upper", "process", "library"],
        ["process", "upper", "process"],
    ] {
        let reported = run(&host, &steps).unwrap();
        assert_eq!(reported, "text/plain; charset=utf-8 A TEXT", "{steps:?}");
    }
}

#[test]
fn pipeline_errors_are_unchanged_for_either_kind() {
    let plugins = Plugins::new();
    let host = mixed(&plugins);
    for step in ["library", "process"] {
        let error = run(&host, &["library", "to-fail", step, "process", "upper"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plugin, "{step}");
        assert_eq!(error.plugin().map(PluginName::as_str), Some(step));
        let own = error.plugin_error().expect("the plugin's own error");
        assert_eq!((own.code(), own.message(), own.is_retryable()), (-7, "a text", true));
        assert_eq!(own.details(), Some(&json!({ "a": [1] })));
        let skipped: Vec<_> = error.skipped().iter().map(PluginName::as_str).collect();
        assert_eq!(skipped, ["process", "upper"]);

        let error = run(&host, &["process", "to-panic", step, "library"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked, "{step}");
        let fault = error.fault().expect("a fault");
        assert_eq!(fault.message(), "a text");
        assert!(fault.location().is_some_and(|at| at.contains("served")), "{fault:?}");
        assert_eq!(error.skipped().len(), 1);
    }
}

/// Returns the outcomes of many requests in order, as texts.
fn many(
    host: &Host,
    steps: &[&str],
    requests: Vec<Request<'static>>,
) -> Vec<Result<String, String>> {
    let pipeline = host.pipeline(steps.iter().copied()).unwrap();
    let mut many =
        pipeline.run_many(stream::iter(requests), RunOptions::ordered().with_max_chunk(50));
    let mut all = Vec::new();
    block_on(async {
        while let Some(done) = many.next().await {
            let outcome = done.outcome.map(|reply| reply.as_text().unwrap().to_owned());
            let reported = |error: Error| {
                let own = error.plugin_error().map(PluginError::code);
                format!("{:?} {own:?} {:?}", error.kind(), error.fault().map(|it| it.message()))
            };
            all.push((done.index, outcome.map_err(reported)));
        }
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, outcome)| outcome).collect()
}

fn mixed_requests(count: u32) -> Vec<Request<'static>> {
    let one = |number: u32| match number % 7 {
        3 => action_request(json!({ "do": "fail", "code": number, "message": "no" })),
        5 => action_request(json!({ "do": "panic", "message": format!("at {number}") })),
        _ => Request::owned(format!("number {number}").into_bytes()),
    };
    (0..count).map(one).collect()
}

#[test]
fn streams_give_same_results_for_either_kind() {
    let plugins = Plugins::new();
    let host = mixed(&plugins);
    let expected = many(&host, &["library"], mixed_requests(300));
    assert_eq!(expected.len(), 300);
    assert_eq!(expected[3], Err("Plugin Some(3) None".to_owned()));
    assert_eq!(expected[5], Err("Panicked None Some(\"at 5\")".to_owned()));
    assert_eq!(many(&host, &["process"], mixed_requests(300)), expected);
    assert_eq!(many(&host, &["process", "library"], mixed_requests(300)), expected);
    assert_eq!(many(&host, &["library", "process"], mixed_requests(300)), expected);
}

/// The fixture numbers requests without an ID: requests of one batch share a number.
#[test]
fn batch_program_receives_many_requests_per_round_trip() {
    let plugins = Plugins::new();
    let host = mixed(&plugins);
    let contexts = (0..200).map(|_| action_request(json!({ "do": "context" }))).collect();
    let reported = many(&host, &["process"], contexts);
    let of = |reported: &Result<String, String>| {
        let context: Value = serde_json::from_str(reported.as_ref().unwrap()).unwrap();
        context["callId"].as_u64().unwrap()
    };
    let trips: std::collections::BTreeSet<_> = reported.iter().map(of).collect();
    assert_eq!(reported.len(), 200);
    assert!(trips.len() < 100, "{} round trips", trips.len());
}

#[test]
fn program_without_batches_receives_single_requests() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let capabilities = json!({ "hotbay": { "endpoints": ["execute"] } });
    // An unexpected batch gets this response.
    let batch = json!({ "status": 500, "body": { "message": "no batches here" } });
    let behavior = json!({ "capabilities": capabilities, "serve": { "batch": batch } });
    let program = ProgramFolder::new(plugins.dir(), "single").set("package", "program");
    loaded(&host, program.behavior(behavior).install());
    let requests = (0..50).map(|number: u32| Request::owned(number.to_string().into_bytes()));
    let reported = many(&host, &["single"], requests.collect());
    let expected: Vec<_> = (0..50).map(|number: u32| Ok(number.to_string())).collect();
    assert_eq!(reported, expected);
}

#[test]
fn failed_batch_fails_each_call_with_its_cause() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let capabilities = json!({ "hotbay": { "endpoints": ["execute", "batch"] } });
    let batch = json!({ "status": 500, "body": { "code": 7, "message": "no batches today" } });
    let behavior = json!({ "capabilities": capabilities, "serve": { "batch": batch } });
    let program = ProgramFolder::new(plugins.dir(), "failing").set("package", "program");
    loaded(&host, program.behavior(behavior).install());
    let requests = (0..5).map(|number: u32| Request::owned(number.to_string().into_bytes()));
    let expected = vec![Err("Plugin Some(7) None".to_owned()); 5];
    assert_eq!(many(&host, &["failing"], requests.collect()), expected);
}

#[test]
fn pipeline_mixes_library_process_and_function() {
    let plugins = Plugins::new();
    let upper = plugins.add("upper", "transform").config(json!({ "mode": "upper" })).write();
    let folder = plugins.dir().join("wordcount");
    fs::create_dir(&folder).unwrap();
    let wordcount = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/wordcount");
    for file in ["plugin.json", "wordcount.py", "hotbay.py"] {
        fs::copy(wordcount.join(file), folder.join(file)).unwrap();
    }
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .allow_unverified(true)
        .allow_writable_by_others(true)
        .register_fn("most", |_, input| {
            let counted: Value = input.json()?;
            Ok(Output::text(counted["frequent"][0]["word"].as_str().unwrap_or("none")))
        })
        .build()
        .unwrap();
    loaded(&host, upper);
    loaded(&host, folder);
    let pipeline = host.pipeline(["upper", "wordcount", "most"]).unwrap();
    let reply =
        block_on(pipeline.run(Request::text("to be or not to be, that is to say"))).unwrap();
    assert_eq!(reply.as_text().unwrap(), "to");
}
