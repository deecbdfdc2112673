//! `hotbay list`: which plugins are found, and what is reported about each.

use std::fs;

#[cfg(unix)]
use hotbay_tests::ProgramFolder;
use hotbay_tests::{Plugins, library_file_name};
use serde_json::json;
use snapbox::str;

use crate::command::{examples, hotbay, unverified};

#[test]
fn list_prints_plugins_in_order_with_problems() {
    let plugins = examples();
    hotbay(plugins.dir(), &["list"]).exits(0).shows(str![[r#"
$ hotbay list
NAME       VERSION  KIND     STATE  PROBLEM
filter     [VER]    library  ready
transform  [VER]    library  ready
"#]]);

    unverified(&plugins, "open", json!({}));
    plugins.add_in("plugins/text", "text", "faulty").bytes(|it| *it = b"hello".into()).write();
    hotbay(plugins.dir(), &["list"]).exits(1).shows(str![[r#"
$ hotbay list
NAME       VERSION  KIND     STATE    PROBLEM
filter     [VER]    library  ready
open       [VER]    library  refused  plugin.json contains no digest
text       [VER]    library  refused  probe: `[ROOT]/plugins/text/libfaulty.so`: the file looks like a text file; expected a shared library built with `crate-type = ["cdylib"]`
transform  [VER]    library  ready
--- stderr
hint: plugin `open`: run `hotbay seal plugins/open`
--- exit code 1
"#]]);
    let json = ["list", "--json", "--allow-unverified"];
    hotbay(plugins.dir(), &json).exits(1).shows(str![[r#"
$ hotbay list --json --allow-unverified
{
  "plugins": [
    {
      "api": "[API]",
      "description": null,
      "folder": "plugins/filter",
      "has_digest": true,
      "kind": "library",
      "name": "filter",
      "problem": null,
      "signature": {
        "state": "not_checked"
      },
      "state": "ready",
      "version": "[VER]"
    },
    {
      "api": "[API]",
      "description": null,
      "folder": "plugins/open",
      "has_digest": false,
      "kind": "library",
      "name": "open",
      "problem": null,
      "signature": {
        "state": "not_checked"
      },
      "state": "ready",
      "version": "[VER]"
    },
    {
      "api": null,
      "description": null,
      "folder": "plugins/text",
      "has_digest": true,
      "kind": "library",
      "name": "text",
      "problem": {
        "code": null,
        "details": null,
        "generation": null,
        "hint": null,
        "kind": "integrity",
        "location": null,
        "message": "plugin `text` failed to load at step `probe`: `[ROOT]/plugins/text/libfaulty.so`: the file looks like a text file; expected a shared library built with `crate-type = [\"cdylib\"]`",
        "plugin": "text",
        "retryable": null,
        "step": "probe"
      },
      "signature": {
        "state": "not_checked"
      },
      "state": "refused",
      "version": "[VER]"
    },
    {
      "api": "[API]",
      "description": null,
      "folder": "plugins/transform",
      "has_digest": true,
      "kind": "library",
      "name": "transform",
      "problem": null,
      "signature": {
        "state": "not_checked"
      },
      "state": "ready",
      "version": "[VER]"
    }
  ],
  "problems": []
}
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn list_refuses_programs_that_load_refuses() {
    let plugins = Plugins::new();
    let program = |name: &str| ProgramFolder::new(plugins.dir(), name).bytes("#!/bin/sh\n");
    program("open").unverified().install();
    program("text").not_executable().install();
    program("fine").install();
    let list = |args: &[&str]| hotbay(plugins.dir(), &[&["list", "--dir", "."], args].concat());
    list(&[]).exits(1).shows(str![[r#"
$ hotbay list --dir .
NAME  VERSION  KIND     STATE    PROBLEM
fine  [VER]    process  ready
open  [VER]    process  refused  plugin.json contains no digest
text  [VER]    process  refused  launch: `[ROOT]/text/program` is not executable
--- stderr
hint: plugin `open`: run `hotbay seal ./open`
hint: plugin `text`: run `chmod +x [ROOT]/text/program`
--- exit code 1
"#]]);
    assert_eq!(list(&["--allow-unverified", "--json"]).json()["plugins"][1]["state"], "ready");

    // A load refuses both in the same way.
    let json = list(&["--json"]).exits(1).json();
    for (at, name) in [(1, "open"), (2, "text")] {
        let problem = &json["plugins"][at]["problem"];
        let args = ["call", name, "--dir", ".", "--text", "x", "--json"];
        let error = &hotbay(plugins.dir(), &args).exits(1).json()["error"];
        assert_eq!((&error["kind"], &error["step"]), (&problem["kind"], &problem["step"]));
    }
    hotbay(plugins.dir(), &["inspect", "text", "--dir", "."]).exits(1).shows(str![[r#"
$ hotbay inspect text --dir .
text [VER] (process)
  folder         ./text
  requires API   ^1.0
  command        program
  program        [ROOT]/text/program
  bytes          [BYTES]
  SHA-256        [DIGEST]
  digest         matches the manifest
  permissions    log  requested      granted      allowed
  sandbox        none: it can do what the host can do
state: refused: launch: `[ROOT]/text/program` is not executable
  hint: run `chmod +x [ROOT]/text/program`
--- exit code 1
"#]]);
}

#[test]
fn list_notes_library_without_manifest() {
    let plugins = examples();
    let folder = plugins.dir().join("plugins/bare");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(library_file_name("bare")), "").unwrap();
    hotbay(plugins.dir(), &["list"]).exits(0).shows(str![[r#"
$ hotbay list
NAME       VERSION  KIND     STATE  PROBLEM
filter     [VER]    library  ready
transform  [VER]    library  ready
--- stderr
note: `plugins/bare` contains a shared library but no plugin.json
  hint: add a plugin.json, or install the plugin with `hotbay build`
"#]]);
    assert_eq!(hotbay(plugins.dir(), &["list", "--json"]).exits(0).stderr, "");
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
    hotbay(plugins.dir(), &["list", "--dir", "."]).exits(1).shows(str![[r#"
$ hotbay list --dir .
NAME    VERSION  KIND     STATE    PROBLEM
above   [VER]    library  refused  requires: it requires plugin `lonely`, which cannot be started
lonely  [VER]    library  refused  requires: it requires plugin `gone` *, which was not found
round   [VER]    library  refused  requires: it is part of a dependency cycle: round -> square -> round
square  [VER]    library  refused  requires: it is part of a dependency cycle: round -> square -> round
twin    [VER]    library  refused  plugin `twin` was found 2 times: in `./one`, `./two`
twin    [VER]    library  refused  plugin `twin` was found 2 times: in `./one`, `./two`
--- stderr
hint: plugin `above`: fix the plugin `lonely` first
hint: plugin `lonely`: add the plugin `gone`
hint: plugin `round`: remove one of the requirements
hint: plugin `square`: remove one of the requirements
hint: plugin `twin`: remove all but one, or give each a different `name`
hint: plugin `twin`: remove all but one, or give each a different `name`
--- exit code 1
"#]]);
}

#[test]
fn list_validates_config_against_schema() {
    let plugins = Plugins::new();
    let schema = json!({ "type": "object", "required": ["mode"] });
    plugins.add("strict", "faulty").set("config_schema", schema).write();
    plugins.add("typos", "faulty").set("verison", json!(1)).set("limts", json!({})).write();
    hotbay(plugins.dir(), &["list", "--dir", "."]).exits(1).shows(str![[r#"
$ hotbay list --dir .
NAME    VERSION  KIND     STATE    PROBLEM
strict  [VER]    library  refused  config: ./strict/plugin.json:1:1: `config`: "mode" is a required property
typos   -        -        refused  manifest: ./typos/plugin.json has 2 mistakes:
                                     5:3: `limts` is not a known field
                                     9:3: `verison` is not a known field
--- stderr
hint: plugin `typos`: `limts`: did you mean `limits`?; `verison`: did you mean `version`?
--- exit code 1
"#]]);
    let json = hotbay(plugins.dir(), &["list", "--dir", ".", "--json"]).exits(1).json();
    let strict = &json["plugins"][0]["problem"];
    assert_eq!((&strict["kind"], &strict["step"]), (&json!("config"), &json!("config")));
}

#[test]
fn missing_plugins_folder_prints_hint() {
    let plugins = Plugins::new();
    hotbay(plugins.dir(), &["list"]).exits(0).shows(str![[r#"
$ hotbay list
--- stderr
note: neither `target/plugins` nor `plugins` exists
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
"#]]);
    hotbay(plugins.dir(), &["list", "--dir", "."]).exits(0).shows(str![[r#"
$ hotbay list --dir .
--- stderr
note: no plugins found in `.`
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
"#]]);
    hotbay(plugins.dir(), &["list", "--dir", "gone"]).exits(1).shows(str![[r#"
$ hotbay list --dir gone
--- stderr
note: no plugins found in `gone`
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
error: a folder was skipped: cannot read `gone`: No such file or directory (os error [ERRNO])
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &["check"]).exits(1).shows(str![[r#"
$ hotbay check
--- stderr
note: neither `target/plugins` nor `plugins` exists
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
error: nothing to check: no plugin directory
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &["call", "x", "--text", ""]).exits(1).shows(str![[r#"
$ hotbay call x --text ''
--- stderr
note: neither `target/plugins` nor `plugins` exists
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
error: plugin `x` not found
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &["check", "."]).exits(1).shows(str![[r#"
$ hotbay check .
--- stderr
error: nothing to check: no plugins found in `.`
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
--- exit code 1
"#]]);
}

#[test]
fn target_plugins_takes_precedence_over_plugins() {
    let plugins = examples();
    plugins.add_in("target/plugins/other", "other", "faulty").write();
    hotbay(plugins.dir(), &["list"]).exits(0).shows(str![[r#"
$ hotbay list
NAME   VERSION  KIND     STATE  PROBLEM
other  [VER]    library  ready
"#]]);
}

#[cfg(unix)]
#[test]
fn list_and_inspect_describe_process_plugin() {
    let plugins = crate::command::both_kinds();
    hotbay(plugins.dir(), &["list", "--json"]).exits(0).shows(str![[r#"
$ hotbay list --json
{
  "plugins": [
    {
      "api": "[API]",
      "description": null,
      "folder": "plugins/library",
      "has_digest": true,
      "kind": "library",
      "name": "library",
      "problem": null,
      "signature": {
        "state": "not_checked"
      },
      "state": "ready",
      "version": "[VER]"
    },
    {
      "api": null,
      "description": null,
      "folder": "plugins/process",
      "has_digest": true,
      "kind": "process",
      "name": "process",
      "problem": null,
      "signature": {
        "state": "not_checked"
      },
      "state": "ready",
      "version": "[VER]"
    }
  ],
  "problems": []
}
"#]]);
    hotbay(plugins.dir(), &["inspect", "process"]).exits(0).shows(str![[r#"
$ hotbay inspect process
process [VER] (process)
  folder         plugins/process
  requires API   ^1.0
  config         {"start":41}
  command        program
  program        [ROOT]/plugins/process/program
  bytes          [BYTES]
  SHA-256        [DIGEST]
  digest         matches the manifest
  permissions    log  requested      granted      allowed
  sandbox        none: it can do what the host can do
state: ready
"#]]);
    hotbay(plugins.dir(), &["inspect", "process", "--json"]).exits(0).shows(str![[r#"
$ hotbay inspect process --json
{
  "built": null,
  "contracts": [],
  "folder": "plugins/process",
  "grants": null,
  "isolation": null,
  "kind": "process",
  "library": null,
  "manifest": {
    "api": "^1.0",
    "authors": [],
    "command": [
      "program"
    ],
    "config": {
      "start": 41
    },
    "description": null,
    "handover": "overlap",
    "homepage": null,
    "isolation": "none",
    "license": null,
    "limits": {},
    "package": "served",
    "permissions": [
      "log"
    ],
    "provides": [],
    "requires": {},
    "unload": "auto"
  },
  "name": "process",
  "not_granted": [],
  "notes": [],
  "permissions": [
    {
      "is_allowed": true,
      "is_granted": true,
      "is_requested": true,
      "permission": "log"
    }
  ],
  "problem": null,
  "program": {
    "exports": [],
    "length": [BYTES],
    "links": [],
    "path": "[ROOT]/plugins/process/program",
    "sha256": "[DIGEST]",
    "stated_length": [BYTES],
    "stated_sha256": "[DIGEST]",
    "stays_mapped": null,
    "verified": true
  },
  "sandbox": null,
  "signature": {
    "state": "not_checked"
  },
  "state": "ready",
  "version": "[VER]"
}
"#]]);
    // The program is not opened, so there is nothing to compare.
    let json = hotbay(plugins.dir(), &["inspect", "process", "--verbose", "--json"]).exits(0);
    assert_eq!(json.json()["abi"], serde_json::Value::Null);
}
