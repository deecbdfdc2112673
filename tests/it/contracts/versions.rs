//! Callers and plugins that were built against different versions of a contract.

use std::collections::BTreeMap;

use hotbay::contract::{CallErrorKind, Handle, Serves};
use hotbay::{ErrorKind, Host, LoadStep};
use hotbay_tests::{Plugins, host, loaded, refused, rolled_back};
use text_contract::{Point, Record, TextAnalysis, Word, changed, old};

fn old_analyst(plugins: &Plugins) -> (Host, Handle<dyn TextAnalysis>) {
    let host = host(plugins);
    loaded(&host, plugins.add("analyst", "analyst-old").write());
    let analysis = host.contract::<dyn TextAnalysis>("analyst").expect("it can be converted");
    (host, analysis)
}

#[test]
fn newer_caller_calls_older_plugin() {
    let plugins = Plugins::new();
    let (_host, analysis) = old_analyst(&plugins);
    let check = |analysis: &dyn TextAnalysis| {
        // Wider results, and the same signature.
        assert_eq!(analysis.words("a b c").unwrap(), 3);
        assert_eq!(analysis.lengths(&["ab".to_owned()]).unwrap(), [2]);
        assert_eq!(analysis.score(1.0, 2.0).unwrap(), 3.0);
        let point = || Point { x: 1.0, y: 2.0 };
        assert_eq!(analysis.move_by(point(), &point()).unwrap(), Point { x: 2.0, y: 4.0 });
        // A field that the plugin does not know has its default in the result.
        let record = Record { text: "a".to_owned(), added: true, ..Record::default() };
        let enriched = analysis.enrich(record.clone()).unwrap();
        assert_eq!(enriched, Record { words: Some(1), added: false, ..record });
        // Methods that the plugin does not have.
        let top = analysis.top("a b", 7).unwrap();
        assert_eq!(top, [Word { text: "2 words".to_owned(), count: 7 }]);
        let error = analysis.longest("a").unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::NotProvided);
        assert!(error.to_string().contains("which version 1.1 added"), "{error}");
    };
    check(&analysis);
    check(&analysis.pin().unwrap());
    check(&analysis.pooled());
}

#[test]
fn older_caller_calls_newer_plugin() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    loaded(&host, plugins.add("analyst", "analyst").write());
    // `u64` of the plugin is wider than `u32` of the caller.
    let error = host.contract::<dyn old::TextAnalysis>("analyst").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let message = error.full_message();
    let expected = "serves an incompatible version of contract `text-analysis`: method `words`: \
                    result: `u64` cannot be read as `u32`\n  \
                    expected: fn words(text: string) -> u32\n  \
                    found:    fn words(text: string) -> u64";
    assert!(message.contains(expected), "{message}");
    let hint = "rebuild the plugin against the application's version of the contract";
    assert_eq!(error.hint(), Some(hint));
}

#[test]
fn incompatible_plugin_is_rejected_before_it_is_opened() {
    let plugins = Plugins::new();
    let builder = Host::builder().plugin_dir(plugins.dir()).contract::<dyn changed::TextAnalysis>();
    let host = builder.build().unwrap();
    let error = refused(&host, plugins.add("analyst", "analyst").write());
    assert_eq!((error.kind(), error.step()), (ErrorKind::Incompatible, Some(LoadStep::Version)));
    let message = error.full_message();
    assert!(
        message.ends_with(
            "it serves an incompatible version of contract `text-analysis`: method `words`: \
         argument `text`: `[u8]` cannot be read as `string`\n  \
         expected: fn words(text: [u8]) -> u64\n  \
         found:    fn words(text: string) -> u64"
        ),
        "{message}"
    );
    assert_eq!(
        error.hint(),
        Some("rebuild the plugin against the application's version of the contract")
    );
}

#[test]
fn handle_keeps_incompatible_builds_out() {
    let plugins = Plugins::new();
    let (host, analysis) = old_analyst(&plugins);
    let serves = Serves::new().with::<dyn TextAnalysis>();
    hotbay_tests::block_on(host.serve("new", text_plugins::Analyst, serves)).unwrap();
    // Now the host knows a contract that no build of the plugin can serve.
    host.contract::<dyn changed::TextAnalysis>("new").unwrap_err();
    plugins.add("analyst", "analyst").write();
    let error = rolled_back(&host, "analyst");
    assert_eq!((error.kind(), error.step()), (ErrorKind::Incompatible, Some(LoadStep::Version)));
    assert_eq!(analysis.words("a b").unwrap(), 2);
}

#[test]
fn handle_follows_reloads_between_versions() {
    let plugins = Plugins::new();
    let (host, analysis) = old_analyst(&plugins);
    for (package, top) in [("analyst", "a"), ("analyst-old", "1 words"), ("analyst", "a")] {
        plugins.add("analyst", package).write();
        hotbay_tests::reloaded(&host, "analyst");
        assert_eq!(analysis.words("a b").unwrap(), 2);
        assert_eq!(analysis.top("a", 1).unwrap()[0].text, top);
        let tags = BTreeMap::from([("t".to_owned(), 1)]);
        let record = Record { tags, ..Record::default() };
        assert_eq!(analysis.enrich(record).unwrap().tags["t"], 1);
    }
}

#[test]
fn library_that_lies_about_a_signature_is_rejected() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let plugin = plugins.add("analyst", "analyst");
    let lie = plugin.patch("fn score(a: f64, b: f64)", "fn score(a: u64, b: u64)");
    let error = refused(&host, lie.write());
    assert_eq!((error.kind(), error.step()), (ErrorKind::Incompatible, Some(LoadStep::Layout)));
    let message = error.full_message();
    let expected = "table and text of `text-analysis` differ: found the method `score`, expected \
                    `fn score(a: u64, b: u64) -> f64`";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn invalid_text_of_a_contract_is_rejected_before_it_is_opened() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    for (at, (from, to)) in [
        ("HOTBAY-CONTRACTS 1", "HOTBAY-CONTRACTS 9"),
        ("fn score(a: f64, b: f64)", "fn score(a: f64, b, f64)"),
        ("contract text-analysis 1.1", "contract text-analysis x.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let plugin = plugins.add(&format!("bad-{at}"), "analyst").patch(from, to);
        let error = refused(&host, plugin.write());
        assert_eq!((error.kind(), error.step()), (ErrorKind::Integrity, Some(LoadStep::Probe)));
    }
}

#[test]
fn version_in_the_manifest_must_be_that_of_the_library() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let provides = serde_json::json!([{ "contract": "text-analysis", "version": "1.2.0" }]);
    let error = refused(&host, plugins.add("analyst", "analyst").set("provides", provides).write());
    assert_eq!((error.kind(), error.step()), (ErrorKind::Incompatible, Some(LoadStep::Version)));
}
