//! Calls of a contract's methods, served by a library and by a value of the program.

use std::collections::BTreeMap;
use std::time::Duration;

use hotbay::contract::{CallError, CallErrorKind, Handle, Serves};
use hotbay::{
    Call, CancellationToken, Error, ErrorKind, Host, Layer, Manifest, Next, PluginError, Reply,
};
use hotbay_tests::{Plugins, block_on, host, loaded};
use text_contract::{Failure, Point, Record, TextAnalysis, Unknown, Word};

fn analyst(plugins: &Plugins) -> (Host, Handle<dyn TextAnalysis>) {
    let host = host(plugins);
    loaded(&host, plugins.add("analyst", "analyst").write());
    let analysis = host.contract::<dyn TextAnalysis>("analyst").expect("it serves the contract");
    (host, analysis)
}

/// Calls every method that an implementation must have.
fn check_all(analysis: &impl TextAnalysis) {
    assert_eq!(analysis.words("to be or not to be").unwrap(), 6);
    assert_eq!(analysis.words("").unwrap(), 0);
    assert_eq!(analysis.score(1.5, 2.0).unwrap(), 3.5);
    assert_eq!(analysis.sum(&[1.0, 2.0, 4.5]).unwrap(), 7.5);
    assert_eq!(analysis.sum(&[]).unwrap(), 0.0);
    let texts = ["a".to_owned(), "bcd".to_owned()];
    assert_eq!(analysis.lengths(&texts).unwrap(), [1, 3]);
    assert_eq!(analysis.shout(Some("hé\"")).unwrap().as_deref(), Some("HÉ\""));
    assert_eq!(analysis.shout(None).unwrap(), None);
    let (point, by) = (Point { x: 1.0, y: 2.0 }, Point { x: 0.5, y: -1.0 });
    assert_eq!(analysis.move_by(point, &by).unwrap(), Point { x: 1.5, y: 1.0 });
    let tags = BTreeMap::from([("a".to_owned(), -1), ("b".to_owned(), i64::MAX)]);
    let record = Record { text: "a b".to_owned(), words: None, tags, added: false };
    let enriched = analysis.enrich(record.clone()).unwrap();
    assert_eq!(enriched, Record { words: Some(2), added: true, ..record });
}

pub(super) fn check_newest(analysis: &impl TextAnalysis) {
    check_all(analysis);
    let top = analysis.top("a b a c", 2).unwrap();
    let word = |text: &str, count| Word { text: text.to_owned(), count };
    assert_eq!(top, [word("a", 2), word("b", 1)]);
    assert_eq!(analysis.longest("a bcd ef").unwrap(), "bcd");
    let error = analysis.longest("").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Plugin);
    assert_eq!(error.plugin_error().map(PluginError::code), Some(404));
    assert_eq!(analysis.fail(Failure::None).unwrap(), 7);
    let error = analysis.fail(Failure::Error).unwrap_err();
    let error = error.plugin_error().expect("of the plugin");
    assert_eq!((error.code(), error.message()), (7, "no"));
    assert_eq!(error.details(), Some(&serde_json::json!([1])));
}

#[test]
fn library_serves_all_methods() {
    let plugins = Plugins::new();
    let (_host, analysis) = analyst(&plugins);
    check_newest(&analysis);
    check_newest(&analysis.pin().unwrap());
    check_newest(&analysis.pooled());
    check_newest(&analysis.with_timeout(Duration::from_secs(600)));
    check_newest(&analysis.with_timeout(Duration::from_secs(600)).pooled());
}

#[test]
fn value_of_the_program_serves_all_methods() {
    let serves = Serves::new().with::<dyn TextAnalysis>();
    let host = Host::builder().serve("own", text_plugins::Analyst, serves).build().unwrap();
    let analysis = host.contract::<dyn TextAnalysis>("own").unwrap();
    check_newest(&analysis);
    check_newest(&analysis.pooled());
    check_newest(&text_plugins::Analyst);
    let manifest = Manifest::new("plugin", "1.0.0").unwrap();
    let serves = Serves::new().with::<dyn TextAnalysis>();
    block_on(host.register_serving::<text_plugins::Analyst>(manifest, serves)).unwrap();
    check_newest(&host.contract::<dyn TextAnalysis>("plugin").unwrap());
}

