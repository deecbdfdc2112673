//! Typed calls of any plugin that serves a contract: in which order they are called, and when the
//! next one is.

use std::time::Duration;

use hotbay::contract::{CallError, CallErrorKind, Provided, Serves};
use hotbay::{
    CancellationToken, Error, ErrorKind, Host, HostBuilder, HostEvent, OnFailure, Preference,
};
use hotbay_tests::{
    CancelOnDrop, Plugins, block_on, event, host, loaded, quarantine, refused, reloaded, until,
};
use serde_json::json;
use text_contract::{AsyncWork, Failure, TextAnalysis, Unknown, Word, changed};
use text_plugins::{Analyst, AsyncWorker};

use super::calls::check_newest;
use super::processes::{LINES, Lines, rust, scripted};

fn analyst() -> Serves<Analyst> {
    Serves::new().with::<dyn TextAnalysis>()
}

fn worker() -> Serves<AsyncWorker> {
    Serves::new().with::<dyn AsyncWork>()
}

/// Returns the number of calls of each plugin, in the order of their names.
fn calls(host: &Host) -> Vec<u64> {
    host.list().iter().map(|info| info.stats.calls).collect()
}

fn names<C: hotbay::contract::Contract + ?Sized>(providers: &Provided<C>) -> Vec<String> {
    providers.transport().names().iter().map(ToString::to_string).collect()
}

#[test]
fn library_process_and_value_serve_in_the_preferred_order() {
    let check = |configure: &dyn Fn(HostBuilder) -> HostBuilder, expected: [&str; 3]| {
        let plugins = Plugins::new();
        let builder = Host::builder().plugin_dir(plugins.dir()).serve("own", Analyst, analyst());
        let host = configure(builder).build().unwrap();
        loaded(&host, rust(&plugins).install());
        loaded(&host, plugins.add("library", "analyst").write());
        let analysis = host.providers_of::<dyn TextAnalysis>().unwrap();
        assert_eq!(names(&analysis), expected);
        check_newest(&analysis);
        check_newest(&analysis.idempotent().with_timeout(Duration::from_secs(600)));
        let called: Vec<_> = host
            .list()
            .iter()
            .filter(|info| info.stats.calls > 0)
            .map(|info| info.name.to_string())
            .collect();
        assert_eq!(called, [expected[0]]);
        let error = analysis.idempotent().fail(Failure::Panic).unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Panicked);
        let message = error.to_string();
        for name in &expected[1..] {
            assert!(message.contains(&format!("plugin `{name}` ")), "{message}");
        }
    };
    check(&|builder| builder, ["own", "library", "analyst"]);
    check(&|builder| builder.prefer(Preference::External), ["library", "analyst", "own"]);
    check(
        &|builder| builder.prefer_providers("text-analysis", ["analyst", "gone", "own"]),
        ["analyst", "own", "library"],
    );
}

#[test]
fn quarantined_provider_is_passed_over() {
    let policy = quarantine(|policy| policy.max_faults = 1);
    let host = Host::builder()
        .quarantine(policy)
        .serve("a", Analyst, analyst())
        .serve("b", Analyst, analyst())
        .build()
        .unwrap();
    let analysis = host.providers_of::<dyn TextAnalysis>().unwrap();
    assert_eq!(analysis.fail(Failure::Panic).unwrap_err().kind(), CallErrorKind::Panicked);
    assert_eq!(analysis.words("a b").unwrap(), 2);
    let strict = analysis.on_failure(OnFailure::Error);
    let error = Error::from(strict.words("a b").unwrap_err());
    assert_eq!((error.kind(), error.plugin().unwrap().as_str()), (ErrorKind::Quarantined, "a"));
}

