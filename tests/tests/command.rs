//! The `hotbay` command as users run it: its output and exit codes. The library is tested
//! elsewhere.

use std::fs;

#[cfg(unix)]
use hotbay_tests::ProgramFolder;
use hotbay_tests::{Plugins, library_file_name};
use serde_json::{Value, json};

use crate::hotbay_command::{examples, hotbay, unverified};

#[test]
fn list_prints_plugins_in_order_with_problems() {
    let plugins = examples();
    let run = hotbay(plugins.dir(), &["list"]).exits(0);
    let lines: Vec<Vec<String>> = run
        .text()
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(lines[0], ["NAME", "VERSION", "KIND", "STATE", "PROBLEM"]);
    assert_eq!(lines[1], ["filter", "0.1.0", "library", "ready"]);
    assert_eq!(lines[2], ["transform", "0.1.0", "library", "ready"]);
    assert!(!run.text().contains('\x1b'), "colors only on a terminal");

    unverified(&plugins, "open", json!({}));
    plugins.add_in("plugins/text", "text", "faulty").bytes(|it| *it = b"hello".into()).write();
    let run = hotbay(plugins.dir(), &["list"]).exits(1);
    let list = run.text();
    assert!(list.contains("plugin.json contains no digest\n"), "{list}");
    let hint = "hint: plugin `open`: run `hotbay seal plugins/open`\n";
    assert!(run.stderr.contains(hint), "{}", run.stderr);
    assert!(list.contains("the file looks like"), "{list}");
    let json = hotbay(plugins.dir(), &["list", "--json", "--allow-unverified"]).exits(1).json();
    let reported: Vec<_> = json["plugins"].as_array().unwrap().iter().collect();
    let reported: Vec<_> =
        reported.iter().map(|one| (one["name"].as_str(), &one["state"])).collect();
    let [ready, refused] = [json!("ready"), json!("refused")];
    let expected =
        [("filter", &ready), ("open", &ready), ("text", &refused), ("transform", &ready)];
    assert_eq!(reported, expected.map(|(name, state)| (Some(name), state)));
    assert_eq!(json["plugins"][2]["problem"]["step"], "probe");
    assert_eq!(json["plugins"][2]["problem"]["kind"], "integrity");
    assert_eq!(json["plugins"][0]["problem"], Value::Null);
}

#[cfg(unix)]
#[test]
fn list_refuses_programs_that_load_refuses() {
    let plugins = Plugins::new();
    let program = |name: &str| ProgramFolder::new(plugins.dir(), name).bytes("#!/bin/sh\n");
    program("open").unverified().install();
    program("text").not_executable().install();
    program("fine").install();
    let list =
        |args: &[&str]| hotbay(plugins.dir(), &[&["list", "--dir", ".", "--json"], args].concat());
    let json = list(&[]).exits(1).json();
    let [fine, open, text] = [0, 1, 2].map(|index| &json["plugins"][index]);
    assert_eq!((&fine["state"], &fine["problem"]), (&json!("ready"), &Value::Null));
    assert_eq!((&open["state"], &open["problem"]["step"]), (&json!("refused"), &json!("digest")));
    assert_eq!(open["problem"]["hint"], "run `hotbay seal ./open`");
    assert_eq!((&text["state"], &text["problem"]["step"]), (&json!("refused"), &json!("launch")));
    assert!(text["problem"]["hint"].to_string().contains("chmod +x"), "{text}");
    assert_eq!(list(&["--allow-unverified"]).json()["plugins"][1]["state"], "ready");

    // A load refuses both in the same way.
    for (name, problem) in [("open", &open["problem"]), ("text", &text["problem"])] {
        let args = ["call", name, "--dir", ".", "--text", "x", "--json"];
        let error = &hotbay(plugins.dir(), &args).exits(1).json()["error"];
        assert_eq!((&error["kind"], &error["step"]), (&problem["kind"], &problem["step"]));
    }
    let inspected = hotbay(plugins.dir(), &["inspect", "text", "--dir", "."]).exits(1).text();
    assert!(inspected.contains("\n  hint: run `chmod +x "), "{inspected}");
    assert!(inspected.contains("state: refused: launch: "), "{inspected}");
}