#[test]
fn calls_are_counted_and_failures_recorded() {
    let plugins = Plugins::new();
    let (host, analysis) = analyst(&plugins);
    for _ in 0..200 {
        analysis.words("a b").unwrap();
    }
    analysis.pin().unwrap().score(1.0, 2.0).unwrap();
    analysis.fail(Failure::Error).unwrap_err();
    analysis.fail(Failure::Panic).unwrap_err();
    let [info] = &*host.list() else { panic!("one plugin") };
    assert_eq!((info.stats.calls, info.stats.errors, info.stats.faults), (203, 1, 1));
    assert!(info.stats.latencies.count() > 0, "one call in 64 is timed");
}

#[test]
fn panic_is_an_error_with_its_message() {
    let plugins = Plugins::new();
    let (_host, analysis) = analyst(&plugins);
    let error = analysis.fail(Failure::Panic).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Panicked);
    let error = Error::from(error);
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(error.fault().unwrap().message(), "analysis failed");
}

#[test]
fn repeated_panics_quarantine_the_plugin() {
    let plugins = Plugins::new();
    let (_host, analysis) = analyst(&plugins);
    let error = loop {
        analysis.fail(Failure::Panic).unwrap_err();
        if let Err(error) = analysis.score(1.0, 2.0) {
            break error;
        }
    };
    assert_eq!(error.kind(), CallErrorKind::Unavailable);
    assert_eq!(Error::from(error).kind(), ErrorKind::Quarantined);
}

#[test]
fn plugin_sees_deadline_and_cancellation() {
    let plugins = Plugins::new();
    let (_host, analysis) = analyst(&plugins);
    let day = Duration::from_secs(86_400);
    assert_eq!(analysis.limits().unwrap(), (false, false));
    assert_eq!(analysis.with_timeout(day).limits().unwrap(), (true, false));
    let token = CancellationToken::new();
    let cancellable = analysis.with_cancellation_token(token.clone());
    assert_eq!(cancellable.limits().unwrap(), (false, false));
    token.cancel();
    assert_eq!(cancellable.limits().unwrap_err().kind(), CallErrorKind::Cancelled);
    let late = analysis.with_timeout(Duration::ZERO).score(1.0, 2.0).unwrap_err();
    assert_eq!(late.kind(), CallErrorKind::DeadlineExceeded);
}

#[test]
fn pooled_call_returns_at_its_deadline() {
    let plugins = Plugins::new();
    let (_host, analysis) = analyst(&plugins);
    let error = analysis.with_timeout(Duration::from_millis(20)).pooled().wait().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
}

#[test]
fn pooled_call_ends_when_its_token_is_cancelled() {
    let plugins = Plugins::new();
    let (_host, analysis) = analyst(&plugins);
    let token = CancellationToken::new();
    let pooled = analysis.with_cancellation_token(token.clone()).pooled();
    let error = std::thread::scope(|scope| {
        let call = scope.spawn(|| pooled.wait());
        token.cancel();
        call.join().expect("no panic")
    });
    assert_eq!(error.unwrap_err().kind(), CallErrorKind::Cancelled);
}

#[test]
fn method_needs_its_permission() {
    let plugins = Plugins::new();
    let (host, analysis) = analyst(&plugins);
    let error = analysis.store("a").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::PermissionDenied);
    assert!(error.to_string().contains("no permission for `write`"), "{error}");
    let error = analysis.pooled().store("a").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::PermissionDenied);
    let folder = plugins.add("writer", "analyst").set("permissions", vec!["write"]).write();
    loaded(&host, folder);
    let writer = host.contract::<dyn TextAnalysis>("writer").unwrap();
    writer.store("a").unwrap();
    writer.pooled().store("a").unwrap();
}

