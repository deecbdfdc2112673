//! Calls by provided contract: which plugins are found, in which order they are tried, and when the
//! next one is.

use std::time::Duration;

use hotbay::hotbay_plugin::{Config, HostServices};
use hotbay::{
    CallContext, CancellationToken, Error, ErrorKind, Events, Host, HostBuilder, HostEvent,
    Manifest, OnFailure, Output, Payload, Plugin, PluginError, PluginName, Preference, Providers,
    Request,
};
use hotbay_tests::{Plugins, block_on, loaded, quarantine, reloaded, until};
use serde_json::{Value, json};

/// Returns its name, or fails as configured.
struct Provider {
    name: String,
    fails: Option<String>,
}

impl Plugin for Provider {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        let config: Value = config.parse()?;
        let own = |field: &str| config[field].as_str().map(str::to_owned);
        let (name, fails) = (own("name").unwrap_or_default(), own("fails"));
        Ok(Self { name, fails })
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        match self.fails.as_deref() {
            None => Ok(Output::text(format!("{} {}", input.as_text()?, self.name))),
            Some("panics") => panic!("{} panics", self.name),
            Some("later") => Err(PluginError::new(7, "later").retryable()),
            Some(other) => Err(PluginError::new(7, other)),
        }
    }
}

fn manifest(name: &str, version: &str) -> Manifest {
    Manifest::new(name, "0.1.0")
        .and_then(|manifest| manifest.with_contract("table", version))
        .and_then(|manifest| manifest.with_config(json!({ "name": name })))
        .unwrap()
}

/// Registers a provider of the contract `table` that returns its name.
fn provides(builder: HostBuilder, name: &str) -> HostBuilder {
    builder.register::<Provider>(manifest(name, "1.0.0"))
}

/// Registers a provider that fails.
fn fails(builder: HostBuilder, name: &str, how: &str) -> HostBuilder {
    let config = json!({ "name": name, "fails": how });
    builder.register::<Provider>(manifest(name, "1.0.0").with_config(config).unwrap())
}

fn texts(names: &[PluginName]) -> Vec<&str> {
    names.iter().map(PluginName::as_str).collect()
}

fn names(providers: &Providers) -> Vec<String> {
    texts(&providers.names()).into_iter().map(str::to_owned).collect()
}

fn plugin(error: &Error) -> Option<&str> {
    error.plugin().map(PluginName::as_str)
}

/// Makes the same call by both call methods, which must agree.
#[track_caller]
fn call(providers: &Providers, request: Request<'_>) -> Result<String, Error> {
    let here = providers.call(request.clone());
    let pooled = block_on(providers.execute(request));
    match (here, pooled) {
        (Ok(here), Ok(pooled)) => {
            assert_eq!(here.as_bytes(), pooled.as_bytes());
            Ok(here.as_text().unwrap().to_owned())
        }
        (Err(here), Err(pooled)) => {
            assert_eq!((here.kind(), plugin(&here)), (pooled.kind(), plugin(&pooled)));
            Err(here)
        }
        (here, pooled) => panic!("{here:?} on this thread, {pooled:?} in the pool"),
    }
}

fn calls(host: &Host) -> Vec<u64> {
    host.list().iter().map(|info| info.stats.calls).collect()
}

/// Returns the choices reported since the last call.
fn chosen(events: &mut Events) -> Vec<(String, String, usize)> {
    let mut reported = Vec::new();
    while let Some(event) = events.try_next() {
        if let HostEvent::ProviderChosen { contract, plugin, others } = event {
            reported.push((contract, plugin.to_string(), others.len()));
        }
    }
    reported
}

#[test]
fn providers_are_tried_by_preference_location_and_name() {
    let plugins = Plugins::new();
    let library = plugins
        .add("a-library", "faulty")
        .set("provides", json!([{ "contract": "table", "version": "1.0.0" }]))
        .write();
    let check = |configure: &dyn Fn(HostBuilder) -> HostBuilder, expected: [&str; 3]| {
        let builder = provides(provides(configure(Host::builder()), "z"), "b");
        let host = builder.register_fn("other", |_, _| Ok(Output::text(""))).build().unwrap();
        loaded(&host, &library);
        assert_eq!(names(&host.providers("table").unwrap()), expected);
    };
    check(&|builder| builder, ["b", "z", "a-library"]);
    check(&|builder| builder.prefer(Preference::External), ["a-library", "b", "z"]);
    check(
        &|builder| builder.prefer_providers("table", ["gone", "z", "a-library"]),
        ["z", "a-library", "b"],
    );
    check(&|builder| builder.prefer_providers("tables", ["z"]), ["b", "z", "a-library"]);
}