#[test]
fn list_notes_library_without_manifest() {
    let plugins = examples();
    let folder = plugins.dir().join("plugins/bare");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(library_file_name("bare")), "").unwrap();
    let run = hotbay(plugins.dir(), &["list"]).exits(0);
    let note = "note: `plugins/bare` contains a shared library but no plugin.json\n  \
                hint: add a plugin.json, or install the plugin with `hotbay build`\n";
    assert_eq!(run.stderr, note);
    assert_eq!(hotbay(plugins.dir(), &["list", "--json"]).exits(0).stderr, "");
}

#[test]
fn plugin_name_in_two_folders_is_ambiguous() {
    let plugins = Plugins::new();
    plugins.add_in("one", "twin", "faulty").write();
    plugins.add_in("two", "twin", "faulty").write();
    let error = "error: found 2 plugins named `twin`: `./one`, `./two`\n  \
                 hint: pass the plugin's folder instead of its name\n";
    hotbay(plugins.dir(), &["inspect", "twin", "--dir", "."]).exits(1).says_only(&[error]);
}

#[test]
fn list_reports_problems_across_plugins() {
    let plugins = Plugins::new();
    plugins.add_in("one", "twin", "faulty").write();
    plugins.add_in("two", "twin", "faulty").write();
    plugins.add("lonely", "faulty").set("requires", json!({ "gone": "*" })).write();
    plugins.add("above", "faulty").set("requires", json!({ "lonely": "*" })).write();
    plugins.add("round", "faulty").set("requires", json!({ "square": "*" })).write();
    plugins.add("square", "faulty").set("requires", json!({ "round": "*" })).write();
    let json = hotbay(plugins.dir(), &["list", "--dir", ".", "--json"]).exits(1).json();
    let problem = |index: usize, name: &str, part: &str| {
        let one = &json["plugins"][index];
        let message = one["problem"]["message"].as_str().unwrap_or_default();
        assert!(one["name"] == name && message.contains(part), "`{part}` in: {one}");
    };
    problem(0, "above", "it requires plugin `lonely`, which cannot be started");
    problem(1, "lonely", "it requires plugin `gone`");
    problem(2, "round", "dependency cycle");
    problem(3, "square", "dependency cycle");
    problem(4, "twin", "was found 2 times");
    problem(5, "twin", "was found 2 times");
}

#[test]
fn list_validates_config_against_schema() {
    let plugins = Plugins::new();
    let schema = json!({ "type": "object", "required": ["mode"] });
    plugins.add("strict", "faulty").set("config_schema", schema).write();
    plugins.add("typos", "faulty").set("verison", json!(1)).set("limts", json!({})).write();
    let json = hotbay(plugins.dir(), &["list", "--dir", ".", "--json"]).exits(1).json();
    let [strict, typos] = [0, 1].map(|index| &json["plugins"][index]["problem"]);
    assert_eq!((&strict["kind"], &strict["step"]), (&json!("config"), &json!("config")));
    let hint = "`limts`: did you mean `limits`?; `verison`: did you mean `version`?";
    assert_eq!(typos["hint"], hint);
}

#[cfg(unix)]
#[test]
fn call_reports_why_folder_was_skipped() {
    use std::os::unix::fs::PermissionsExt;
    let plugins = Plugins::new();
    plugins.add_in("open/below", "below", "faulty").write();
    let open = plugins.dir().join("open");
    fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    let call = ["call", "below", "--dir", ".", "--text", "hi"];
    let expected = [
        "plugin `below` not found in `.`",
        "  because: ",
        "was skipped",
        "is writable by other users",
    ];
    hotbay(plugins.dir(), &call).exits(1).says_only(&expected);
    hotbay(plugins.dir(), &["call", "below", "--dir", "gone"]).exits(1).says_only(&["`gone`"]);
}

