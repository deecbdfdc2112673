//! `hotbay check` with libraries: plugins are loaded, called and shut down, and each result is
//! reported, even if a library crashes.

use hotbay_tests::Plugins;
use serde_json::{Value, json};
use snapbox::str;

use crate::command::{examples, hotbay, unverified};

#[test]
fn check_loads_plugins_and_reports_each_result() {
    let plugins = examples();
    let json = hotbay(plugins.dir(), &["check", "--json"]).exits(0).json();
    assert_eq!((&json["passed"], &json["failed"]), (&json!(2), &json!(0)));
    for plugin in json["plugins"].as_array().unwrap() {
        assert_eq!(plugin["result"], "passed");
        assert!(plugin["library"] == "closed" || plugin["library"] == "kept", "{plugin}");
    }
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        // Elsewhere, libraries stay mapped.
        hotbay(plugins.dir(), &["check"]).exits(0).shows(str![[r#"
$ hotbay check
NAME       VERSION  RESULT  LIBRARY  NOTES
filter     [VER]    passed  closed
transform  [VER]    passed  closed
--- stderr
2 of 2 passed
"#]]);
    }
    let action = json!({ "error_in": "shutdown" });
    plugins.add_in("plugins/late", "late", "faulty").config(action).write();
    hotbay(plugins.dir(), &["check", "plugins/late"]).exits(1).shows(str![[r#"
$ hotbay check plugins/late
NAME  VERSION  RESULT  LIBRARY  NOTES
late  [VER]    failed  kept     shutdown: returned an error: in shutdown, on request (code 500); its library stays mapped: shutdown: returned an error: in shutdown, on request (code 500)
--- stderr
0 of 1 passed
--- exit code 1
"#]]);
}

#[test]
fn check_reports_each_panic_once() {
    let plugins = Plugins::new();
    plugins.add("calls", "faulty").config(json!({ "panic_in": "execute" })).write();
    let json = hotbay(plugins.dir(), &["check", ".", "--json"]).exits(1).json();
    let failures = json["plugins"][0]["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{json}");
    assert!(failures[0].as_str().unwrap().starts_with("panicked: "), "{json}");
    hotbay(plugins.dir(), &["check", "."]).exits(1).shows(str![[r#"
$ hotbay check .
NAME   VERSION  RESULT  LIBRARY  NOTES
calls  [VER]    failed  closed   panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
--- stderr
0 of 1 passed
--- exit code 1
"#]]);
}

#[test]
fn check_survives_unverified_library_that_crashes() {
    let plugins = examples();
    unverified(&plugins, "crash", json!({ "abort_in": "init" }));
    unverified(&plugins, "fine", json!({}));
    unverified(&plugins, "panics", json!({ "panic_in": "init" }));
    let folder = "plugins/needs";
    let needs = plugins.add_in(folder, "needs", "faulty").set("requires", json!({"crash": "*"}));
    needs.unverified().write();
    let json = hotbay(plugins.dir(), &["check", "--json"]).exits(1).json();
    let result = |name: &str| -> &Value {
        let plugins = json["plugins"].as_array().unwrap();
        plugins.iter().find(|one| one["name"] == name).unwrap()
    };
    assert_eq!((&json["passed"], &json["failed"]), (&json!(3), &json!(3)));
    assert_eq!(result("crash")["result"], "refused");
    assert_eq!(result("panics")["problem"]["step"], "init");
    assert_eq!(result("fine")["result"], "passed");
    assert!(result("fine")["hint"].to_string().contains("hotbay seal"), "{json}");
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        hotbay(plugins.dir(), &["check"]).exits(1).shows(str![[r#"
$ hotbay check
NAME       VERSION  RESULT   LIBRARY  NOTES
crash      [VER]    refused  -        it crashed in a separate process: SIGABRT
filter     [VER]    passed   closed
fine       [VER]    passed   closed   plugin.json contains no digest
needs      [VER]    refused  -        it requires plugin `crash`, which cannot be started
panics     [VER]    refused  -        init: panicked: in init, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
transform  [VER]    passed   closed
--- stderr
note: plugin `crash` has no digest: loading it in a separate process first
  hint: run `hotbay seal plugins/crash`
note: plugin `fine` has no digest: loading it in a separate process first
  hint: run `hotbay seal plugins/fine`
note: plugin `panics` has no digest: loading it in a separate process first
  hint: run `hotbay seal plugins/panics`
3 of 6 passed
--- exit code 1
"#]]);
    }
}