#[test]
fn preference_for_invalid_name_fails_host_build() {
    let error = Host::builder().prefer_providers("table", ["ok", "Not OK"]).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.full_message().contains("`Not OK`"), "{error:?}");
}

#[test]
fn missing_provider_error_names_nearest() {
    let host = provides(Host::builder(), "a").build().unwrap();
    let check = |contract: &str, part: &str| {
        let error = host.providers(contract).unwrap_err();
        assert_eq!((error.kind(), plugin(&error)), (ErrorKind::NotFound, None));
        assert!(format!("{error:?}").contains(part), "{error:?}");
    };
    check("tabel", "no plugin provides contract `tabel` (NotFound)\nhint: did you mean `table`?");
    check("a", "provided contracts: `table`");
    check("", "provided contracts: `table`");
    block_on(host.unload("a")).unwrap();
    check("table", "load a plugin that serves it");
}

#[test]
fn only_accepted_versions_are_called() {
    let host = ["1.0.0", "1.4.2", "2.0.0-beta.1"]
        .into_iter()
        .zip(["a", "b", "c"])
        .fold(Host::builder(), |builder, (version, name)| {
            builder.register::<Provider>(manifest(name, version))
        })
        .build()
        .unwrap();
    let check = |accepted: &str, expected: &[&str]| {
        let providers = host.providers("table").unwrap().accepting(accepted.parse().unwrap());
        assert_eq!(names(&providers), expected, "{accepted}");
        let answer = call(&providers, Request::text("x"));
        match expected.first() {
            Some(first) => assert_eq!(answer.unwrap(), format!("x {first}")),
            None => {
                let error = answer.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                let reported = error.full_message();
                assert!(
                    reported.contains(accepted) && reported.contains("1.4.2 from `b`"),
                    "{reported}"
                );
            }
        }
    };
    check("*", &["a", "b", "c"]);
    check("^1.1", &["b"]);
    check("^1", &["a", "b"]);
    check("^3", &[]);
    check("=2.0.0-beta.1", &["c"]);
}

#[test]
fn call_that_did_not_run_falls_through() {
    let policy = quarantine(|policy| policy.max_faults = 1);
    let host = fails(Host::builder().quarantine(policy), "a", "panics");
    let host = provides(provides(host, "b"), "c").build().unwrap();
    let providers = host.providers("table").unwrap();
    let fault = host.plugin("a").unwrap().call(Request::text("x")).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Panicked);
    assert_eq!(call(&providers, Request::text("x")).unwrap(), "x b", "a is quarantined");
    let strict = providers.clone().on_failure(OnFailure::Error);
    let error = call(&strict, Request::text("x")).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::Quarantined, Some("a")));
    assert_eq!(calls(&host), [5, 2, 0]);
}

#[test]
fn call_that_may_have_run_falls_through_if_idempotent() {
    for (how, kind) in [("panics", ErrorKind::Panicked), ("later", ErrorKind::Plugin)] {
        let host = fails(Host::builder().quarantine(None), "a", how);
        let host = provides(host, "b").build().unwrap();
        let providers = host.providers("table").unwrap();
        let error = call(&providers, Request::text("x")).unwrap_err();
        assert_eq!((error.kind(), plugin(&error)), (kind, Some("a")), "{how}");
        assert_eq!(calls(&host), [2, 0], "{how}");
        assert_eq!(
            call(&providers, Request::text("x").with_idempotent(true)).unwrap(),
            "x b",
            "{how}"
        );
        let late = Request::text("x").with_idempotent(true).with_timeout(Duration::ZERO);
        let error = call(&providers, late).unwrap_err();
        assert_eq!((error.kind(), plugin(&error)), (ErrorKind::DeadlineExceeded, Some("a")));
        assert_eq!(calls(&host)[1], 2, "no time is left: {how}");
    }
}

#[test]
fn plugin_error_is_final_reply() {
    let host = provides(fails(Host::builder(), "a", "no"), "b").build().unwrap();
    let providers = host.providers("table").unwrap();
    let error = call(&providers, Request::text("x").with_idempotent(true)).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::Plugin, Some("a")));
    assert_eq!(error.plugin_error().unwrap().message(), "no");
    assert_eq!(calls(&host), [2, 0]);
}

#[test]
fn cancelled_call_is_not_passed_on() {
    let host = provides(provides(Host::builder(), "a"), "b").build().unwrap();
    let token = CancellationToken::new();
    token.cancel();
    let request = Request::text("x").with_idempotent(true).with_cancellation_token(token);
    let error = call(&host.providers("table").unwrap(), request).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::Cancelled, Some("a")));
    assert_eq!(calls(&host), [2, 0]);
}

