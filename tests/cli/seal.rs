//! `hotbay seal`: digest and length in the manifest, and plugins without a digest.

use std::fs;

use hotbay_tests::Plugins;
#[cfg(unix)]
use hotbay_tests::ProgramFolder;
use serde_json::{Value, json};
use snapbox::str;

use crate::command::{hotbay, unverified};

#[test]
fn unverified_plugin_is_refused_until_sealed() {
    let plugins = Plugins::new();
    unverified(&plugins, "one", json!({}));
    let call = ["call", "one", "--text", "x"];
    hotbay(plugins.dir(), &call).exits(1).shows(str![[r#"
$ hotbay call one --text x
--- stderr
error: plugin `one` failed to load at step `digest`
  because: the manifest of `[ROOT]/plugins/one/libfaulty.so` contains no `sha256`
  hint: run `hotbay build` or `hotbay seal DIR` to add it, or load the plugin without it with `.allow_unverified(true)` / `--allow-unverified`
--- exit code 1
"#]]);
    let allowed = ["call", "one", "--text", "x", "--allow-unverified"];
    assert_eq!(hotbay(plugins.dir(), &allowed).exits(0).stdout, b"x");

    let manifest = plugins.dir().join("plugins/one/plugin.json");
    let before = fs::metadata(&manifest).unwrap().permissions();
    let sealed = hotbay(plugins.dir(), &["seal", "plugins/one"]).exits(0);
    sealed.shows(str![[r#"
$ hotbay seal plugins/one
[DIGEST]  [ROOT]/plugins/one/libfaulty.so
"#]]);
    let json: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(sealed.text().split_whitespace().next(), json["sha256"].as_str());
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
    let args = ["seal", "text", "process", "gone", "plugins/one/plugin.json"];
    hotbay(plugins.dir(), &args).exits(1).shows(str![[r#"
$ hotbay seal text process gone plugins/one/plugin.json
[DIGEST]  [ROOT]/plugins/one/libfaulty.so
--- stderr
error: `text` was not sealed
  because: `[ROOT]/text/libfaulty.so`: the file looks like a text file; expected a shared library built with `crate-type = ["cdylib"]`
error: `process` was not sealed
  because: cannot read program `x`: No such file or directory (os error [ERRNO])
error: `gone` was not sealed
  because: cannot read `gone`: No such file or directory (os error [ERRNO])
--- exit code 1
"#]]);
    let json = hotbay(plugins.dir(), &[&args[..], &["--json"]].concat()).exits(1).json();
    assert_eq!(json["sealed"][0]["name"], "one");
    let failed = json["failed"].as_array().unwrap();
    let folders: Vec<_> = failed.iter().map(|one| one["folder"].as_str().unwrap()).collect();
    assert_eq!(folders, ["text", "process", "gone"]);
    let text = fs::read_to_string(plugins.dir().join("text/plugin.json")).unwrap();
    assert!(!text.contains("sha256"), "{text}");
}

#[cfg(unix)]
#[test]
fn seal_reports_no_problem_that_another_machine_lacks() {
    let plugins = Plugins::new();
    let isolated = plugins.add("isolated", "faulty").set("isolation", "process");
    isolated.unverified().write();
    let sandbox = json!({ "limits": { "cpu": 0.5 }, "require": ["cpu"] });
    let confined = plugins.add("confined", "faulty").set("isolation", "process");
    confined.set("sandbox", sandbox).unverified().write();
    let sealed = hotbay(plugins.dir(), &["seal", "isolated", "confined"]).exits(0);
    assert_eq!(sealed.stderr, "");
    assert_eq!(sealed.text().lines().count(), 2);
    // What prevents a load on every machine is reported.
    let config = plugins.add("invalid", "faulty").config(json!({ "answers": 1 })).unverified();
    config
        .set("config_schema", json!({ "properties": { "answers": { "type": "string" } } }))
        .write();
    let sealed = hotbay(plugins.dir(), &["seal", "invalid"]).exits(0);
    assert!(sealed.stderr.contains("warning: plugin `invalid`"), "{}", sealed.stderr);
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
    hotbay(plugins.dir(), &["seal", "text"]).exits(1).shows(str![[r#"
$ hotbay seal text
--- stderr
error: `text` was not sealed
  because: program `program` is not executable
  hint: run `chmod +x [ROOT]/text/program`
--- exit code 1
"#]]);
}
