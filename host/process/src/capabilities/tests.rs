//! Valid and invalid capabilities of every dialect.

use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, Engine as _};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn offered(group: &str, name: &str, aliases: &[&str], schema: Option<Value>) -> Offered {
    let aliases = aliases.iter().map(|&alias| alias.to_owned()).collect();
    Offered { group: group.to_owned(), name: name.to_owned(), aliases, schema }
}

fn parsed(value: &Value) -> Capabilities {
    Capabilities::parse(value.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// Asserts that the error for `text` begins with `expect`.
fn check_wrong(text: &[u8], expect: &str) {
    match Capabilities::parse(text) {
        Ok(found) => panic!("{} is accepted as {found:?}", String::from_utf8_lossy(text)),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(expect), "found `{message}`\n  expected `{expect}`");
        }
    }
}

fn check_rejected(value: &Value, expect: &str) {
    check_wrong(value.to_string().as_bytes(), expect);
}

#[test]
fn ours_is_parsed_with_all_fields() {
    let found = parsed(&json!({
        "hotbay": {
            "protocol": 1, "name": "json-query", "version": "0.1.0",
            "endpoints": ["execute", "snapshot", "restore", "batch", "v1/own"],
            "config": ["env", "moon"], "configSchema": {"type": "object"}, "inputSchema": true,
            "upgrades": ["later/2", "hotbay-frames/1"], "later": 1,
        },
        "types": {"repository": [{"type": "OCI/v1"}]},
    }));
    let endpoints = ["execute", "snapshot", "restore", "batch", "v1/own"].map(str::to_owned);
    let expect = Capabilities {
        dialect: Dialect::Ours { protocol: 1 },
        types: vec![offered("repository", "OCI/v1", &[], None)],
        config_types: vec![],
        contracts: vec![],
        endpoints: endpoints.into(),
        has_frames: true,
        reads_config_from_env: true,
        reads_config_from_file: false,
        config_schema: Some(json!({"type": "object"})),
        input_schema: Some(json!(true)),
        name: Some("json-query".to_owned()),
        version: Some("0.1.0".to_owned()),
    };
    assert_eq!(found, expect);
}

#[test]
fn ours_needs_only_a_protocol_and_one_endpoint() {
    for endpoint in ["execute", "own"] {
        let found = parsed(&json!({"hotbay": {"protocol": 1, "endpoints": [endpoint]}}));
        let expect = Capabilities {
            endpoints: [endpoint.to_owned()].into(),
            ..Capabilities::empty(Dialect::Ours { protocol: 1 })
        };
        assert_eq!(found, expect);
    }
}

#[test]
fn older_dialect_is_parsed() {
    let found = parsed(&json!({
        "types": {"a": [{"type": "x", "jsonSchema": "e30="}, {"type": "y"}], "b": null, "c": []},
        "configTypes": ["t"],
    }));
    let expect = Capabilities {
        types: vec![offered("a", "x", &[], Some(json!({}))), offered("a", "y", &[], None)],
        config_types: vec!["t".to_owned()],
        ..Capabilities::empty(Dialect::Older)
    };
    assert_eq!(found, expect);
    assert_eq!(parsed(&json!({"types": {}})), Capabilities::empty(Dialect::Older));
}

#[test]
fn newer_dialect_is_parsed_with_every_list_of_types() {
    let found = parsed(&json!({
        "capabilities": [
            {"type": "repository", "supportedRepositorySpecTypes":
                [{"type": "OCI/v1", "aliases": ["OCI", "o"], "jsonSchema": {"a": 1}}]},
            {"type": "credentials", "other": 1, "supportedConsumerTypes": [{"type": "I", "aliases": null}],
                "supportedStoreTypes": null},
        ],
        "supportedConfigTypes": ["T/v1"],
    }));
    let expect = Capabilities {
        types: vec![
            offered("repository", "OCI/v1", &["OCI", "o"], Some(json!({"a": 1}))),
            offered("credentials", "I", &[], None),
        ],
        config_types: vec!["T/v1".to_owned()],
        ..Capabilities::empty(Dialect::Newer)
    };
    assert_eq!(found, expect);
}