#[test]
fn missing_plugins_folder_prints_hint() {
    let plugins = Plugins::new();
    let note = "note: neither `target/plugins` nor `plugins` exists\n  hint: build a plugin with";
    hotbay(plugins.dir(), &["list"]).exits(0).says_only(&[note, "`hotbay build`"]);
    let note = "note: no plugins found in `.`\n  hint: build a plugin with `hotbay build`";
    hotbay(plugins.dir(), &["list", "--dir", "."]).exits(0).says_only(&[note]);
    hotbay(plugins.dir(), &["list", "--dir", "gone"]).exits(1).says_only(&["`gone`"]);
    let error = "error: nothing to check: no plugin directory\n";
    hotbay(plugins.dir(), &["check"]).exits(1).says_only(&[error]);
    let error = "error: plugin `x` not found\n";
    hotbay(plugins.dir(), &["call", "x", "--text", ""]).exits(1).says_only(&[error]);
    let error = "error: nothing to check: no plugins found in `.`\n  hint: ";
    hotbay(plugins.dir(), &["check", "."]).exits(1).says_only(&[error]);
}

#[test]
fn target_plugins_takes_precedence_over_plugins() {
    let plugins = examples();
    plugins.add_in("target/plugins/other", "other", "faulty").write();
    let json = hotbay(plugins.dir(), &["list", "--json"]).exits(0).json();
    assert_eq!(json["plugins"].as_array().unwrap().len(), 1);
    assert_eq!(json["plugins"][0]["name"], "other");
}

#[test]
fn inspect_by_name_or_path_prints_all_details() {
    let plugins = examples();
    let path = "plugins/transform";
    let manifest = "plugins/transform/plugin.json";
    for plugin in ["transform", path, manifest, "./plugins/transform/"] {
        let run = hotbay(plugins.dir(), &["inspect", plugin]).exits(0);
        for part in
            ["transform 0.1.0 (library)", "rustc 1.", "HOTBAY_PLUGIN_STAMP", "matches the manifest"]
        {
            assert!(run.text().contains(part), "`{part}` in: {}", run.text());
        }
        assert!(run.text().ends_with("state: ready\n"), "{}", run.text());
    }
    let json = hotbay(plugins.dir(), &["inspect", path, "--json"]).exits(0).json();
    assert_eq!(json["state"], "ready");
    assert_eq!(json["library"]["verified"], true);
    assert_eq!(json["library"]["sha256"], json["library"]["stated_sha256"]);
    assert_eq!(json["built"]["panic"], "unwind");
    assert_eq!(json["manifest"]["api"], "^1.0");
    let json = hotbay(plugins.dir(), &["inspect", path, "--verbose", "--json"]).exits(0).json();
    assert_eq!(json["abi"], json!({ "state": "same", "report": null }));
    let error =
        "error: plugin `transfrom` not found in `plugins`\n  hint: did you mean `transform`?\n";
    hotbay(plugins.dir(), &["inspect", "transfrom"]).exits(1).says_only(&[error]);
    let error = "`plugins`\n  hint: run `hotbay list` to see all plugins\n";
    hotbay(plugins.dir(), &["call", "zzz", "--text", ""]).exits(1).says_only(&[error]);
}

#[test]
fn tampered_library_is_refused_with_both_digests() {
    let plugins = examples();
    let corrupt = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    plugins.add_in("plugins/bad", "bad", "faulty").stale_digest().bytes(corrupt).write();
    let json = hotbay(plugins.dir(), &["inspect", "bad", "--json"]).exits(1).json();
    assert_eq!(json["problem"]["step"], "digest");
    assert_eq!(json["library"]["verified"], false);
    let call = ["call", "bad", "--text", "x"];
    hotbay(plugins.dir(), &call).exits(1).says_only(&["error:", "because:", "SHA-256"]);
    let run = hotbay(plugins.dir(), &["check"]).exits(1);
    assert!(run.text().contains("bad") && run.text().contains("SHA-256"), "{}", run.text());
    assert!(run.stderr.contains("2 of 3 passed"), "{}", run.stderr);
}

