//! Every kind of mistake in the shape of a manifest, with its exact message.

use serde_json::json;

use super::*;

const FILE: &str = "plugin.json";

pub(super) fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text, Path::new(FILE))
}

/// Asserts that `text` is rejected with this message.
pub(super) fn check(text: &str, expect: &str) {
    let message =
        parse(text).map(|_| "accepted".to_owned()).unwrap_or_else(|error| error.to_string());
    assert_eq!(message, expect, "{text}");
}

/// Asserts that a valid manifest with `line` as its line 2 is rejected with this message.
pub(super) fn check_line(line: &str, expect: &str) {
    let text = format!("{{\"name\": \"echo\", \"version\": \"1.0.0\", \"api\": \"^1\",\n{line}}}");
    check(&text, &format!("{FILE}:{expect}"));
}

#[test]
fn manifest_with_every_field_is_parsed() {
    let sha256 = "0a".repeat(32);
    let text = format!(
        r#"{{
        "$schema": "../plugin.schema.json", "x-note": ["anything"],
        "name": "echo-loud", "package": "echo", "version": "1.2.3-rc.1", "api": ">=1.1, <3",
        "kind": "library", "library": "echo_v1", "isolation": "process", "description": "Echoes \ud83d\ude00.",
        "authors": ["A", "B"], "license": "MIT", "homepage": "https://example.com",
        "config": {{ "x-a": {{ "$schema": null }}, "b": [1, -2.5, true, null] }},
        "config_schema": "schema.json", "input_schema": {{ "type": ["object"] }},
        "provides": [{{ "contract": "echo", "version": "2.0.0", "x-since": 1 }}],
        "requires": {{ "x-ray": "^1", "clock": "~2.1" }},
        "limits": {{ "deadline_ms": 1, "workers": 2, "queue": 3, "in_flight": 4,
            "memory_bytes": 5, "call_memory_bytes": 6, "input_bytes": 7, "output_bytes": 8,
            "stack_bytes": 9, "open_streams": 10 }},
        "handover": "stop-first", "unload": "keep", "permissions": ["log", "call:clock", "db.read"],
        "sha256": "{sha256}", "length": 42
    }}"#
    );
    let manifest = parse(&text).unwrap();
    assert_eq!(manifest.name().as_str(), "echo-loud");
    assert_eq!(manifest.package(), "echo");
    assert_eq!(manifest.version().to_string(), "1.2.3-rc.1");
    assert_eq!(manifest.api().to_string(), ">=1.1, <3");
    assert_eq!(manifest.kind(), Kind::Library);
    assert_eq!(manifest.library_stem().as_deref(), Some("echo_v1"));
    assert_eq!(manifest.isolation(), Isolation::Process);
    assert!(manifest.command().is_empty());
    assert_eq!(manifest.description(), Some("Echoes 😀."));
    assert_eq!(manifest.authors(), ["A", "B"]);
    assert_eq!(manifest.license(), Some("MIT"));
    assert_eq!(manifest.homepage(), Some("https://example.com"));
    let config = json!({ "x-a": { "$schema": null }, "b": [1, -2.5, true, null] });
    assert_eq!(manifest.config(), &config);
    assert_eq!(manifest.config_schema(), Some(&ConfigSchema::File("schema.json".to_owned())));
    assert_eq!(manifest.provides()[0].contract, "echo");
    let inline = ConfigSchema::Inline(json!({ "type": ["object"] }));
    assert_eq!(manifest.input_schema(), Some(&inline));
    assert_eq!(
        manifest.requires().keys().map(PluginName::as_str).collect::<Vec<_>>(),
        ["clock", "x-ray"]
    );
    assert_eq!(
        manifest.limits().entries().map(|(_, number)| number.unwrap()),
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    );
    assert_eq!((manifest.handover(), manifest.unload()), (Handover::StopFirst, Unload::Keep));
    assert_eq!(manifest.permissions().len(), 3);
    assert_eq!(manifest.sha256().map(Digest::to_string), Some(sha256));
    assert_eq!(manifest.length(), Some(42));
    assert_eq!(parse(&manifest.to_json().to_string()), Ok(manifest));
}

#[test]
fn omitted_fields_have_their_defaults() {
    let text = "\u{feff}{\"name\": \"my-echo\", \"version\": \"1.0.0\", \"api\": \"*\"}";
    let manifest = parse(text).unwrap();
    assert_eq!(manifest, Manifest::new("my-echo", "1.0.0").unwrap());
    assert_eq!(manifest.package(), "my-echo");
    assert_eq!(manifest.library_stem().as_deref(), Some("my_echo"));
    assert_eq!(manifest.config(), &json!({}));
}