#[test]
fn first_error_is_returned_if_all_fail() {
    let host = fails(Host::builder().quarantine(None), "a", "later");
    let host = fails(fails(host, "b", "panics"), "c", "no").build().unwrap();
    let providers = host.providers("table").unwrap();
    let error = call(&providers, Request::text("x").with_idempotent(true)).unwrap_err();
    assert_eq!((error.kind(), plugin(&error)), (ErrorKind::Plugin, Some("a")));
    assert_eq!(error.plugin_error().unwrap().message(), "later");
    let reported = error.to_string();
    let b = reported.find("plugin `b` ").expect("b is named");
    let c = reported.find("plugin `c` ").expect("c is named");
    assert!(reported.starts_with("plugin `a` ") && b < c, "{reported}");
    assert_eq!(error.generation().unwrap(), host.list()[0].generation.unwrap());
}

#[test]
fn providers_are_resolved_per_call() {
    let plugins = Plugins::new();
    let install = |answers: &str, contract: &str| {
        let plugin = plugins.add("library", "faulty").config(json!({ "answers": answers }));
        plugin.set("provides", json!([{ "contract": contract, "version": "1.0.0" }])).write()
    };
    let host = Host::builder().prefer(Preference::External);
    let host = provides(host, "own").build().unwrap();
    let providers = host.providers("table").unwrap();
    assert_eq!(call(&providers, Request::text("x")).unwrap(), "x own");
    loaded(&host, install("one", "table"));
    assert_eq!(call(&providers, Request::text("x")).unwrap(), "one");
    install("two", "table");
    reloaded(&host, "library");
    assert_eq!(call(&providers, Request::text("x")).unwrap(), "two");
    install("three", "another");
    reloaded(&host, "library");
    assert_eq!(names(&providers), ["own"]);
    assert_eq!(call(&providers, Request::text("x")).unwrap(), "x own");
    block_on(host.unload("own")).unwrap();
    assert_eq!(call(&providers, Request::text("x")).unwrap_err().kind(), ErrorKind::NotFound);
    install("four", "table");
    reloaded(&host, "library");
    assert_eq!(call(&providers, Request::text("x")).unwrap(), "four");
    // The reload thread may still hold the host, so a drop alone might not end it now.
    block_on(host.shutdown(Duration::ZERO));
    drop(host);
    assert_eq!(call(&providers, Request::text("x")).unwrap_err().kind(), ErrorKind::Shutdown);
    assert!(providers.names().is_empty());
}

#[test]
fn chosen_provider_is_reported_once_per_change() {
    let host = provides(provides(Host::builder(), "a"), "b").build().unwrap();
    let mut events = host.events();
    let reported = |plugin: &str, others| vec![("table".to_owned(), plugin.to_owned(), others)];
    let providers = host.providers("table").unwrap();
    let _ = providers.names();
    assert_eq!(chosen(&mut events), [], "no call was made yet");
    for _ in 0..3 {
        call(&providers, Request::text("x")).unwrap();
        call(&host.providers("table").unwrap(), Request::text("x")).unwrap();
    }
    assert_eq!(chosen(&mut events), reported("a", 1));
    block_on(host.unload("a")).unwrap();
    call(&providers, Request::text("x")).unwrap();
    call(&providers.clone(), Request::text("x")).unwrap();
    assert_eq!(chosen(&mut events), reported("b", 0));
    block_on(host.unload("b")).unwrap();
    call(&providers, Request::text("x")).unwrap_err();
    assert_eq!(chosen(&mut events), [], "no provider is left");
    let other = provides(Host::builder(), "c").build().unwrap();
    let mut others = other.events();
    call(&other.providers("table").unwrap(), Request::text("x")).unwrap();
    assert_eq!((chosen(&mut events), chosen(&mut others)), (vec![], reported("c", 0)));
}

#[test]
fn provider_call_queues_at_once_and_cancels_on_drop() {
    let host = provides(provides(Host::builder(), "a"), "b").build().unwrap();
    let providers = host.providers("table").unwrap();
    let queued = providers.execute(Request::text("x"));
    until("the call has run", || (calls(&host) == [1, 0]).then_some(()));
    assert_eq!(block_on(queued).unwrap().as_bytes(), b"x a");
    drop(providers.execute(Request::text("y")));
    until("the call is counted", || (calls(&host) == [2, 0]).then_some(()));
}
