//! Every kind of mistake in the values of a manifest's fields, with its exact message.

use serde_json::json;

use super::shape_tests::{check, check_line, parse};

#[test]
fn invalid_value_is_reported_with_found_and_expected() {
    check(
        "{\"name\": \"Echo\", \"version\": \"1.0.0\", \"api\": \"*\"}",
        "plugin.json:1:10: `name` is \"Echo\"; expected a lower-case letter, then at most 63 of `a-z`, `0-9`, `-`",
    );
    check(
        "{\"name\": \"a\", \"version\": \"1.0\", \"api\": \"*\"}",
        "plugin.json:1:26: `version` is \"1.0\"; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
    );
    check(
        "{\"name\": \"a\", \"version\": \"v3\", \"api\": \"*\"}",
        "plugin.json:1:26: `version` is \"v3\"; expected MAJOR.MINOR.PATCH, for example `3.0.0`",
    );
    check(
        "{\"name\": \"a\", \"version\": \"new\", \"api\": \"*\"}",
        "plugin.json:1:26: `version` is \"new\"; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
    );
    check(
        "{\"name\": \"a\", \"version\": \"1.0.0\", \"api\": 1.0}",
        "plugin.json:1:42: `api` is 1.0; expected a semver requirement, for example `^1.0`",
    );
    check_line(
        "\"package\": \"a/b\"",
        "2:12: `package` is \"a/b\"; expected the package's name: 1 to 64 of `A-Z`, `a-z`, `0-9`, `_`, `-`",
    );
    check_line(
        "\"kind\": \"proces\"",
        "2:9: `kind` is \"proces\"; expected `library` or `process`",
    );
    check_line(
        "\"handover\": \"stop_first\"",
        "2:13: `handover` is \"stop_first\"; expected `overlap`, `pause` or `stop-first`",
    );
    check_line("\"unload\": \"never\"", "2:11: `unload` is \"never\"; expected `auto` or `keep`");
    check_line("\"description\": null", "2:16: `description` is null; expected a string");
    check_line("\"authors\": \"A\"", "2:12: `authors` is \"A\"; expected a list of strings");
    check_line("\"authors\": [\"A\", {}]", "2:18: `authors[1]` is an object; expected a string");
    check_line("\"config\": []", "2:11: `config` is a list; expected an object");
    check_line(
        "\"config\": {\"a\": [1e999]}",
        "2:18: `config.a[0]` is 1e999; expected a number that fits 64 bits",
    );
    check_line(
        "\"config_schema\": \"../a.json\"",
        "2:18: `config_schema` is \"../a.json\"; expected a JSON Schema object, or the path of a schema file in the plugin's folder",
    );
    check_line(
        "\"config_schema\": true",
        "2:18: `config_schema` is true; expected a JSON Schema object, or the path of a schema file in the plugin's folder",
    );
    check_line(
        "\"input_schema\": \"/etc/a.json\"",
        "2:17: `input_schema` is \"/etc/a.json\"; expected a JSON Schema object, or the path of a schema file in the plugin's folder",
    );
    check_line("\"provides\": {}", "2:13: `provides` is an object; expected a list of objects");
    check_line(
        "\"provides\": [\"echo\"]",
        "2:14: `provides[0]` is \"echo\"; expected an object with `contract` and `version`",
    );
    check_line(
        "\"provides\": [{\"contract\": \"\", \"version\": \"1.0.0\"}]",
        "2:27: `provides[0].contract` is \"\"; expected the contract's name",
    );
    check_line(
        "\"provides\": [{\"contract\": \"a\", \"version\": \"1\"}]",
        "2:43: `provides[0].version` is \"1\"; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
    );
    check_line(
        "\"requires\": [\"clock\"]",
        "2:13: `requires` is a list; expected an object of plugin names and semver requirements",
    );
    check_line(
        "\"requires\": {\"Clock\": \"*\"}",
        "2:14: `requires` is \"Clock\"; expected a plugin's name: a lower-case letter, then at most 63 of `a-z`, `0-9`, `-`",
    );
    check_line(
        "\"requires\": {\"clock\": \"new\"}",
        "2:23: `requires.clock` is \"new\"; expected a semver requirement, for example `^1.0`",
    );
    check_line("\"requires\": {\"echo\": \"*\"}", "2:14: `requires.echo` is the plugin itself");
    check_line(
        "\"permissions\": [\"log\", \"call:No\"]",
        "2:24: `permissions[1]` is \"call:No\"; expected `log`, `metrics`, `call:NAME`, `read`, `write`, `exec`, or a permission that the application defines",
    );
    check_line("\"sha256\": \"abc\"", "2:11: `sha256` is \"abc\"; expected 64 hexadecimal digits");
    check_line("\"length\": -1", "2:11: `length` is -1; expected a whole number of bytes");
    let long = format!(
        "\"homepage\": [\"{}\"], \"license\": \"{0}\", \"unload\": \"{0}\"",
        "é".repeat(50)
    );
    check_line(
        &long.replace("[", "").replace("]", ""),
        &format!("2:142: `unload` is \"{}…\"; expected `auto` or `keep`", "é".repeat(40)),
    );
}

