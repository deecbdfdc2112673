//! `limits.call_memory_bytes`: a call that takes more memory fails when it returns.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream;
use hotbay::contract::{CallError, CallErrorKind};
use hotbay::{
    Error, ErrorKind, Host, Output, PluginHandle, PluginState, Reply, Request, RunOptions,
};
use hotbay_tests::{Plugins, block_on, limits, loaded, reloaded};
use serde_json::{Value, json};
use text_contract::{Record, TextAnalysis};

const LIMIT_BYTES: u64 = 1 << 20;

/// A call holds a little more than its steps take: its input as JSON.
const LITTLE_BYTES: u64 = 10_000;

fn install(plugins: &Plugins, limits: Value) -> PathBuf {
    let plugin = plugins.add("greedy", "faulty").config(json!({ "scripted": true }));
    plugin.set("limits", limits).write()
}

fn greedy(plugins: &Plugins, call_memory_bytes: u64) -> (Host, PluginHandle) {
    let host = Host::builder().build().unwrap();
    let folder = install(plugins, json!({ "call_memory_bytes": call_memory_bytes }));
    let plugin = loaded(&host, folder);
    (host, plugin)
}

fn request(steps: &Value) -> Request<'static> {
    Request::json(&json!({ "memory": steps })).unwrap()
}

fn call(plugin: &PluginHandle, steps: Value) -> Result<Reply, Error> {
    plugin.call(request(&steps))
}

/// Returns the bytes found and permitted, as the error of a call states them.
#[track_caller]
fn exceeded(outcome: Result<Reply, Error>) -> (u64, u64) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOutput, "{error}");
    assert!(error.generation().is_some());
    assert!(error.hint().unwrap().contains("raise `limits.call_memory_bytes`"), "{error:?}");
    let message = error.to_string();
    let (found, max) = message
        .strip_prefix("plugin `greedy` took ")
        .and_then(|text| text.split_once(" bytes of memory for a call; its "))
        .unwrap_or_else(|| panic!("{message}"));
    let max = max.strip_prefix("`limits.call_memory_bytes` is ").expect("the limit");
    (found.parse().unwrap(), max.parse().unwrap())
}

#[test]
fn call_may_take_exactly_its_limit() {
    let plugins = Plugins::new();
    let steps = json!([["take", 50_000], ["take", 7], ["free"], ["take", 9]]);
    let (host, plugin) = greedy(&plugins, 1);
    let (peak, max) = exceeded(call(&plugin, steps.clone()));
    assert_eq!(max, 1);
    assert!((50_000..50_000 + LITTLE_BYTES).contains(&peak), "{peak}");
    for (limit, is_enough) in [(peak, true), (peak - 1, false), (peak + 1, true)] {
        install(&plugins, json!({ "call_memory_bytes": limit }));
        reloaded(&host, "greedy");
        match is_enough {
            true => drop(call(&plugin, steps.clone()).unwrap()),
            false => assert_eq!(exceeded(call(&plugin, steps.clone())), (peak, limit)),
        }
    }
    // Without a limit.
    install(&plugins, json!({}));
    reloaded(&host, "greedy");
    call(&plugin, json!([["take", LIMIT_BYTES * 8]])).unwrap();
}

