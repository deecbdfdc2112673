//! Contracts that a manifest maps onto endpoints of a program that knows no contracts.

use std::collections::BTreeMap;

use hotbay::contract::{CallError, CallErrorKind, Stream};
use hotbay::{ErrorKind, Host, LoadStep};
use hotbay_tests::{Plugins, ProgramFolder, block_on, host, loaded, refused};
use serde_json::{Value, json};

/// A contract of the application.
#[hotbay_plugin::contract(name = "mapped", version = "1.1")]
trait Mapped {
    fn echo(&self, text: &str) -> Result<String, CallError>;
    fn sum(&self, a: u32, b: Option<u32>) -> Result<BTreeMap<String, Option<u32>>, CallError>;
    fn store(&self, key: &str) -> Result<(), CallError>;
    async fn later(&self, text: String) -> Result<String, CallError>;
    #[since("1.1")]
    fn newest(&self) -> Result<u32, CallError>;
    #[since("1.1")]
    fn doubled(&self, text: &str) -> Result<String, CallError> {
        self.echo(&text.repeat(2))
    }
}

/// The same name with a stream, which no endpoint serves.
#[hotbay_plugin::contract(name = "mapped", version = "1.0")]
trait Streaming {
    fn echo(&self, text: &str) -> Result<Stream<u32>, CallError>;
}

fn all_methods() -> Value {
    json!({
        "echo": { "endpoint": "execute", "body": "text" },
        "sum": { "endpoint": "execute" },
        "store": { "endpoint": "store" },
        "later": { "endpoint": "execute", "body": "text" },
    })
}

fn provides(version: &str, methods: Value) -> Value {
    json!([{ "contract": "mapped", "version": version, "methods": methods }])
}

/// Returns a program of the older dialect whose endpoint `store` answers so.
fn program(plugins: &Plugins, store: Value) -> ProgramFolder {
    let capabilities = json!({ "dialect": "older", "json": { "types": {} } });
    let serve = json!({
        "needs_no_token": true, "conforms": true, "exit_code": 1, "leaves_lock": true,
        "store": store,
    });
    let program = ProgramFolder::new(plugins.dir(), "old").set("package", "program");
    program.behavior(json!({ "capabilities": capabilities, "serve": serve }))
}

fn host_with(plugins: &Plugins, store: Value) -> Host {
    let host = host(plugins);
    loaded(
        &host,
        program(plugins, store).set("provides", provides("1.0.0", all_methods())).install(),
    );
    host
}

fn check(mapped: &impl Mapped) {
    assert_eq!(mapped.echo("a \"b\"").unwrap(), "a \"b\"");
    let sent = mapped.sum(1, None).unwrap();
    assert_eq!(sent.get("a"), Some(&Some(1)));
    assert_eq!(mapped.sum(1, Some(2)).unwrap()["b"], Some(2));
    mapped.store("key").unwrap();
    assert_eq!(block_on(mapped.later("b".to_owned())).unwrap(), "b");
    assert_eq!(mapped.doubled("ab").unwrap(), "abab");
    let error = mapped.newest().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NotProvided, "{error}");
}

#[test]
fn endpoints_serve_methods() {
    let plugins = Plugins::new();
    // An empty response means `null`.
    let host = host_with(&plugins, json!({ "type": "text/plain", "body": "" }));
    let mapped = host.contract::<dyn Mapped>("old").unwrap();
    check(&mapped);
    check(&mapped.pin().unwrap());
    check(&mapped.pooled());
    check(&host.providers_of::<dyn Mapped>().unwrap());
    let plugins = Plugins::new();
    let host = host_with(&plugins, json!({ "status": 204, "body": "" }));
    host.contract::<dyn Mapped>("old").unwrap().store("key").unwrap();
}