#[test]
fn overloaded_provider_is_passed_over() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .prefer(Preference::External)
        .serve("own", Analyst, analyst())
        .build()
        .unwrap();
    let limits = json!({ "in_flight": 1 });
    loaded(&host, plugins.add("library", "analyst").set("limits", limits).write());
    let analysis = host.providers_of::<dyn TextAnalysis>().unwrap();
    let library = host.contract::<dyn TextAnalysis>("library").unwrap();
    let token = CancellationToken::new();
    let waiting = library.with_cancellation_token(token.clone()).pooled();
    std::thread::scope(|scope| {
        let _cancel = CancelOnDrop(&token);
        let waits = scope.spawn(|| waiting.wait());
        let running = || host.list().iter().map(|info| info.stats.running).sum::<u64>();
        until("the library is busy", || (running() > 0).then_some(()));
        assert_eq!(analysis.words("a b").unwrap(), 2);
        assert_eq!(calls(&host)[1], 1);
        token.cancel();
        let error = waits.join().expect("no panic").unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Cancelled);
    });
}

struct OwnLines;

impl Lines for OwnLines {
    fn count(&self, text: &str) -> Result<u64, CallError> {
        Ok(text.lines().count() as u64)
    }
}

#[test]
fn call_of_a_process_that_exits_is_repeated_only_if_idempotent() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .prefer(Preference::External)
        .quarantine(None)
        .serve("own", OwnLines, Serves::new().with::<dyn Lines>())
        .build()
        .unwrap();
    let serve = json!({ "contract/lines/count": { "how": "exit", "code": 1 } });
    loaded(&host, scripted(&plugins, json!([{ "text": LINES }]), serve).install());
    let lines = host.providers_of::<dyn Lines>().unwrap();
    let mut events = host.events();
    let error = Error::from(lines.count("a\nb").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{}", error.full_message());
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    assert_eq!(lines.idempotent().count("a\nb").unwrap(), 2);
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
}

#[test]
fn process_that_exits_too_often_is_passed_over() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .prefer(Preference::External)
        .quarantine(quarantine(|policy| policy.max_faults = 1))
        .serve("own", OwnLines, Serves::new().with::<dyn Lines>())
        .build()
        .unwrap();
    let serve = json!({ "contract/lines/count": { "how": "exit", "code": 1 } });
    loaded(&host, scripted(&plugins, json!([{ "text": LINES }]), serve).install());
    let lines = host.providers_of::<dyn Lines>().unwrap();
    until("the process is quarantined", || lines.count("a\nb").ok().filter(|count| *count == 2));
    let error = Error::from(lines.on_failure(OnFailure::Error).count("a").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Quarantined);
}

#[test]
fn method_that_a_provider_lacks_is_served_by_the_next() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .quarantine(quarantine(|policy| policy.max_faults = 1))
        .prefer_providers("text-analysis", ["old"])
        .build()
        .unwrap();
    loaded(&host, plugins.add("old", "analyst-old").write());
    let analysis = host.providers_of::<dyn TextAnalysis>().unwrap();
    let default = [Word { text: "2 words".to_owned(), count: 1 }];
    assert_eq!(analysis.top("a b", 1).unwrap(), default);
    let error = analysis.longest("a").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NotProvided);
    block_on(host.serve("new", Analyst, analyst())).unwrap();
    assert_eq!(analysis.top("a b", 1).unwrap(), [Word { text: "a".to_owned(), count: 1 }]);
    assert_eq!(analysis.longest("a bc").unwrap(), "bc");
    // The error of the provider that has the method, and not that of the one without it.
    let error = analysis.longest("").unwrap_err();
    assert_eq!(error.plugin_error().map(hotbay::PluginError::code), Some(404));
    let newest = analysis.accepting("^1.1".parse().unwrap());
    assert_eq!(names(&newest), ["new"]);
    newest.fail(Failure::Panic).unwrap_err();
    assert_eq!(analysis.top("a b", 1).unwrap(), default, "the newer provider is quarantined");
    assert_eq!(newest.longest("a").unwrap_err().kind(), CallErrorKind::Unavailable);
}

/// Serves a contract that cannot be converted.
struct Changed;

impl changed::TextAnalysis for Changed {
    fn words(&self, text: &[u8]) -> Result<u64, CallError> {
        Ok(text.len() as u64)
    }
}