#[test]
fn contract_that_is_not_served_is_an_error() {
    let plugins = Plugins::new();
    let (host, _analysis) = analyst(&plugins);
    let error = host.contract::<dyn Unknown>("analyst").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotProvided);
    let expected =
        "plugin `analyst` does not serve contract `unknown` 1.0, only `text-analysis` 1.1";
    assert_eq!(error.to_string(), expected);
    let hint = error.hint().unwrap();
    assert!(hint.contains("`export_plugin!`"), "{hint}");
    assert!(host.contract::<dyn TextAnalysis>("analyst-2").unwrap_err().is_not_found());
    block_on(host.register_fn("echo", |_, _| Ok(hotbay::Output::text("")))).unwrap();
    let error = host.contract::<dyn TextAnalysis>("echo").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotProvided);
    let expected = "plugin `echo` does not serve contract `text-analysis` 1.1, or any other";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn calls_fail_after_an_unload() {
    let plugins = Plugins::new();
    let (host, analysis) = analyst(&plugins);
    let pinned = analysis.pin().unwrap();
    drop(pinned);
    block_on(host.unload("analyst")).unwrap();
    assert_eq!(analysis.score(1.0, 2.0).unwrap_err().kind(), CallErrorKind::Unavailable);
    assert!(analysis.pin().is_err());
}

#[test]
fn limits_of_input_and_output_apply() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let limits = serde_json::json!({ "input_bytes": 64, "output_bytes": 64 });
    loaded(&host, plugins.add("analyst", "analyst").set("limits", limits).write());
    let analysis = host.contract::<dyn TextAnalysis>("analyst").unwrap();
    assert_eq!(analysis.words(&"a ".repeat(32)).unwrap(), 32);
    let error = analysis.words(&"a ".repeat(33)).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::InvalidInput);
    assert_eq!(analysis.sum(&[1.0; 8]).unwrap(), 8.0);
    assert_eq!(analysis.sum(&[1.0; 9]).unwrap_err().kind(), CallErrorKind::InvalidInput);
    // `ß` becomes two letters, and `ŉ` three bytes.
    assert_eq!(analysis.shout(Some(&"a".repeat(64))).unwrap().unwrap().len(), 64);
    let error = analysis.shout(Some(&"ŉ".repeat(32))).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::InvalidOutput);
}

/// Counts the calls that pass, by method, and answers `score` itself.
struct Counting(std::sync::Mutex<BTreeMap<String, u32>>);

impl Layer for Counting {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let Some((contract, method)) = call.request().contract_method() else {
            return next.call(call);
        };
        assert_eq!(contract, "text-analysis");
        *self.0.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        match method {
            "score" => Ok(Reply::new(hotbay::Output::json(&-1.0).unwrap())),
            // Calls twice; the result is that of the second call.
            "shout" => next.call(call).and_then(|_| next.call(call)),
            "sum" => Ok(Reply::new(hotbay::Output::text("no number"))),
            _ => next.call(call),
        }
    }
}

#[test]
fn layers_see_methods_and_can_answer_them() {
    let plugins = Plugins::new();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.layer(Counting(Default::default())).build().unwrap();
    loaded(&host, plugins.add("analyst", "analyst").write());
    let analysis = host.contract::<dyn TextAnalysis>("analyst").unwrap();
    assert_eq!(analysis.words("a b").unwrap(), 2);
    assert_eq!(analysis.score(1.0, 2.0).unwrap(), -1.0);
    assert_eq!(analysis.shout(Some("a")).unwrap().as_deref(), Some("A"));
    assert_eq!(analysis.sum(&[1.0]).unwrap_err().kind(), CallErrorKind::InvalidOutput);
    assert_eq!(analysis.pooled().score(1.0, 2.0).unwrap(), -1.0);
}

#[test]
fn error_types_convert_both_ways() {
    let plugins = Plugins::new();
    let (host, analysis) = analyst(&plugins);
    let question_mark = || -> Result<u64, Error> { Ok(analysis.words("a")?) };
    assert_eq!(question_mark().unwrap(), 1);
    let not_found = host.plugin("none").unwrap_err();
    let error = CallError::from(not_found);
    assert_eq!(error.kind(), CallErrorKind::Unavailable);
    assert!(Error::from(error).is_not_found());
}
