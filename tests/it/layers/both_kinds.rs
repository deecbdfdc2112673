//! Features around a call: layers, validators, permissions, quarantine, counters, providers and
//! tower. Each is tested elsewhere; these tests check that both kinds behave the same.

use std::time::Duration;
use std::{fs, thread};

use futures_util::{StreamExt as _, stream};
use hotbay::{
    Call, CancellationToken, Error, ErrorKind, Host, Layer, Next, PluginHandle, PluginName,
    Reloaded, Reply, Request, RunOptions,
};
use hotbay_tests::{Plugins, block_on, loaded, quarantine, until};
use serde_json::json;
use tower::ServiceExt as _;

use crate::both_kinds::{KINDS, Kind, action_request, count, waits};

/// Formats the outcome of a call.
fn outcome(outcome: Result<Reply, Error>) -> String {
    match outcome {
        Ok(reply) => reply.as_text().unwrap().to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Makes the same request by every call method.
fn all_call_methods(host: &Host, handle: &PluginHandle, request: Request<'static>) -> Vec<String> {
    let pinned = handle.pin().unwrap();
    let pipeline = host.pipeline([handle.name().as_str()]).unwrap();
    let outcomes = [
        handle.call(request.clone()),
        pinned.call(request.clone()),
        block_on(handle.execute(request.clone())),
        block_on(pipeline.run(request.clone())),
        block_on(handle.clone().oneshot(request)),
    ];
    outcomes.map(outcome).to_vec()
}

/// Runs a scenario with each kind; both must give the expected results.
#[track_caller]
fn same(scenario: impl Fn(Kind) -> Vec<String>, expected: &[&str]) {
    for kind in KINDS {
        assert_eq!(scenario(kind), expected, "{kind:?}");
    }
}

/// Refuses one operation, answers cache requests itself, and appends to other replies.
struct Own;

impl Layer for Own {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        if call.request().as_bytes() == b"secret" {
            return Err(Error::denied("operation not allowed"));
        }
        next.call(call)
    }
}

#[test]
fn layers_validators_and_permissions_apply_to_both_kinds() {
    let scenario = |kind: Kind| {
        let plugins = Plugins::new();
        let builder = Host::builder().layer(Own);
        let host = builder
            .validate("checked", |request| match request.as_bytes() {
                b"wrong" => Err("not this".to_owned()),
                _ => Ok(()),
            })
            .build()
            .unwrap();
        let draft = kind.served(&plugins, "checked").set("permissions", json!(["read"]));
        let handle = loaded(&host, draft.install());
        let mut events = Vec::new();
        for request in [
            Request::text("fine"),
            Request::text("secret"),
            Request::text("wrong"),
            Request::text("fine").with_operation("read"),
            Request::text("fine").with_operation("write"),
        ] {
            let by_method = all_call_methods(&host, &handle, request);
            assert!(by_method.iter().all(|way| *way == by_method[0]), "{by_method:?}");
            events.push(by_method[0].clone());
        }
        let info = &host.list()[0];
        events.push(format!("{} {} {}", info.stats.calls, info.stats.errors, info.stats.faults));
        events
    };
    same(
        scenario,
        &["fine", "PermissionDenied", "InvalidInput", "fine", "PermissionDenied", "25 0 0"],
    );
}

/// Formats all that a caller learns from a rejection.
fn rejection(outcome: Result<Reply, Error>) -> String {
    let Err(error) = outcome else { return "not rejected".to_owned() };
    let (kind, message) = (error.kind(), error.full_message());
    format!("{kind:?} {:?}: {message} (hint: {:?})", error.generation(), error.hint())
}

/// Makes the same call in every form: two calls on this thread, one on a worker of the plugin, and
/// two in a batch, unless a token cancels the pipeline itself. Those on workers are futures if the
/// plugin is a process.
fn all_forms(host: &Host, handle: &PluginHandle, request: &Request<'static>) -> Vec<String> {
    let pipeline = host.pipeline([handle.name().as_str()]).unwrap();
    let batched = if request.cancellation_token().is_some() { 0 } else { 2 };
    let batch = stream::iter(vec![request.clone(); batched]);
    let batch = pipeline.run_many(batch, RunOptions::ordered()).map(|completed| completed.outcome);
    let mut outcomes = vec![
        handle.call(request.clone()),
        handle.pin().unwrap().call(request.clone()),
        block_on(handle.execute(request.clone())),
    ];
    outcomes.extend(block_on(batch.collect::<Vec<_>>()));
    outcomes.into_iter().map(rejection).collect()
}

/// No layers are added, since calls to processes would run on threads.
#[test]
fn rejections_are_equal_in_every_form_of_a_call() {
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let cases = [
        (
            "an operation without permission",
            count().with_operation("write"),
            "PermissionDenied None: plugin `checked` was not called: it has no permission for \
             `write`, only `read`",
        ),
        (
            "an input that is too long",
            Request::owned(vec![b' '; 2001]),
            "InvalidInput None: plugin `checked` was not called: the input is 2001 bytes long",
        ),
        (
            "an input that does not match the schema",
            Request::owned(b"{}".to_vec()),
            "InvalidInput None: plugin `checked` was not called: the input does not match its \
             `input_schema`: ",
        ),
        (
            "an input that the application rejects",
            action_request(json!({ "do": "context", "by": "application" })),
            "InvalidInput None: plugin `checked` was not called: the application rejected the \
             input: not this",
        ),
        (
            "a validator that panics",
            action_request(json!({ "do": "context", "by": "panic" })),
            "LayerPanicked None: plugin `checked` did not complete the call: a validator of the \
             application failed: panicked",
        ),
        (
            "a deadline that has passed",
            count().with_timeout(Duration::ZERO),
            "DeadlineExceeded None: plugin `checked` was not called: the deadline had passed",
        ),
        (
            "a token that is cancelled",
            count().with_cancellation_token(cancelled),
            "Cancelled None: plugin `checked` was not called: the caller cancelled the call",
        ),
        (
            "a second call at once",
            count().with_operation("read"),
            "Overloaded None: plugin `checked` was not called: its limit of calls in flight is \
             reached (`limits.in_flight` is 1)",
        ),
    ];
    for kind in KINDS {
        let plugins = Plugins::new();
        let builder = Host::builder().validate("checked", |request| {
            let input = String::from_utf8_lossy(request.as_bytes());
            assert!(!input.contains("panic"), "on purpose");
            if input.contains("application") { Err("not this".to_owned()) } else { Ok(()) }
        });
        let host = builder.build().unwrap();
        let draft = kind.served(&plugins, "checked").set("permissions", json!(["read"]));
        let draft = draft.set("input_schema", json!({ "type": "object", "required": ["do"] }));
        let limits = json!({ "in_flight": 1, "input_bytes": 2000 });
        let handle = loaded(&host, draft.set("limits", limits).install());
        let (entered, release) = (plugins.dir().join("entered"), plugins.dir().join("release"));
        let rejected = thread::scope(|scope| {
            // The only call in flight. Nothing is asserted before it is released.
            let running = scope.spawn(|| handle.call(waits(&entered, &release)));
            until("the call runs", || entered.exists().then_some(()));
            let rejected = cases.each_ref().map(|(_, request, _)| {
                let forms = all_forms(&host, &handle, request);
                let stats = host.list()[0].stats.clone();
                (forms, [stats.calls, stats.refused, stats.errors, stats.faults])
            });
            fs::write(&release, "").unwrap();
            assert_eq!(running.join().unwrap().unwrap().as_bytes(), b"came");
            rejected
        });
        let mut calls = 0;
        for ((forms, counts), (case, _, expected)) in rejected.iter().zip(&cases) {
            assert!(forms[0].starts_with(expected), "{kind:?}, {case}: {forms:#?}");
            assert!(forms.iter().all(|form| *form == forms[0]), "{kind:?}, {case}: {forms:#?}");
            calls += forms.len() as u64;
            assert_eq!(*counts, [calls, calls, 0, 0], "{kind:?}, {case}");
        }
    }
}

/// With a layer, calls to processes run on threads.
#[test]
fn dropped_call_behind_layer_cancels_plugin_of_either_kind() {
    for kind in KINDS {
        let plugins = Plugins::new();
        let host = Host::builder().layer(Own).build().unwrap();
        let handle = loaded(&host, kind.served(&plugins, "dropped").install());
        let [entered, never, cancelled] =
            ["entered", "never", "cancelled"].map(|file| plugins.dir().join(file));
        let waits = json!({
            "do": "wait", "creates": entered, "until": never, "when_cancelled": cancelled,
        });
        let running = handle.execute(action_request(waits));
        until("the call runs", || entered.exists().then_some(()));
        drop(running);
        until(&format!("the {kind:?} is cancelled"), || cancelled.exists().then_some(()));
        until(&format!("the worker of the {kind:?} is free"), || {
            (host.list()[0].stats.running == 0).then_some(())
        });
        assert_eq!(host.list()[0].stats.faults, 0, "{kind:?}");
        assert_eq!(outcome(block_on(handle.execute(Request::text("next")))), "next");
    }
}

#[test]
fn invalid_or_large_input_reaches_neither_kind() {
    let scenario = |kind: Kind| {
        let plugins = Plugins::new();
        let host = Host::builder().build().unwrap();
        let schema = json!({ "type": "object", "required": ["do"] });
        let draft = kind.served(&plugins, "checked").set("input_schema", schema);
        let limits = json!({ "input_bytes": 100, "output_bytes": 1000 });
        let handle = loaded(&host, draft.set("limits", limits).install());
        let mut events: Vec<_> = [
            count(),
            Request::owned(b"{}".to_vec()),
            Request::owned(vec![b' '; 101]),
            action_request(json!({ "do": "bytes", "count": 1001 })),
        ]
        .into_iter()
        .map(|request| outcome(handle.call(request)))
        .collect();
        events.push(outcome(block_on(handle.execute(count()))));
        events
    };
    same(scenario, &["1", "InvalidInput", "InvalidInput", "InvalidOutput", "2"]);
}

#[test]
fn faults_quarantine_both_kinds_until_reload() {
    let scenario = |kind: Kind| {
        let plugins = Plugins::new();
        let policy = quarantine(|policy| {
            policy.max_faults = 3;
            policy.initial_backoff = Duration::from_secs(3600);
            policy.max_backoff = Duration::from_secs(3600);
        });
        let host = Host::builder().quarantine(policy).build().unwrap();
        let install = |build: u64| {
            kind.served(&plugins, "faulty").config(json!({ "build": build })).install()
        };
        let handle = loaded(&host, install(1));
        let panics = || action_request(json!({ "do": "panic", "message": "on request" }));
        let mut events: Vec<_> = (0..4).map(|_| outcome(handle.call(panics()))).collect();
        events.extend(all_call_methods(&host, &handle, Request::text("x")));
        events.push(host.list()[0].stats.faults.to_string());
        install(2);
        hotbay_tests::reloaded(&host, "faulty");
        events.push(outcome(handle.call(Request::text("x"))));
        events
    };
    let mut expected = vec!["Panicked"; 3];
    expected.extend(["Quarantined"; 6]);
    expected.extend(["3", "x"]);
    same(scenario, &expected);
}

#[test]
fn reload_of_quarantined_plugin_starts_new_generation() {
    let scenario = |kind: Kind| {
        let plugins = Plugins::new();
        let policy = quarantine(|policy| {
            policy.max_faults = 3;
            policy.initial_backoff = Duration::from_secs(3600);
            policy.max_backoff = Duration::from_secs(3600);
        });
        let host = Host::builder().quarantine(policy).build().unwrap();
        let handle = loaded(&host, kind.served(&plugins, "faulty").install());
        let panics = || action_request(json!({ "do": "panic", "message": "on request" }));
        let mut events = Vec::new();
        for generation in 1..4 {
            let reloaded = block_on(host.reload("faulty"));
            assert!(matches!(reloaded, Ok(Reloaded::Unchanged)), "{reloaded:?}");
            // Faults of the previous generation do not count.
            events.extend((0..4).map(|_| outcome(handle.call(panics()))));
            assert_eq!(host.list()[0].state, hotbay::PluginState::Quarantined);
            assert_eq!(hotbay_tests::reloaded(&host, "faulty").get(), generation + 1);
            assert_eq!(host.list()[0].state, hotbay::PluginState::Serving);
            events.push(outcome(handle.call(Request::text("x"))));
        }
        events
    };
    same(scenario, &["Panicked", "Panicked", "Panicked", "Quarantined", "x"].repeat(3));
}

#[test]
fn counters_cover_both_kinds() {
    let scenario = |kind: Kind| {
        let plugins = Plugins::new();
        let host = Host::builder().quarantine(None).build().unwrap();
        let handle = loaded(&host, kind.served(&plugins, "counted").install());
        let fails = || action_request(json!({ "do": "fail", "code": 1, "message": "no" }));
        for request in [count(), fails(), action_request(json!({ "do": "panic", "message": "oh" }))]
        {
            all_call_methods(&host, &handle, request);
        }
        let info = &host.list()[0];
        let kind = info.manifest.kind().as_str();
        let events = [info.stats.calls, info.stats.errors, info.stats.faults, info.stats.refused];
        assert_eq!(kind, if kind == "process" { "process" } else { "library" });
        events.map(|number| number.to_string()).to_vec()
    };
    same(scenario, &["15", "5", "5", "0"]);
}

#[test]
fn contract_call_reaches_provider_of_either_kind() {
    for (first, second) in [(Kind::Library, Kind::Process), (Kind::Process, Kind::Library)] {
        let plugins = Plugins::new();
        let builder = Host::builder().prefer_providers("table", ["first", "second"]);
        let host = builder.quarantine(None).build().unwrap();
        let provides = json!([{ "contract": "table", "version": "1.0.0" }]);
        for (kind, name) in [(first, "first"), (second, "second")] {
            let draft = kind.served(&plugins, name).set("provides", provides.clone());
            loaded(&host, draft.config(json!({ "answers": name })).install());
        }
        let table = host.providers("table").unwrap();
        let names: Vec<_> = table.names().iter().map(PluginName::to_string).collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!(outcome(table.call(Request::text("x"))), "first");
        // An error returned on purpose is the final reply.
        let fails = action_request(json!({ "do": "fail", "code": 1, "message": "no" }));
        assert_eq!(table.call(fails).unwrap_err().kind(), ErrorKind::Plugin);
        block_on(host.unload("first")).unwrap();
        assert_eq!(outcome(block_on(table.execute(Request::text("x")))), "second");
    }
}