#[test]
fn limit_must_be_a_positive_integer() {
    let check = |limit: &str, expect: &str| {
        let column = limit.find(':').unwrap() + 2 + "\"limits\": {".len() + 1;
        check_line(&format!("\"limits\": {{{limit}}}"), &format!("2:{column}: {expect}"));
    };
    check(
        "\"deadline_ms\": \"5s\"",
        "`limits.deadline_ms` is \"5s\"; expected a whole number of milliseconds",
    );
    check("\"deadline_ms\": 0", "`limits.deadline_ms` is 0; expected at least 1");
    check(
        "\"deadline_ms\": 5e3",
        "`limits.deadline_ms` is 5e3; expected a whole number of milliseconds",
    );
    check("\"workers\": 1.5", "`limits.workers` is 1.5; expected a whole number of threads");
    check("\"queue\": 4294967296", "`limits.queue` is 4294967296; expected at most 4294967295");
    check("\"in_flight\": []", "`limits.in_flight` is a list; expected a whole number of calls");
    check("\"stack_bytes\": -1", "`limits.stack_bytes` is -1; expected a whole number of bytes");
}

#[test]
fn library_must_be_a_bare_stem() {
    let check = |stem: &str, expect: &str| {
        check_line(
            &format!("\"library\": {stem:?}"),
            &format!("2:12: `library` is {stem:?}; expected the bare stem {expect}"),
        );
    };
    let transform = "`transform`, without platform prefix and suffix";
    check("libtransform.so", transform);
    check("libtransform", transform);
    check("transform.dll", transform);
    check("libtransform.dylib", transform);
    let any = "of a file in the plugin's folder, for example `transform`";
    for stem in ["", "..", "a/b", "..\\a", "/lib/liba.so", ".so", "c:a", "a\0"] {
        let error = parse(
            &json!({ "name": "a", "version": "1.0.0", "api": "*", "library": stem }).to_string(),
        );
        assert!(error.unwrap_err().to_string().ends_with(any), "{stem}");
    }
    let own = r#"{"name": "a", "package": "lib-ra", "version": "1.0.0", "api": "*", "library": "lib_ra"}"#;
    assert_eq!(parse(own).unwrap().library_stem().as_deref(), Some("lib_ra"));
}

#[test]
fn command_is_required_for_process_only() {
    check_line(
        "\"command\": [\"serve\"]",
        "2:1: `command` is valid only for plugins of kind `process`; this plugin is of kind `library`",
    );
    check_line(
        "\"kind\": \"process\", \"command\": [\"serve\"], \"library\": \"a\"",
        "2:42: `library` is valid only for plugins of kind `library`; this plugin is of kind `process`",
    );
    check_line(
        "\"kind\": \"process\", \"command\": []",
        "2:31: `command` is an empty list; expected a list of strings: a program inside the plugin's folder, then its arguments",
    );
    check_line(
        "\"kind\": \"process\", \"command\": [\"/bin/sh\"]",
        "2:32: `command[0]` is \"/bin/sh\"; expected a program inside the plugin's folder",
    );
    check_line(
        "\"kind\": \"process\", \"command\": [\"serve\", 1]",
        "2:41: `command[1]` is 1; expected a string",
    );
    check_line(
        "\"kind\": \"process\", \"command\": [\"serve\", \"a\\u0000b\"]",
        "2:41: `command[1]` is \"a\\0b\"; expected a string without NUL",
    );
    let text = r#"{"name": "a", "version": "1.0.0", "api": "*", "kind": "process", "command": ["bin/serve", "../x"]}"#;
    let manifest = parse(text).unwrap();
    assert_eq!((manifest.library_stem(), manifest.command().len()), (None, 2));
}