#[test]
fn check_loads_plugins_and_reports_each_result() {
    let plugins = examples();
    let json = hotbay(plugins.dir(), &["check", "--json"]).exits(0).json();
    assert_eq!((&json["passed"], &json["failed"]), (&json!(2), &json!(0)));
    for plugin in json["plugins"].as_array().unwrap() {
        assert_eq!(plugin["result"], "passed");
        assert!(plugin["library"] == "closed" || plugin["library"] == "kept", "{plugin}");
    }
    let action = json!({ "error_in": "shutdown" });
    plugins.add_in("plugins/late", "late", "faulty").config(action).write();
    let run = hotbay(plugins.dir(), &["check", "plugins/late"]).exits(1);
    assert!(run.text().contains("failed") && run.text().contains("shutdown:"), "{}", run.text());
}

#[test]
fn check_reports_each_panic_once() {
    let plugins = Plugins::new();
    plugins.add("calls", "faulty").config(json!({ "panic_in": "execute" })).write();
    let run = hotbay(plugins.dir(), &["check", ".", "--json"]).exits(1);
    let json = run.json();
    let failures = json["plugins"][0]["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{json}");
    assert!(failures[0].as_str().unwrap().starts_with("panicked: "), "{json}");
    let text = hotbay(plugins.dir(), &["check", "."]).exits(1).text();
    assert!(text.lines().next().unwrap().ends_with("LIBRARY  NOTES"), "{text}");
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
    let run = hotbay(plugins.dir(), &["check", "--json"]).exits(1);
    let json = run.json();
    let result = |name: &str| {
        let plugins = json["plugins"].as_array().unwrap();
        plugins.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!((&json["passed"], &json["failed"]), (&json!(3), &json!(3)));
    let message = result("crash")["problem"]["message"].to_string();
    #[cfg(unix)]
    assert!(message.contains("plugin `crash` crashed while being loaded: SIGABRT"), "{message}");
    assert_eq!(result("crash")["result"], "refused", "{message}");
    assert_eq!(result("panics")["problem"]["step"], "init");
    assert!(result("needs")["problem"]["message"].to_string().contains("cannot be started"));
    assert_eq!(result("fine")["result"], "passed");
    assert!(result("fine")["hint"].to_string().contains("hotbay seal"));
}

#[test]
fn unverified_plugin_is_refused_until_sealed() {
    let plugins = Plugins::new();
    unverified(&plugins, "one", json!({}));
    let call = ["call", "one", "--text", "x"];
    hotbay(plugins.dir(), &call).exits(1).says_only(&["sha256", "hotbay seal"]);
    let allowed = ["call", "one", "--text", "x", "--allow-unverified"];
    assert_eq!(hotbay(plugins.dir(), &allowed).exits(0).stdout, b"x");

    let manifest = plugins.dir().join("plugins/one/plugin.json");
    let before = fs::metadata(&manifest).unwrap().permissions();
    let sealed = hotbay(plugins.dir(), &["seal", "plugins/one"]).exits(0).text();
    let json: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(sealed.split_whitespace().next(), json["sha256"].as_str());
    assert!(sealed.trim_end().ends_with(&library_file_name("faulty")), "{sealed}");
    assert_eq!(fs::metadata(&manifest).unwrap().permissions(), before);
    let left = fs::read_dir(manifest.parent().unwrap()).unwrap().count();
    assert_eq!(left, 2, "no other file is left in the folder");
    assert_eq!(hotbay(plugins.dir(), &call).exits(0).stdout, b"x");
    assert_eq!(hotbay(plugins.dir(), &["list"]).exits(0).code, Some(0));
}

#[test]
fn seal_refuses_non_plugins_and_seals_the_others() {
    let plugins = Plugins::new();
    unverified(&plugins, "one", json!({}));
    let text = plugins.add("text", "faulty").bytes(|it| *it = b"hello".into()).unverified();
    text.write();
    let process = plugins.add("process", "faulty").remove("library").remove("package");
    let process = process.set("kind", "process").set("command", json!(["x"])).unverified();
    process.write();
    let args = ["seal", "text", "process", "gone", "plugins/one/plugin.json", "--json"];
    let json = hotbay(plugins.dir(), &args).exits(1).json();
    assert_eq!(json["sealed"][0]["name"], "one");
    let failed = json["failed"].as_array().unwrap();
    let folders: Vec<_> = failed.iter().map(|one| one["folder"].as_str().unwrap()).collect();
    assert_eq!(folders, ["text", "process", "gone"]);
    let text = fs::read_to_string(plugins.dir().join("text/plugin.json")).unwrap();
    assert!(!text.contains("sha256"), "{text}");
}

#[cfg(unix)]
#[test]
fn seal_of_process_plugin_covers_its_program() {
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "script").bytes("#!/bin/sh\n").unverified();
    let folder = folder.install();
    let sealed = hotbay(plugins.dir(), &["seal", "script", "--json"]).exits(0).json();
    assert_eq!(sealed["sealed"][0]["length"], 10);
    let manifest = fs::read_to_string(folder.join("plugin.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["sha256"], sealed["sealed"][0]["sha256"]);
    assert_eq!(manifest["length"], 10);

    ProgramFolder::new(plugins.dir(), "text").not_executable().install();
    hotbay(plugins.dir(), &["seal", "text"]).exits(1).says_only(&[
        "error: `text` was not sealed\n  because: program `program` is not executable\n  hint: run `chmod +x ",
    ]);
}

#[test]
fn usage_errors_and_failures_have_distinct_exit_codes() {
    let plugins = examples();
    let check = |code: i32, args: &[&str]| drop(hotbay(plugins.dir(), args).exits(code));
    check(2, &[]);
    check(2, &["cal"]);
    check(2, &["call"]);
    check(2, &["call", "transform", "--text", "a", "--input", "b"]);
    check(2, &["call", "transform", "--text", "a", "--repeat", "0"]);
    check(2, &["pipe"]);
    check(2, &["seal"]);
    check(2, &["list", "--color"]);
    check(1, &["call", "missing", "--text", "a"]);
    check(0, &["--help"]);
    check(0, &["help", "call"]);
    let version = hotbay(plugins.dir(), &["--version"]).exits(0).text();
    assert!(version.starts_with("hotbay 0."), "{version}");
}

#[cfg(unix)]
#[test]
fn files_writable_by_others_are_refused_unless_allowed() {
    use std::os::unix::fs::PermissionsExt;
    let plugins = examples();
    let manifest = plugins.dir().join("plugins/transform/plugin.json");
    fs::set_permissions(manifest, fs::Permissions::from_mode(0o666)).unwrap();
    let args = ["call", "transform", "--text", "a"];
    hotbay(plugins.dir(), &args).exits(1).says_only(&["0666", "--allow-writable"]);
    let args = ["call", "transform", "--text", "a", "--allow-writable"];
    assert_eq!(hotbay(plugins.dir(), &args).exits(0).text(), "A");
}

#[test]
fn log_goes_to_stderr_only_when_requested() {
    let plugins = Plugins::new();
    let logging = plugins.add("logging", "faulty").config(json!({ "log": ["hello there"] }));
    logging.set("permissions", json!(["log"])).write();
    let quiet = hotbay(plugins.dir(), &["call", "logging", "--text", "a", "--dir", "."]).exits(0);
    assert_eq!(quiet.stderr, "");
    let args = ["call", "logging", "--text", "a", "--dir", ".", "-v"];
    let loud = hotbay(plugins.dir(), &args).exits(0);
    assert_eq!(loud.text(), quiet.text());
    assert!(loud.stderr.contains("hello there"), "{}", loud.stderr);
}