#[test]
fn schema_is_parsed_in_three_forms() {
    let (schema, text) = (json!({"type": "object", "x": "?>"}), r#" {"type":"object","x":"?>"} "#);
    let cases = [
        (schema.clone(), Some(schema.clone())),
        (json!(text), Some(schema.clone())),
        (json!(BASE64_STANDARD.encode(text)), Some(schema.clone())),
        (json!(BASE64_STANDARD_NO_PAD.encode(text)), Some(schema)),
        (json!(BASE64_STANDARD.encode("true")), Some(json!(true))),
        (json!(false), Some(json!(false))),
        (json!(BASE64_STANDARD.encode("null")), None),
        (json!(""), None),
        (json!(null), None),
    ];
    for (given, expect) in cases {
        let found = parsed(&json!({"types": {"a": [{"type": "x", "jsonSchema": given}]}}));
        assert_eq!(found.types[0].schema, expect, "{given}");
    }
}

#[test]
fn invalid_schema_is_reported_with_its_form() {
    let check = |given: Value, expect: &str| {
        check_rejected(
            &json!({"types": {"a": [{"type": "x", "jsonSchema": given}]}}),
            &format!("`types.a[0].jsonSchema` {expect}"),
        );
        let ours = json!({"protocol": 1, "endpoints": ["execute"], "configSchema": given});
        check_rejected(&json!({"hotbay": ours}), &format!("`hotbay.configSchema` {expect}"));
        let ours = json!({"protocol": 1, "endpoints": ["execute"], "inputSchema": given});
        check_rejected(&json!({"hotbay": ours}), &format!("`hotbay.inputSchema` {expect}"));
    };
    check(json!(7), "is 7; expected a JSON Schema");
    check(json!([]), "is a list; expected");
    check(json!("a b"), "is \"a b\", which is neither JSON nor base64: Invalid");
    check(json!("{\"a\""), "is a string with \"{\\\"a\\\"\", which is not JSON: EOF");
    check(json!(BASE64_STANDARD.encode("oops")), "is base64 of \"oops\", which is not JSON: exp");
    check(json!(BASE64_STANDARD.encode("[1]")), "is base64 of \"[1]\", which is not a schema; exp");
}

#[test]
fn output_that_is_not_only_json_is_shown() {
    let printed = "the output of the command `capabilities` ";
    let check = |text: &[u8], expect: &str| check_wrong(text, &format!("{printed}{expect}"));
    check(b"", "is empty; expected a JSON object");
    check(b" \n", "is empty");
    check(
        b"Loading\n{\"types\":{}}",
        "has text that is not JSON: \"Loading\\n{\\\"types\\\":{}}\"",
    );
    check(b"{\"types\":{}}\nDone", "has text after the JSON: \"Done\"; expected only JSON");
    check(b"12:30 up {\"types\":{}}", "has text that is not JSON: \"12:30 up");
    check(b"\x1b[0m{\"types\":{}}", "has text that is not JSON: \"\\u{1b}[0m{");
    check(b"\xff{}", "has text that is not JSON: \"\u{fffd}{}\"");
    check(
        "x".repeat(99).as_bytes(),
        &format!("has text that is not JSON: \"{}…\"", "x".repeat(80)),
    );
    check(b"{\"types\":", "is not JSON: EOF while parsing a value at line 1 column 9");
    check("{\"a\":".repeat(999).as_bytes(), "is not JSON: recursion limit exceeded");
    check(
        &vec![b' '; MAX_CAPABILITIES_BYTES + 1],
        "is 1048577 bytes long; expected at most 1048576",
    );
    for (value, found) in [
        (json!([]), "is a list"),
        (json!(1), "is 1"),
        (json!("a"), "is \"a\""),
        (json!({}), "has no fields"),
        (json!({"type": 1, "x": 2}), "has only \"type\", \"x\""),
    ] {
        let expected = "expected an object with `hotbay`, `capabilities` or `types`";
        check_rejected(&value, &format!("{printed}{found}; {expected}"));
    }
    let surrounded = Capabilities::parse(b"\r\n\t {\"types\":{}} \n\n");
    assert_eq!(surrounded, Ok(Capabilities::empty(Dialect::Older)));
}

#[test]
fn every_invalid_field_of_ours_is_reported() {
    let check = |field: &str, value: Value, expect: &str| {
        let mut ours = json!({"protocol": 1, "endpoints": ["execute"]});
        match value {
            Value::String(text) if text == "(missing)" => {
                ours.as_object_mut().unwrap().remove(field);
            }
            value => ours[field] = value,
        }
        check_rejected(&json!({"hotbay": ours}), &format!("`hotbay.{field}{expect}"));
    };
    let speaks = "expected 1, the version that this host speaks";
    check("protocol", json!("(missing)"), &format!("` is missing; {speaks}"));
    check("protocol", json!(0), &format!("` is 0; {speaks}"));
    check("protocol", json!(2), &format!("` is 2; {speaks}"));
    check("protocol", json!(-1), &format!("` is -1; {speaks}"));
    check("protocol", json!(1.5), &format!("` is 1.5; {speaks}"));
    check("protocol", json!("1"), &format!("` is \"1\"; {speaks}"));
    check("protocol", json!(null), &format!("` is null; {speaks}"));
    check("endpoints", json!("(missing)"), "` is missing; expected a list of endpoints with `exec");
    check("endpoints", json!(null), "` is null; expected");
    check("endpoints", json!({}), "` is an object; expected");
    check("endpoints", json!([]), "` is empty; expected a list of endpoints with `execute`");
    check("endpoints", json!(["batch", "restore"]), "` has only `batch`, `restore`; expected");
    check("endpoints", json!(["execute", 1]), "[1]` is 1; expected the name of an endpoint");
    for odd in ["/execute", "a/", "a b", "a?b", "a#", "", "a\n"] {
        check("endpoints", json!([odd]), &format!("[0]` is {odd:?}; expected the name of an"));
    }
    check("config", json!("env"), "` is \"env\"; expected a list such as [\"env\", \"file\"]");
    check("config", json!([true]), "[0]` is true; expected a name");
    check("name", json!(1), "` is 1; expected the name of the plugin");
    check("name", json!(""), "` is \"\"; expected the name of the plugin");
    check("version", json!([]), "` is a list; expected the version");
    check_rejected(&json!({"hotbay": 1}), "`hotbay` is 1; expected an object with `protocol`");
    check_rejected(&json!({"hotbay": null}), "`hotbay` is null; expected an object");
    let ours = json!({"protocol": 1, "endpoints": ["execute"]});
    check_rejected(
        &json!({"hotbay": ours, "types": []}),
        "`types` is a list; expected an object of",
    );
}

#[test]
fn every_invalid_field_of_the_older_dialects_is_reported() {
    let older = |types: Value, expect: &str| check_rejected(&json!({"types": types}), expect);
    older(json!(1), "`types` is 1; expected an object of lists");
    older(json!({"a": {}}), "`types.a` is an object; expected a list of types");
    older(json!({"a": ["x"]}), "`types.a[0]` is \"x\"; expected a type: an object with `type`");
    older(json!({"a": [{}]}), "`types.a[0].type` is missing; expected the name of a type");
    older(json!({"a b": [{"type": 1}]}), "`types.\"a b\"[0].type` is 1; expected");
    older(json!({"": []}), "`types.\"\"` has an empty name; expected the kind of plugin");
    let configs = json!({"types": {}, "configTypes": {}});
    check_rejected(&configs, "`configTypes` is an object; expected a list of config types");
    check_rejected(
        &json!({"types": {}, "configTypes": [1]}),
        "`configTypes[0]` is 1; expected a name",
    );

    let newer = |list: Value, expect: &str| check_rejected(&json!({"capabilities": list}), expect);
    newer(json!({}), "`capabilities` is an object; expected a list of capabilities");
    newer(json!([1]), "`capabilities[0]` is 1; expected a capability: an object");
    newer(json!([{"supportedXTypes": []}]), "`capabilities[0].type` is missing; expected the name");
    newer(json!([{"type": "a"}]), "`capabilities[0]` has no list whose name is `supported…Types`");
    let one = |list: Value| json!([{"type": "a", "supportedXTypes": list}]);
    let at = "`capabilities[0].supportedXTypes";
    newer(one(json!("x")), &format!("{at}` is \"x\"; expected a list of types"));
    newer(
        one(json!([{"type": ""}])),
        &format!("{at}[0].type` is \"\"; expected the name of a type"),
    );
    let aliases = |aliases: Value| one(json!([{"type": "x", "aliases": aliases}]));
    newer(aliases(json!("y")), &format!("{at}[0].aliases` is \"y\"; expected a list of names, or"));
    newer(aliases(json!(["y", null])), &format!("{at}[0].aliases[1]` is null; expected a name"));
    let configs = json!({"capabilities": [], "supportedConfigTypes": [{}]});
    check_rejected(&configs, "`supportedConfigTypes[0]` is an object; expected a name");
}

#[test]
fn types_and_names_are_limited() {
    let types = |count: usize| vec![json!({"type": "x"}); count];
    assert_eq!(parsed(&json!({"types": {"a": types(1_024)}})).types.len(), 1_024);
    let one_list = json!({"types": {"a": types(1_025)}});
    check_rejected(&one_list, "`types.a` has 1025 entries; expected at most 1024");
    let two_lists = json!({"types": {"a": types(1_024), "b": types(1)}});
    check_rejected(&two_lists, "`types.b[0]` is type 1025; expected at most 1024 types in all");
    let aliased = json!({"type": "x", "aliases": vec!["y"; 600]});
    let aliases = json!({"types": {"a": [aliased], "b": [aliased]}});
    check_rejected(
        &aliases,
        "`types.b` brings the number of aliases to 1200; expected at most 1024 aliases in all",
    );
    let (fits, too_long) = ("é".repeat(128), "é".repeat(128) + "x");
    assert_eq!(parsed(&json!({"types": {&*fits: [{"type": fits}]}})).types[0].name, fits);
    let named = json!({"types": {"a": [{"type": too_long}]}});
    check_rejected(&named, "`types.a[0].type` has a name of 257 bytes; expected at most 256");
    let grouped = json!({"types": {&*too_long: []}});
    check_rejected(&grouped, &format!("`types.\"{}…\"` has a name of 257 bytes", "é".repeat(40)));
}

/// Generates JSON from the keys of all dialects.
fn likely() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 12] = [
        "hotbay",
        "protocol",
        "endpoints",
        "capabilities",
        "types",
        "type",
        "aliases",
        "a",
        "supportedXTypes",
        "jsonSchema",
        "config",
        "configTypes",
    ];
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(1)),
        Just(json!("execute")),
        Just(json!("e30=")),
        "\\PC{0,5}".prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let key = prop::sample::select(&KEYS[..]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((key, inner), 0..6).prop_map(|pairs| {
                let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
                Value::Object(pairs.collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn parse_never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Capabilities::parse(&bytes);
    }

    #[test]
    fn parse_never_panics_on_json(value in likely()) {
        if let Err(error) = Capabilities::parse(value.to_string().as_bytes()) {
            prop_assert!(error.to_string().len() < 1_000);
        }
    }
}

#[test]
fn capabilities_of_the_sdk_are_parsed() {
    let hotbay = hotbay_protocol::OwnCapabilities {
        config: &["env", "file"],
        config_schema: Some(json!({ "type": "object" })),
        contracts: vec![hotbay_protocol::ContractBody {
            postcard: true,
            text: "contract a 1.0\nfn f() -> u64\n".to_owned(),
        }],
        endpoints: vec!["execute", "batch"],
        input_schema: Some(json!(true)),
        name: "rows",
        protocol: VERSION,
        upgrades: &[frame::UPGRADE],
        version: "0.1.0",
    };
    let text = serde_json::to_vec(&hotbay_protocol::Capabilities { hotbay }).unwrap();
    let text_of_a = ContractText::parse("contract a 1.0\nfn f() -> u64\n").unwrap().remove(0);
    let expected = Capabilities {
        contracts: vec![ServedContract { text: text_of_a, accepts_postcard: true }],
        endpoints: ["batch", "execute"].map(str::to_owned).into(),
        has_frames: true,
        reads_config_from_env: true,
        reads_config_from_file: true,
        config_schema: Some(json!({ "type": "object" })),
        input_schema: Some(json!(true)),
        name: Some("rows".to_owned()),
        version: Some("0.1.0".to_owned()),
        ..Capabilities::empty(Dialect::Ours { protocol: VERSION })
    };
    assert_eq!(Capabilities::parse(&text), Ok(expected));
}

#[test]
fn contracts_are_parsed_and_limited() {
    let of = |contracts: Value| json!({"hotbay": {"protocol": 1, "endpoints": ["execute"], "contracts": contracts}});
    let a = "contract a 1.0\nfn f(n: u32) -> u64";
    let found = parsed(&of(json!([
        {"text": a, "postcard": true},
        {"text": "contract b 2.1\n", "later": 1},
    ])));
    let names: Vec<_> = found.contracts.iter().map(|found| found.text.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(found.contracts[0].text.methods[0].signature, "fn f(n: u32) -> u64");
    let accepts: Vec<_> = found.contracts.iter().map(|found| found.accepts_postcard).collect();
    assert_eq!(accepts, [true, false]);
    assert_eq!(parsed(&of(Value::Null)).contracts, []);

    let long = format!("contract a 1.0\n//{}", "x".repeat(64 << 10));
    let name = format!("contract {} 1.0", "a".repeat(300));
    for (contracts, expect) in [
        (json!("a"), "`hotbay.contracts` is \"a\"; expected a list of contracts"),
        (json!([a]), "`hotbay.contracts[0]` is "),
        (json!([{"text": 7}]), "`hotbay.contracts[0].text` is 7; expected the text of one"),
        (
            json!([{"text": a, "postcard": 1}]),
            "`hotbay.contracts[0].postcard` is 1; expected `true` or `false`",
        ),
        (
            json!([{"text": format!("{a}\ncontract b 1.0")}]),
            "`hotbay.contracts[0].text` describes 2 contracts; expected the text of one",
        ),
        (
            json!([{"text": a}, {"text": a}]),
            "`hotbay.contracts[1]` describes `a` again; expected each contract once",
        ),
        (
            json!([{"text": long}]),
            "`hotbay.contracts[0].text` is invalid at line 1, column 1; expected at most 64 KiB",
        ),
        (json!([{"text": name}]), "`hotbay.contracts[0].text` has a name of 300 bytes; expected"),
        (
            json!([{"text": "contract a 1.0\nfn größe() -> u64"}]),
            "`hotbay.contracts[0].text` has a method \"größe\"; expected names in ASCII",
        ),
    ] {
        check_rejected(&of(contracts), expect);
    }
}