#[test]
fn all_ways_of_calling_are_limited() {
    let plugins = Plugins::new();
    let (host, plugin) = greedy(&plugins, LIMIT_BYTES);
    let (few, many) = (json!([["take", 900_000]]), json!([["take", 1_100_000]]));
    let pipeline = host.pipeline(["greedy"]).unwrap();
    for round in 0..70 {
        // One call in 64 is timed, which is another path.
        let run_many = |steps: &Value| {
            let requests = stream::iter([request(steps), request(steps)]);
            let mut outcomes = pipeline.run_many(requests, RunOptions::ordered());
            block_on(async { [outcomes.next().await, outcomes.next().await] })
                .map(|outcome| outcome.unwrap().outcome)
        };
        let timeout = |steps: &Value| request(steps).with_timeout(Duration::from_secs(600));
        let ways = |steps: &Value| {
            let [first, second] = run_many(steps);
            [
                ("call", plugin.call(request(steps))),
                ("call with a timeout", plugin.call(timeout(steps))),
                ("pin", plugin.pin().unwrap().call(request(steps))),
                ("execute", block_on(plugin.execute(request(steps)))),
                ("run", block_on(pipeline.run(request(steps)))),
                ("run_many", first),
                ("run_many", second),
            ]
        };
        for (way, outcome) in ways(&few) {
            assert!(outcome.is_ok(), "{way} in round {round}: {outcome:?}");
        }
        for (way, outcome) in ways(&many) {
            let (found, max) = exceeded(outcome);
            assert!((1_100_000..1_100_000 + LITTLE_BYTES).contains(&found), "{way}: {found}");
            assert_eq!(max, LIMIT_BYTES, "{way}");
        }
    }
    let info = host.list().pop().unwrap();
    assert_eq!(info.state, PluginState::Serving, "such calls are not faults");
    assert_eq!((info.stats.calls, info.stats.errors, info.stats.faults), (980, 490, 0));
}

#[test]
fn chunks_of_calls_with_deadlines_are_limited_one_by_one() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let limits = json!({ "call_memory_bytes": LIMIT_BYTES, "deadline_ms": 600_000 });
    loaded(&host, install(&plugins, limits));
    let pipeline = host.pipeline(["greedy"]).unwrap();
    let steps = |at| json!([["take", if at % 3 == 0 { 1_100_000 } else { 900_000 }]]);
    let requests = stream::iter((0..30).map(move |at| request(&steps(at))));
    let mut outcomes = pipeline.run_many(requests, RunOptions::ordered().with_max_chunk(8));
    block_on(async {
        while let Some(done) = outcomes.next().await {
            match done.index % 3 {
                0 => drop(exceeded(done.outcome)),
                _ => drop(done.outcome.unwrap()),
            }
        }
    });
}

#[test]
fn peak_of_a_call_counts() {
    let plugins = Plugins::new();
    let (_host, plugin) = greedy(&plugins, LIMIT_BYTES);
    let fits = |steps| drop(call(&plugin, steps).unwrap());
    let exceeds = |steps, bytes: u64| {
        let (found, _) = exceeded(call(&plugin, steps));
        assert!((bytes..bytes + LITTLE_BYTES).contains(&found), "{found}");
    };
    // Memory that is freed before the end.
    exceeds(json!([["take", 2_000_000], ["free"]]), 2_000_000);
    fits(json!([["take", 900_000], ["free"], ["take", 900_000], ["free"], ["take", 900_000]]));
    // A block that grows counts with its new size only.
    fits(json!([["take", 600_000], ["grow", 1_000_000]]));
    exceeds(json!([["take", 600_000], ["grow", 1_100_000]]), 1_100_000);
    exceeds(json!([["take", 600_000], ["take", 500_000]]), 1_100_000);
    // What earlier calls kept does not count, and frees memory for a call that drops it.
    for _ in 0..3 {
        fits(json!([["keep", 900_000]]));
    }
    exceeds(json!([["keep", 1_100_000]]), 1_100_000);
    fits(json!([["release"], ["take", 3_000_000]]));
    exceeds(json!([["take", 3_000_000]]), 3_000_000);
    // The output counts.
    let output =
        |bytes: u64| plugin.call(Request::json(&json!({ "output_bytes": bytes })).unwrap());
    assert_eq!(output(900_000).unwrap().as_bytes().len(), 900_000);
    exceeded(output(1_100_000));
    // Other threads do not.
    fits(json!([["thread", 5_000_000], ["take", 900_000]]));
}