#[test]
fn text_that_is_not_strict_json_is_rejected() {
    check("", "plugin.json:1:1: the manifest is not JSON: the text is empty");
    check("\u{feff}", "plugin.json:1:1: the manifest is not JSON: the text is empty");
    check("{\n  // why\n}", "plugin.json:2:3: the manifest is not JSON: comments are not allowed");
    check(
        "{\"a\": 1,\n}",
        "plugin.json:1:8: the manifest is not JSON: trailing commas are not allowed",
    );
    check(
        "{\"ä\": 'b'}",
        "plugin.json:1:7: the manifest is not JSON: single-quoted strings are not allowed",
    );
    check("{\"a\": 1 \"b\": 2}", "plugin.json:1:8: the manifest is not JSON: expected comma");
    check("{\"a\": tru}", "plugin.json:1:7: the manifest is not JSON: unexpected token");
    check("{\"a\": 01}", "plugin.json:1:8: the manifest is not JSON: expected comma");
    check(
        "{\"a\":\n \"ä\u{1}\"}",
        "plugin.json:2:4: the manifest is not JSON: control character (\\u0000-\\u001F) found while parsing a string",
    );
    check(
        "{}\n{}",
        "plugin.json:2:1: the manifest is not JSON: text cannot contain more than one JSON value",
    );
    check("[\"a\"]", "plugin.json:1:1: the manifest is a list; expected an object");
    check(" null", "plugin.json:1:2: the manifest is null; expected an object");
}

#[test]
fn too_long_or_too_deep_text_is_rejected_unparsed() {
    let long = " ".repeat(MAX_MANIFEST_BYTES + 1);
    check(&long, "plugin.json: the manifest is 1048577 bytes long; expected at most 1048576");
    let deep = |depth| format!("{{\"config\":\n{}", "[".repeat(depth));
    check(&deep(500_000), "plugin.json:2:64: the manifest is nested deeper than 64 levels");
    let within = format!(
        "{{\"name\": \"a\", \"version\": \"1.0.0\", \"api\": \"*\", \"config\": {{\"a\": \"{}\"}}}}",
        "[\\\"{".repeat(100)
    );
    assert!(parse(&within).is_ok());
    let list = format!("{}{}", "[".repeat(62), "]".repeat(62));
    let text = format!(
        "{{\"name\": \"a\", \"version\": \"1.0.0\", \"api\": \"*\", \"config\": {{\"a\": {list}}}}}"
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn duplicate_key_is_rejected_at_any_depth() {
    check(
        "{\"name\": 1,\n\n\"n\\u0061me\": 2}",
        "plugin.json:3:1: `name` is set twice, on lines 1 and 3",
    );
    check_line(
        r#""config": {"list": [0, {"a b": 1, "a b": 1}]}"#,
        "2:35: `config.list[1][\"a b\"]` is set twice, on lines 2 and 2",
    );
}

#[test]
fn unknown_field_is_rejected() {
    check_line("\"verison\": 1", "2:1: `verison` is not a known field");
    check_line("\"Kind\": \"library\"", "2:1: `Kind` is not a known field");
    check(
        r#"{"name": "echo", "version": "1.0.0", "api": "^1",
            "limits": {"x-a": 1, "wait_max": 5, "deadline-ms": 5}}"#,
        "plugin.json has 2 mistakes:\n  2:34: `limits.wait_max` is not a known field; expected one of \
         `deadline_ms`, `workers`, `queue`, `in_flight`, `memory_bytes`, \
         `call_memory_bytes`, `input_bytes`, \
         `output_bytes`, `stack_bytes`, `open_streams`\n  2:49: `limits.deadline-ms` is not a known field",
    );
    check_line(
        r#""provides": [{"contract": "a", "versions": "1.0.0"}]"#,
        "2:32: `provides[0].versions` is not a known field",
    );
}

#[test]
fn endpoints_of_methods_are_parsed_and_mistakes_reported() {
    let manifest = |kind: &str, methods: &str| {
        format!(
            r#"{{ "name": "a", "version": "1.0.0", "api": "^1", {kind}
"provides": [{{ "contract": "c", "version": "1.0.0", "methods": {methods} }}] }}"#
        )
    };
    let process = r#""kind": "process", "command": ["a"],"#;
    let text = manifest(
        process,
        r#"{ "f": { "endpoint": "a/b", "body": "n" }, "g": { "endpoint": "g" } }"#,
    );
    let parsed = parse(&text).unwrap();
    let methods = &parsed.provides()[0].methods;
    assert_eq!(methods["f"].endpoint, "a/b");
    assert_eq!(methods["f"].body.as_deref(), Some("n"));
    assert_eq!(methods["g"].body, None);
    assert_eq!(parse(&parsed.to_json().to_string()).unwrap(), parsed);
    for (kind, methods, expected) in [
        (
            "",
            r#"{ "f": { "endpoint": "f" } }"#,
            "2:53: `provides[0].methods` is valid only for plugins of kind `process`; this plugin is \
             of kind `library`",
        ),
        (
            process,
            r#"{ "f": "f" }"#,
            "2:71: `provides[0].methods.f` is \"f\"; expected an object with `endpoint`",
        ),
        (
            process,
            r#"{ "f": { "endpoint": "/f" } }"#,
            "2:85: `provides[0].methods.f.endpoint` is \"/f\"; expected the path of an endpoint \
             without `/` at either end, such as `process`",
        ),
        (
            process,
            r#"{ "f": { "endpoint": "f", "path": "f" } }"#,
            "2:90: `provides[0].methods.f.path` is not a known field; expected one of `endpoint`, \
             `body`",
        ),
        (
            process,
            r#"{ "f": { "body": "n" } }"#,
            "2:71: `provides[0].methods.f.endpoint` is missing; expected the path of an endpoint \
             without `/` at either end, such as `process`",
        ),
    ] {
        check(&manifest(kind, methods), &format!("plugin.json:{expected}"));
    }
}

