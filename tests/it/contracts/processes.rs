//! Contracts served by programs: in Rust by the SDK, in Python by hand, and by programs that
//! violate the protocol.

use std::time::Duration;

use hotbay::contract::{CallError, CallErrorKind, Handle};
use hotbay::{CancellationToken, Error, ErrorKind, Host, HostEvent, LoadStep, Request};
use hotbay_tests::{
    Plugins, ProgramFolder, binary, block_on, event, has_interpreter, host, loaded, refused,
    rolled_back, set_behavior, until,
};
use serde_json::{Value, json};
use text_contract::{AsyncWork, Failure, TextAnalysis, Unknown, changed};

use super::calls::check_newest;
use super::sdk;
use super::tasks::check_all;

/// A contract with which programs do not comply.
#[hotbay_plugin::contract(name = "lines", version = "1.1")]
pub(super) trait Lines {
    fn count(&self, text: &str) -> Result<u64, CallError>;
    #[since("1.1")]
    fn first(&self, text: &str) -> Result<String, CallError> {
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

pub(super) const LINES: &str = "contract lines 1.0\nfn count(text: string) -> u64\n";

/// The program in Rust.
pub(super) fn rust(plugins: &Plugins) -> ProgramFolder {
    let program = ProgramFolder::new(plugins.dir(), "analyst");
    program.built("analyst", "analyst").set("package", "analyst")
}

/// The program in Python; `None` if Python is not installed.
fn python(plugins: &Plugins) -> Option<ProgramFolder> {
    let program = ProgramFolder::new(plugins.dir(), "analyst").bytes(include_str!("analyst.py"));
    has_interpreter("python3").then_some(program.set("package", "program"))
}

/// The program in Rust, which states that it accepts only JSON.
fn rust_as_json(plugins: &Plugins) -> ProgramFolder {
    let program = binary("analyst", "analyst");
    let program = program.display();
    let script = format!(
        "#!/bin/sh\n\
         [ \"$1\" = capabilities ] || exec '{program}' \"$@\"\n\
         '{program}' capabilities | sed 's/\"postcard\":true/\"postcard\":false/'\n"
    );
    ProgramFolder::new(plugins.dir(), "analyst").bytes(script).set("package", "analyst")
}

/// The programs in Rust, in Python by hand, and with the SDKs of other languages.
fn programs() -> Vec<(Plugins, ProgramFolder)> {
    let (first, second) = (Plugins::new(), Plugins::new());
    let mut programs = Vec::new();
    let program = rust(&first);
    programs.push((first, program));
    if let Some(program) = python(&second) {
        programs.push((second, program));
    }
    programs.extend(sdk::programs("analyst"));
    programs
}

fn analyst(plugins: &Plugins, program: ProgramFolder) -> (Host, Handle<dyn TextAnalysis>) {
    let host = host(plugins);
    loaded(&host, program.install());
    let analysis = host.contract::<dyn TextAnalysis>("analyst").expect("it serves the contract");
    (host, analysis)
}

/// Returns the scripted program with this contract.
pub(super) fn scripted(plugins: &Plugins, contracts: Value, serve: Value) -> ProgramFolder {
    let program = ProgramFolder::new(plugins.dir(), "lines").set("package", "program");
    program.behavior(behavior(contracts, serve))
}

fn behavior(contracts: Value, serve: Value) -> Value {
    json!({ "capabilities": { "hotbay": { "contracts": contracts } }, "serve": serve })
}

/// Loads the scripted program, which answers the method `count` so.
fn lines(plugins: &Plugins, answer: Value) -> (Host, Handle<dyn Lines>) {
    let host = host(plugins);
    let serve = json!({ "contract/lines/count": answer });
    loaded(&host, scripted(plugins, json!([{ "text": LINES }]), serve).install());
    let lines = host.contract::<dyn Lines>("lines").expect("it serves the contract");
    (host, lines)
}

#[test]
fn programs_serve_all_methods() {
    for (plugins, program) in programs() {
        let (_host, analysis) = analyst(&plugins, program);
        check_newest(&analysis);
        check_newest(&analysis.pin().unwrap());
        check_newest(&analysis.pooled());
        check_newest(&analysis.with_timeout(Duration::from_secs(600)));
        check_newest(&analysis.with_timeout(Duration::from_secs(600)).pooled());
    }
}

#[test]
fn rust_program_serves_all_methods_as_json() {
    let plugins = Plugins::new();
    let (_host, analysis) = analyst(&plugins, rust_as_json(&plugins));
    check_newest(&analysis);
    check_newest(&analysis.pooled());
}

#[test]
fn postcard_is_sent_only_for_equal_signatures() {
    for (result, content_type, count) in
        [("u64", "application/x-postcard", 5), ("u32", "application/json", 53)]
    {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let text = format!("contract lines 1.0\nfn count(text: string) -> {result}");
        let body = if count == 5 { "\u{5}" } else { "53" };
        let serve = json!({ "contract/lines/count": { "type": content_type, "body": body } });
        let contracts = json!([{ "text": text, "postcard": true }]);
        loaded(&host, scripted(&plugins, contracts, serve).install());
        let lines = host.contract::<dyn Lines>("lines").unwrap();
        assert_eq!(lines.count("").unwrap(), count);
        assert_eq!(lines.pooled().count("").unwrap(), count);
    }
}

/// A contract with a value that has no bytes in postcard.
#[hotbay_plugin::contract(name = "lines", version = "1.0")]
trait EmptyLines {
    fn count(&self, text: &str) -> Result<Vec<Empty>, CallError>;
}

#[hotbay_plugin::data]
#[derive(Debug, PartialEq)]
struct Empty {
    nothing: ((), Nothing),
}

#[hotbay_plugin::data]
#[derive(Debug, PartialEq)]
struct Nothing;

#[test]
fn values_without_bytes_cross_as_json() {
    // 2^60 values in postcard.
    let many = "\u{80}\u{80}\u{80}\u{80}\u{10}";
    let text = "contract lines 1.0\nfn count(text: string) -> [Empty { nothing: (unit, Nothing) }]";
    for (answer, expected) in [
        (json!({ "type": "application/x-postcard", "body": many }), None),
        (
            json!({ "body": [{ "nothing": [null, null] }] }),
            Some(vec![Empty { nothing: ((), Nothing) }]),
        ),
    ] {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let serve = json!({ "contract/lines/count": answer });
        let contracts = json!([{ "text": text, "postcard": true }]);
        loaded(&host, scripted(&plugins, contracts, serve).install());
        let lines = host.contract::<dyn EmptyLines>("lines").unwrap();
        assert_eq!(lines.count("").ok(), expected);
        assert_eq!(lines.pooled().count("").ok(), expected);
    }
}

#[test]
fn programs_serve_async_methods() {
    let plugins = Plugins::new();
    let program = ProgramFolder::new(plugins.dir(), "worker").set("package", "async-program");
    let program = program.built("async-program", "async-program");
    for (plugins, program) in std::iter::once((plugins, program)).chain(sdk::programs("worker")) {
        let host = Host::builder().plugin_dir(plugins.dir()).quarantine(None).build().unwrap();
        loaded(&host, program.install());
        let work = host.contract::<dyn AsyncWork>("worker").unwrap();
        block_on(async {
            check_all(&work).await;
            check_all(&work.pin().unwrap()).await;
            check_all(&work.pooled()).await;
            assert_eq!(work.limits().await.unwrap(), (false, false));
            let later = work.with_timeout(Duration::from_secs(600));
            assert_eq!(later.limits().await.unwrap(), (true, false));
        });
        let token = CancellationToken::new();
        let cancellable = work.with_cancellation_token(token.clone());
        let error = std::thread::scope(|scope| {
            let call = scope.spawn(|| block_on(cancellable.forever()));
            token.cancel();
            call.join().expect("no panic").unwrap_err()
        });
        assert_eq!(error.kind(), CallErrorKind::Cancelled);
        until("a call is dropped in the program", || {
            // The first one may time out before it has started.
            let short = work.with_timeout(Duration::from_millis(100));
            let error = block_on(short.forever()).unwrap_err();
            assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
            (work.dropped().unwrap() > 0).then_some(())
        });
    }
}

#[test]
fn rust_program_serves_both_formats() {
    let plugins = Plugins::new();
    let (host, _analysis) = analyst(&plugins, rust(&plugins));
    let plugin = host.plugin("analyst").unwrap();
    let call = |content_type: &str, body: &[u8]| {
        let request = Request::bytes(body).with_content_type(content_type.to_owned());
        plugin.call(request.with_endpoint("contract/text-analysis/words"))
    };
    assert_eq!(call("application/json", br#"{"text":"a b"}"#).unwrap().as_bytes(), b"2");
    let charset = "Application/JSON; charset=utf-8";
    assert_eq!(call(charset, br#"{"text":"a b"}"#).unwrap().as_bytes(), b"2");
    for (content_type, body, code) in [
        ("application/json", &b"{}"[..], 400),
        ("application/json", b"7", 400),
        ("application/json", b"", 400),
        ("text/plain", b"{}", 415),
        // Without the hash of the signature.
        ("application/x-postcard", b"\x03a b", 412),
    ] {
        let error = call(content_type, body).unwrap_err();
        let found = error.plugin_error().map(hotbay::PluginError::code);
        assert_eq!(found, Some(code), "{}", error.full_message());
    }
    let unknown = plugin.call(Request::text("").with_endpoint("contract/text-analysis/none"));
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn panic_is_an_error_and_the_process_survives() {
    for (plugins, program) in programs() {
        let (host, analysis) = analyst(&plugins, program);
        for error in [
            analysis.fail(Failure::Panic).unwrap_err(),
            analysis.pooled().fail(Failure::Panic).unwrap_err(),
        ] {
            assert_eq!(error.kind(), CallErrorKind::Panicked);
            let error = Error::from(error);
            let message = error.fault().unwrap().message();
            assert!(message.ends_with("analysis failed"), "{message}");
        }
        assert_eq!(analysis.words("a").unwrap(), 1);
        let [info] = &*host.list() else { panic!("one plugin") };
        assert_eq!((info.stats.calls, info.stats.faults, info.stats.exits), (3, 2, 0));
    }
}

#[test]
fn program_sees_deadline_and_cancellation() {
    for (plugins, program) in programs() {
        let (_host, analysis) = analyst(&plugins, program);
        assert_eq!(analysis.limits().unwrap(), (false, false));
        let later = analysis.with_timeout(Duration::from_secs(86_400));
        assert_eq!(later.limits().unwrap(), (true, false));
        assert_eq!(later.pooled().limits().unwrap(), (true, false));
        for soon in [Duration::from_millis(30), Duration::ZERO] {
            let soon = analysis.with_timeout(soon);
            for error in [soon.wait().unwrap_err(), soon.pooled().wait().unwrap_err()] {
                assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
            }
        }
        let token = CancellationToken::new();
        let cancellable = analysis.with_cancellation_token(token.clone());
        let errors = std::thread::scope(|scope| {
            let direct = scope.spawn(|| cancellable.wait());
            let pooled = scope.spawn(|| cancellable.pooled().wait());
            token.cancel();
            [direct, pooled].map(|call| call.join().expect("no panic").unwrap_err())
        });
        for error in errors {
            assert_eq!(error.kind(), CallErrorKind::Cancelled);
        }
        assert_eq!(analysis.words("still here").unwrap(), 2);
    }
}

#[test]
fn method_of_program_needs_its_permission() {
    for (plugins, program) in programs() {
        let (_host, analysis) = analyst(&plugins, program);
        assert_eq!(analysis.store("a").unwrap_err().kind(), CallErrorKind::PermissionDenied);
    }
    for (plugins, program) in programs() {
        let (_host, writer) = analyst(&plugins, program.set("permissions", vec!["write"]));
        writer.store("a").unwrap();
        writer.pooled().store("a").unwrap();
    }
}

#[test]
fn contract_that_program_does_not_serve_is_an_error() {
    let plugins = Plugins::new();
    let (host, _analysis) = analyst(&plugins, rust(&plugins));
    let error = host.contract::<dyn Unknown>("analyst").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotProvided);
    let expected =
        "plugin `analyst` does not serve contract `unknown` 1.0, only `text-analysis` 1.1";
    assert_eq!(error.to_string(), expected);
    let hint = error.hint().unwrap();
    assert!(hint.contains("`provides` with `methods` in plugin.json"), "{hint}");
}

#[test]
fn plugins_are_found_by_the_contracts_they_serve() {
    let plugins = Plugins::new();
    let (host, _analysis) = analyst(&plugins, rust(&plugins));
    loaded(&host, plugins.add("library", "analyst").write());
    for (version, is_served) in [("^1.0", true), ("^1.1", true), ("^1.2", false), ("*", true)] {
        let providers = host.providers("text-analysis").unwrap();
        let providers = providers.accepting(version.parse().unwrap());
        let mut names: Vec<_> =
            providers.names().iter().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        let expected: &[&str] = if is_served { &["analyst", "library"] } else { &[] };
        assert_eq!(names, expected, "{version}");
    }
}

#[test]
fn incompatible_program_is_rejected_before_it_is_started() {
    let plugins = Plugins::new();
    let builder = Host::builder().plugin_dir(plugins.dir()).contract::<dyn changed::TextAnalysis>();
    let host = builder.build().unwrap();
    let error = refused(&host, rust(&plugins).install());
    let (kind, step) = (error.kind(), error.step());
    assert_eq!((kind, step), (ErrorKind::Incompatible, Some(LoadStep::Capabilities)));
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
    let provides = json!([{ "contract": "text-analysis", "version": "1.2.0" }]);
    let host = Host::builder().plugin_dir(plugins.dir()).build().unwrap();
    let error = refused(&host, rust(&plugins).set("provides", provides).install());
    assert!(error.full_message().contains("but the plugin serves 1.1"), "{error:?}");
    assert_eq!(error.step(), Some(LoadStep::Capabilities));
}

#[test]
fn handle_keeps_incompatible_programs_out() {
    let plugins = Plugins::new();
    let (host, lines) = lines(&plugins, json!({ "body": 3 }));
    assert_eq!(lines.count("").unwrap(), 3);
    let serve = json!({ "contract/lines/count": { "body": 4 } });
    let text = "contract lines 1.0\nfn count(text: string) -> string";
    scripted(&plugins, json!([{ "text": text }]), serve.clone()).config(json!({})).install();
    scripted(&plugins, json!([{ "text": text }]), serve).set("description", "new").install();
    let error = rolled_back(&host, "lines");
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{}", error.full_message());
    assert_eq!(lines.count("").unwrap(), 3);
}

#[test]
fn invalid_text_of_a_contract_is_a_capabilities_error() {
    let text = |text: &str| json!([{ "text": text }]);
    for (contracts, expected) in [
        (json!({}), "`hotbay.contracts` is an object; expected a list of contracts"),
        (json!([7]), "`hotbay.contracts[0]` is 7; expected a contract: an object with `text`"),
        (json!([{}]), "`hotbay.contracts[0].text` is missing; expected the text of one contract"),
        (text(""), "`hotbay.contracts[0].text` describes 0 contracts; expected the text of one"),
        (
            text("contract a 1.0\nfn f(n) -> u64"),
            "`hotbay.contracts[0].text` is invalid at line 2, column 7; expected `:`",
        ),
    ] {
        let plugins = Plugins::new();
        let error = refused(&host(&plugins), scripted(&plugins, contracts, json!({})).install());
        let step = error.step();
        assert_eq!((error.kind(), step), (ErrorKind::StartFailed, Some(LoadStep::Capabilities)));
        let message = error.full_message();
        assert!(message.contains(expected), "found `{message}`\n  expected `{expected}`");
    }
}

#[test]
fn result_that_does_not_match_its_type_is_invalid() {
    for answer in [
        json!({ "body": "three" }),
        json!({ "body": -1 }),
        json!({ "body": "" }),
        json!({ "body": "3 4" }),
        json!({ "body": "3", "type": "text/plain" }),
        json!({ "body": "3", "type": "application/x-postcard" }),
        json!({ "status": 500, "body": { "message": "NaN", "statusCode": 500 } }),
    ] {
        let plugins = Plugins::new();
        let (_host, lines) = lines(&plugins, answer.clone());
        for result in [lines.count(""), lines.pooled().count(""), lines.pin().unwrap().count("")] {
            assert_eq!(result.unwrap_err().kind(), CallErrorKind::InvalidOutput, "{answer}");
        }
    }
}

#[test]
fn message_of_an_invalid_result_is_short_and_states_each_cause_once() {
    let plugins = Plugins::new();
    let (_host, lines) =
        lines(&plugins, json!({ "body": Value::from("x".repeat(1 << 20)).to_string() }));
    for result in [lines.count(""), lines.pooled().count("")] {
        let error = result.unwrap_err();
        let message = error.full_message();
        assert_eq!(message, Error::from(error).full_message());
        assert!(message.len() < 20_000, "{} bytes", message.len());
        let expected = "plugin `lines` returned a result of method `count` that does not match its \
                        type: ";
        assert!(message.starts_with(expected), "{message}");
        assert_eq!(message.matches("does not match its type").count(), 1, "{message}");
        assert!(message.contains("invalid type: string \"xxx"), "{message}");
    }
}

#[test]
fn rejected_calls_of_a_method_differ_from_its_errors() {
    let rejected = |status: u16| json!({ "status": status, "body": { "message": "no", "statusCode": status } });
    let own = json!({ "status": 422, "body": { "code": 404, "message": "no" } });
    for (answer, kind) in [
        (rejected(400), ErrorKind::InvalidInput),
        (rejected(404), ErrorKind::Protocol),
        (rejected(412), ErrorKind::Protocol),
        (rejected(415), ErrorKind::Protocol),
        (rejected(409), ErrorKind::Plugin),
        (own, ErrorKind::Plugin),
        (json!({ "status": 204 }), ErrorKind::Protocol),
    ] {
        let plugins = Plugins::new();
        let (_host, lines) = lines(&plugins, answer.clone());
        for error in [lines.count("").unwrap_err(), lines.pooled().count("").unwrap_err()] {
            let error = Error::from(error);
            assert_eq!(error.kind(), kind, "{answer}: {}", error.full_message());
        }
        // The program serves version 1.0, so the default body runs.
        assert_eq!(lines.first("a\nb").unwrap(), "a");
    }
}

#[test]
fn method_calls_continue_with_the_next_process() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).quarantine(None).build().unwrap();
    let answers = json!([{ "body": 3 }, { "how": "exit", "code": 1 }]);
    let serve = json!({ "contract/lines/count": answers });
    let folder = scripted(&plugins, json!([{ "text": LINES }]), serve).install();
    loaded(&host, &folder);
    let lines = host.contract::<dyn Lines>("lines").unwrap();
    let pinned = lines.pin().unwrap();
    let mut events = host.events();
    assert_eq!(lines.count("").unwrap(), 3);
    // It may have run, so it is not repeated.
    let error = Error::from(lines.count("").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{}", error.full_message());
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    assert_eq!(pinned.count("").unwrap(), 3);
    let error = Error::from(lines.pooled().count("").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{}", error.full_message());
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    let serve = json!({ "contract/lines/count": { "body": 4 } });
    set_behavior(&folder, &behavior(json!([{ "text": LINES }]), serve));
    block_on(host.unload("lines")).unwrap();
    loaded(&host, &folder);
    assert_eq!(host.contract::<dyn Lines>("lines").unwrap().count("").unwrap(), 4);
}