#[test]
fn failed_call_keeps_its_own_error() {
    let plugins = Plugins::new();
    let (_host, plugin) = greedy(&plugins, LIMIT_BYTES);
    let call = |how: &str| {
        let steps = json!([["take", 2_000_000]]);
        plugin.call(Request::json(&json!({ "memory": steps, how: "execute" })).unwrap())
    };
    assert_eq!(call("error_in").unwrap_err().kind(), ErrorKind::Plugin);
    assert_eq!(call("panic_in").unwrap_err().kind(), ErrorKind::Panicked);
    exceeded(call("none"));
}

/// Calls a method whose result has the length of its argument.
fn shout(analysis: &impl TextAnalysis, bytes: usize) -> Result<Option<String>, CallError> {
    analysis.shout(Some(&"a".repeat(bytes)))
}

#[track_caller]
fn check_methods(analysis: &impl TextAnalysis) {
    let exceeded = |error: CallError| {
        assert_eq!(error.kind(), CallErrorKind::InvalidOutput);
        assert!(error.to_string().contains("its `limits.call_memory_bytes` is 100000"), "{error}");
    };
    assert_eq!(shout(analysis, 20_000).unwrap().unwrap().len(), 20_000);
    exceeded(shout(analysis, 200_000).unwrap_err());
    let record = |bytes| Record { text: "a".repeat(bytes), ..Record::default() };
    assert_eq!(analysis.enrich(record(20_000)).unwrap().text.len(), 20_000);
    exceeded(analysis.enrich(record(200_000)).unwrap_err());
    assert_eq!(analysis.score(1.0, 2.0).unwrap(), 3.0);
}

#[test]
fn methods_of_contracts_are_limited() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    for (name, package) in [("same", "analyst"), ("older", "analyst-old")] {
        let plugin =
            plugins.add(name, package).set("limits", json!({ "call_memory_bytes": 100_000 }));
        loaded(&host, plugin.write());
    }
    let same = host.contract::<dyn TextAnalysis>("same").unwrap();
    for _ in 0..3 {
        check_methods(&same);
        // It borrows its argument, and allocates nothing.
        assert_eq!(same.words(&"a ".repeat(200_000)).unwrap(), 200_000);
        check_methods(&same.pin().unwrap());
        check_methods(&same.pooled());
        check_methods(&same.with_timeout(Duration::from_secs(600)));
    }
    // Its arguments and results cross as JSON.
    let older = host.contract::<dyn TextAnalysis>("older").unwrap();
    let enrich = |bytes| older.enrich(Record { text: "a".repeat(bytes), ..Record::default() });
    assert_eq!(enrich(10_000).unwrap().text.len(), 10_000);
    assert_eq!(enrich(200_000).unwrap_err().kind(), CallErrorKind::InvalidOutput);
    let info = host.list();
    assert!(info.iter().all(|info| info.state == PluginState::Serving), "{info:?}");
}

#[test]
fn host_call_memory_limit_applies_if_missing_or_lower() {
    let plugins = Plugins::new();
    for (name, limits) in [
        ("default", json!({})),
        ("greedy", json!({ "call_memory_bytes": LIMIT_BYTES * 10 })),
        ("modest", json!({ "call_memory_bytes": LIMIT_BYTES / 2 })),
    ] {
        let plugin = plugins.add(name, "faulty").config(json!({ "scripted": true }));
        plugin.set("limits", limits).write();
    }
    let few = limits(|limits| limits.max_call_memory_bytes = Some(LIMIT_BYTES));
    let host = Host::builder().plugin_dir(plugins.dir()).limits(few).build().unwrap();
    let report = block_on(host.load_all());
    let notes: Vec<_> = report.loaded.iter().map(|one| one.notes.join("; ")).collect();
    let clamped = "`limits.call_memory_bytes` is 10485760; this host allows at most 1048576";
    assert_eq!(notes, ["", clamped, ""]);
    for (name, max) in
        [("default", LIMIT_BYTES), ("greedy", LIMIT_BYTES), ("modest", LIMIT_BYTES / 2)]
    {
        let plugin = host.plugin(name).unwrap();
        call(&plugin, json!([["take", max - LITTLE_BYTES]])).unwrap();
        let error = call(&plugin, json!([["take", max]])).unwrap_err().to_string();
        assert!(error.ends_with(&format!("`limits.call_memory_bytes` is {max}")), "{error}");
    }
}