#[test]
fn errors_of_endpoints_are_those_of_the_plugin() {
    for (store, kind, expected) in [
        (
            json!({ "status": 404, "body": { "message": "no such key", "statusCode": 404 } }),
            CallErrorKind::Plugin,
            "no such key",
        ),
        (
            json!({ "status": 409, "type": "text/plain", "body": "exists" }),
            CallErrorKind::Plugin,
            "exists",
        ),
        (json!({ "type": "text/html", "body": "<p>" }), CallErrorKind::InvalidOutput, "text/html"),
        (json!({ "body": "{" }), CallErrorKind::InvalidOutput, "expected"),
        (json!({ "body": 7 }), CallErrorKind::InvalidOutput, "7"),
    ] {
        let plugins = Plugins::new();
        let host = host_with(&plugins, store);
        let mapped = host.contract::<dyn Mapped>("old").unwrap();
        for error in [mapped.store("").unwrap_err(), mapped.pooled().store("").unwrap_err()] {
            assert_eq!(error.kind(), kind, "{error}");
            let message = hotbay::Error::from(error).full_message();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(mapped.echo("still").unwrap(), "still");
    }
}

#[test]
fn incompatible_mapping_is_refused() {
    let without_store = {
        let mut methods = all_methods();
        methods.as_object_mut().unwrap().remove("store");
        methods
    };
    let mut other_body = all_methods();
    other_body["sum"] = json!({ "endpoint": "execute", "body": "b" });
    for (version, methods, expected) in [
        ("2.0.0", all_methods(), "found version 2.0, expected 1.1"),
        (
            "1.0.0",
            without_store,
            "method `store`: missing in the plugin, which serves version 1.0 of the contract",
        ),
        ("1.0.0", other_body, "found:    endpoint `execute`, body `b`"),
    ] {
        let plugins = Plugins::new();
        let program = program(&plugins, json!({}));
        let folder = program.set("provides", provides(version, methods)).install();
        // If the application has not named the contract, it is refused at its first use.
        let first = host(&plugins);
        loaded(&first, &folder);
        let error = first.contract::<dyn Mapped>("old").map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.full_message().contains(expected), "{}", error.full_message());
        let hint = error.hint().unwrap().to_owned();
        assert!(hint.contains("`methods`") && hint.contains("maps `echo`, "), "{hint}");
        // Otherwise before the program is started.
        let builder = Host::builder().plugin_dir(plugins.dir()).contract::<dyn Mapped>();
        let second = builder.build().unwrap();
        let error = refused(&second, &folder);
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert_eq!(error.step(), Some(LoadStep::Capabilities));
        assert!(error.full_message().contains(expected), "{}", error.full_message());
        assert_eq!(error.hint(), Some(hint.as_str()));
    }
}

#[test]
fn endpoint_serves_no_stream() {
    let plugins = Plugins::new();
    let host = host_with(&plugins, json!({}));
    let error = host.contract::<dyn Streaming>("old").map(drop).unwrap_err();
    let message = error.full_message();
    assert!(message.contains("it returns a value, expected a stream"), "{message}");
}

#[test]
fn endpoint_that_the_program_does_not_declare_is_refused() {
    let plugins = Plugins::new();
    let program = ProgramFolder::new(plugins.dir(), "old").set("package", "program");
    let folder = program.set("provides", provides("1.0.0", all_methods())).install();
    let message = refused(&host(&plugins), folder).full_message();
    assert!(message.contains("onto the endpoint `store`, which the program does not"), "{message}");
}

#[test]
fn program_that_describes_the_contract_needs_no_mapping() {
    let plugins = Plugins::new();
    let contracts = json!([{ "text": "contract mapped 1.0\nfn echo(text: string) -> string" }]);
    let program = ProgramFolder::new(plugins.dir(), "old").set("package", "program");
    let program =
        program.behavior(json!({ "capabilities": { "hotbay": { "contracts": contracts } } }));
    let folder = program.set("provides", provides("1.0.0", all_methods())).install();
    let error = refused(&host(&plugins), folder);
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    let message = error.full_message();
    assert!(message.contains("which the program describes itself"), "{message}");
}

/// The contract of the example in `PROTOCOL.md`.
#[hotbay_plugin::contract(name = "words", version = "1.0")]
trait Words {
    fn count(&self, text: &str) -> Result<u64, CallError>;
}

#[cfg(unix)]
#[test]
fn example_of_the_protocol_serves_its_contract() {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    if !hotbay_tests::has_interpreter("python3") {
        return;
    }
    let page = include_str!("../../../plugin-api/PROTOCOL.md");
    let (_, section) = page.split_once("## 9. ").expect("the section");
    let block = |language: &str| {
        let (_, after) = section.split_once(&format!("```{language}\n")).expect("a block");
        after.split_once("```").expect("its end").0
    };
    let plugins = Plugins::new();
    let folder = plugins.dir().join("words");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("plugin.json"), block("json")).unwrap();
    fs::write(folder.join("words.py"), block("python")).unwrap();
    fs::set_permissions(folder.join("words.py"), fs::Permissions::from_mode(0o755)).unwrap();
    let builder = Host::builder().plugin_dir(plugins.dir()).allow_unverified(true);
    let host = builder.contract::<dyn Words>().build().unwrap();
    loaded(&host, folder);
    let words = host.contract::<dyn Words>("words").unwrap();
    assert_eq!(words.count("to be or not to be").unwrap(), 6);
    let error = words.count("").unwrap_err();
    assert_eq!(error.plugin_error().map(|own| own.message()), Some("no text"));
    assert_eq!(error.to_string(), "plugin `words` returned an error");
    let expected = "plugin `words` returned an error: no text (code 422)";
    assert_eq!(error.full_message(), expected);
}