#[test]
fn incompatible_plugin_is_refused_as_a_provider() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let serves = Serves::new().with::<dyn changed::TextAnalysis>();
    block_on(host.serve("changed", Changed, serves)).unwrap();
    let error = host.providers_of::<dyn TextAnalysis>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let message = error.full_message();
    let expected = "method `words`: argument `text`: `string` cannot be read as `[u8]`";
    assert!(message.contains("plugin `changed` ") && message.contains(expected), "{message}");
    block_on(host.serve("own", Analyst, analyst())).unwrap();
    let analysis = host.providers_of::<dyn TextAnalysis>().unwrap();
    assert_eq!(names(&analysis), ["own"]);
    assert_eq!(analysis.words("a b").unwrap(), 2);
    // The host knows the contract now, so another such plugin is not even loaded.
    let library = plugins.add("analyst", "analyst");
    let library = library.patch("fn words(text: string) -> u64", "fn words(text:   [u8]) -> u64");
    assert_eq!(refused(&host, library.write()).kind(), ErrorKind::Incompatible);
}

#[test]
fn plugin_that_only_names_the_contract_is_not_a_provider() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    assert!(host.providers_of::<dyn Unknown>().unwrap_err().is_not_found());
    let provides = json!([{ "contract": "unknown", "version": "1.0.0" }]);
    loaded(&host, plugins.add("faulty", "faulty").set("provides", provides).write());
    let error = host.providers_of::<dyn Unknown>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotProvided);
    let message = error.to_string();
    assert!(
        message.starts_with("plugin `faulty` does not serve contract `unknown` 1.0"),
        "{message}"
    );
}

#[test]
fn providers_are_found_at_each_call() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .prefer(Preference::External)
        .serve("own", Analyst, analyst())
        .build()
        .unwrap();
    let analysis = host.providers_of::<dyn TextAnalysis>().unwrap();
    assert_eq!(analysis.words("a").unwrap(), 1);
    loaded(&host, plugins.add("library", "analyst-old").write());
    assert_eq!(analysis.words("a").unwrap(), 1);
    assert_eq!(calls(&host), [1, 1]);
    plugins.add("library", "analyst").write();
    reloaded(&host, "library");
    assert_eq!(analysis.top("a", 1).unwrap()[0].text, "a");
    assert_eq!(calls(&host), [2, 1]);
    block_on(host.unload("library")).unwrap();
    assert_eq!(analysis.words("a").unwrap(), 1);
    block_on(host.unload("own")).unwrap();
    let error = analysis.words("a").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Unavailable);
    assert!(Error::from(error).is_not_found());
    block_on(host.serve("again", Analyst, analyst())).unwrap();
    assert_eq!(analysis.words("a").unwrap(), 1);
}

#[test]
fn all_attempts_of_a_call_have_the_same_deadline() {
    let host = Host::builder()
        .serve("a", Analyst, analyst())
        .serve("b", Analyst, analyst())
        .build()
        .unwrap();
    let analysis = host.providers_of::<dyn TextAnalysis>().unwrap().idempotent();
    assert_eq!(analysis.with_timeout(Duration::from_secs(600)).limits().unwrap(), (true, false));
    let error = analysis.with_timeout(Duration::ZERO).words("a").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    assert_eq!(calls(&host)[1], 0);
    let token = CancellationToken::new();
    token.cancel();
    let error = analysis.with_cancellation_token(token).words("a").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Cancelled);
}

#[test]
fn async_methods_fall_through_as_well() {
    let plugins = Plugins::new();
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .prefer(Preference::External)
        .quarantine(quarantine(|policy| policy.max_faults = 1))
        .serve("own", AsyncWorker::default(), worker())
        .build()
        .unwrap();
    loaded(&host, plugins.add("library", "async-worker").write());
    let work = host.providers_of::<dyn AsyncWork>().unwrap();
    block_on(async {
        assert_eq!(work.delay(1, "a").await.unwrap(), "a");
        assert_eq!(calls(&host), [1, 0]);
        // The panic quarantines the library, and the call may have run.
        assert_eq!(work.fail(Failure::Panic).await.unwrap_err().kind(), CallErrorKind::Panicked);
        assert_eq!(work.delay(1, "b").await.unwrap(), "b");
        assert_eq!(work.idempotent().twice("c").await.unwrap(), "cc");
        host.unload("library").await.unwrap();
        let short = work.with_timeout(Duration::from_millis(20)).idempotent();
        let error = short.forever().await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    });
}