#[test]
fn config_file_sets_the_call_memory_limit() {
    let plugins = Plugins::new();
    for name in ["all", "greedy"] {
        plugins.add(name, "faulty").config(json!({ "scripted": true })).write();
    }
    let file = plugins.dir().join("hotbay.toml");
    let text = "plugin_dirs = [\".\"]\n[limits]\nmax_call_memory_bytes = 1000000\n\
                [plugins.greedy.limits]\ncall_memory_bytes = 500000\n";
    fs::write(&file, text).unwrap();
    let host = Host::builder().config_file(&file).build().unwrap();
    block_on(host.load_all());
    for (name, max) in [("all", 1_000_000), ("greedy", 500_000)] {
        let plugin = host.plugin(name).unwrap();
        call(&plugin, json!([["take", max - LITTLE_BYTES]])).unwrap();
        let error = call(&plugin, json!([["take", max]])).unwrap_err().to_string();
        assert!(error.ends_with(&format!("`limits.call_memory_bytes` is {max}")), "{error}");
    }
}

#[test]
fn limit_that_cannot_be_checked_is_noted() {
    let plugins = Plugins::new();
    let limited = |plugin: hotbay_tests::Plugin| {
        plugin.set("limits", json!({ "call_memory_bytes": 1000 })).write()
    };
    let few = limits(|limits| limits.max_call_memory_bytes = Some(1000));
    let host = Host::builder()
        .limits(few)
        .register_fn("own", |_, _| Ok(Output::bytes(vec![0; 100_000])))
        .build()
        .unwrap();
    loaded(&host, limited(plugins.add("async", "async-echo")));
    loaded(&host, limited(plugins.add("uncounted", "versioned-2")));
    let notes = |name: &str| {
        let info = host.list().into_iter().find(|info| info.name.as_str() == name).unwrap();
        info.notes.join("; ")
    };
    let uncounted = "`limits.call_memory_bytes` is not checked: the plugin does not count the \
                     memory of calls";
    assert_eq!(notes("uncounted"), uncounted);
    assert_eq!(notes("own"), uncounted);
    assert_eq!(
        host.plugin("own").unwrap().call(Request::text("")).unwrap().as_bytes().len(),
        100_000
    );
    assert!(notes("async").contains("is only checked for methods that are not async"));
    let long = "a".repeat(100_000);
    let reply = host.plugin("async").unwrap().call(Request::text(&long)).unwrap();
    assert_eq!(reply.as_text().unwrap(), long);
}

#[cfg(unix)]
#[test]
fn program_is_noted_only_if_its_manifest_has_the_limit() {
    use hotbay_tests::ProgramFolder;

    let plugins = Plugins::new();
    let few = limits(|limits| limits.max_call_memory_bytes = Some(1000));
    let host = Host::builder().limits(few).build().unwrap();
    for (name, limits) in [("plain", json!({})), ("asks", json!({ "call_memory_bytes": 1000 }))] {
        let program = ProgramFolder::new(plugins.dir(), name).set("package", "program");
        loaded(&host, program.set("limits", limits).install());
    }
    let notes: Vec<_> = host.list().into_iter().map(|info| info.notes.join("; ")).collect();
    assert_eq!(notes[1], "");
    let note = "`limits.call_memory_bytes` is not checked: the plugin runs in its own process, whose \
                memory `limits.memory_bytes` limits";
    assert_eq!(notes[0], note);
}