#[test]
fn contract_is_mapped_once() {
    let entry = |name: &str, more: &str| {
        format!("{{ \"contract\": \"{name}\", \"version\": \"1.0.0\"{more} }}")
    };
    let mapped = |name| entry(name, ", \"methods\": { \"f\": { \"endpoint\": \"f\" } }");
    let manifest = |entries: &[String]| {
        format!(
            "{{ \"name\": \"a\", \"version\": \"1.0.0\", \"api\": \"^1\", \"kind\": \"process\",\
             \"command\": [\"a\"], \"provides\": [\n{}\n] }}",
            entries.join(",\n")
        )
    };
    for entries in [[mapped("c"), mapped("d")], [entry("c", ""), mapped("c")]] {
        assert_eq!(parse(&manifest(&entries)).unwrap().provides().len(), 2);
    }
    check(
        &manifest(&[mapped("c"), mapped("d"), mapped("c")]),
        "plugin.json:4:15: `provides[2].contract` is \"c\"; expected a contract that no earlier entry \
         maps",
    );
}

#[test]
fn missing_field_is_reported_with_expected_value() {
    check(
        "{\"name\": \"a\"}",
        "plugin.json has 2 mistakes:\n  1:1: `version` is missing; expected MAJOR.MINOR.PATCH, for \
         example `1.0.0`\n  1:1: `api` is missing; expected a semver requirement, for example `^1.0`",
    );
    check(
        "{\"name\": \"a\", \"version\": \"1.0.0\"}",
        "plugin.json:1:1: `api` is missing; expected a semver requirement, for example `^1.0`",
    );
    check_line(
        r#""provides": [{"contract": "a"}]"#,
        "2:14: `provides[0].version` is missing; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
    );
    check_line(
        r#""kind": "process""#,
        "1:1: `command` is missing; expected a list of strings: a program inside the plugin's folder, \
         then its arguments",
    );
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = r#"{"nmae": "a", "version": "1", "api": "^1", "color": "red",
"limts": {}, "limits": {"queu": 1, "workers": 0}, "provides": [{"contrakt": "a"}, 3],
"requires": {"A": "1", "b": "?"}, "permissions": ["log", ""]}"#;
    let error = parse(text).unwrap_err();
    let paths: Vec<_> = error.paths().collect();
    assert_eq!(
        paths,
        [
            "nmae",
            "version",
            "color",
            "limts",
            "limits.queu",
            "limits.workers",
            "provides[0].contrakt",
            "provides[1]",
            "requires",
            "requires.b",
            "permissions[1]",
            "provides[0].version",
        ]
    );
    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 13, "{text}");
    assert_eq!(lines[0], "plugin.json has 12 mistakes:");
    assert_eq!(lines[1], "  1:2: `nmae` is not a known field");
    assert_eq!(lines[4], "  2:1: `limts` is not a known field");
    let many: String = (0..100).map(|number| format!("\"x{number}\": 1, ")).collect();
    let error = parse(&format!("{{{many} \"name\": \"a\"}}")).unwrap_err();
    assert!(error.to_string().ends_with("\n  and 86 more"), "{error}");
}

#[test]
fn error_returns_position_and_path() {
    let error = parse(
        "{\"name\": \"a\",\n \"limits\": {\"queue\": 0},\n\"version\": \"1.0.0\", \"api\": \"*\"}",
    )
    .unwrap_err();
    assert_eq!((error.line(), error.column(), error.path()), (Some(2), Some(22), "limits.queue"));
}

#[test]
fn pointer_position_falls_back_to_nearest_parent() {
    let text = "\u{feff}{\n  \"config\": {\n    \"é\": [1, {\"a/b~\": 2}], \"mode\": \"x\"\n  }\n}";
    let check = |pointer, expect| assert_eq!(position_of(text, pointer), expect, "{pointer}");
    check("", Some((1, 1)));
    check("/config", Some((2, 13)));
    check("/config/mode", Some((3, 36)));
    check("/config/é/1/a~1b~0", Some((3, 23)));
    check("/config/é/7", Some((3, 10)));
    check("/config/gone/deeper", Some((2, 13)));
    check("/gone", Some((1, 1)));
    assert_eq!(position_of("{,", "/config"), None);
}
