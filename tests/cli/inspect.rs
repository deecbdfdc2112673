//! `hotbay inspect`: the details of one plugin, found by name or path, and damaged files.

use std::fs;

use hotbay_tests::Plugins;
#[cfg(unix)]
use hotbay_tests::ProgramFolder;
use serde_json::json;
use snapbox::str;

use crate::command::{examples, hotbay};

#[test]
fn inspect_by_name_or_path_prints_all_details() {
    let plugins = examples();
    let path = "plugins/transform";
    let manifest = "plugins/transform/plugin.json";
    let by_name = hotbay(plugins.dir(), &["inspect", "transform"]).exits(0);
    by_name.shows(str![[r#"
$ hotbay inspect transform
transform [VER] (library)
  folder         plugins/transform
  requires API   ^1.0
  package        transform [VER]
  built for API  [API]
  compiler       rustc [RUSTC]
  target         [TARGET], panic=unwind
  library        [ROOT]/plugins/transform/libtransform.so
  bytes          [BYTES]
  SHA-256        [DIGEST]
  digest         matches the manifest
  links          [NAMES]
  exports        [NAMES]
state: ready
"#]]);
    for plugin in [path, manifest, "./plugins/transform/"] {
        let by_path = hotbay(plugins.dir(), &["inspect", plugin]).exits(0).text();
        let rest = |text: String| text.split_once("  requires API").unwrap().1.to_owned();
        assert_eq!(rest(by_path), rest(by_name.text()), "{plugin}");
    }
    hotbay(plugins.dir(), &["inspect", path, "--json"]).exits(0).shows(str![[r#"
$ hotbay inspect plugins/transform --json
{
  "built": {
    "api": "[API]",
    "package": "transform",
    "panic": "unwind",
    "rustc": "rustc [RUSTC]",
    "target": "[TARGET]",
    "version": "[VER]"
  },
  "contracts": [],
  "folder": "plugins/transform",
  "grants": null,
  "isolation": null,
  "kind": "library",
  "library": {
    "exports": [
      "HOTBAY_PLUGIN_STAMP",
      "_1as_0lib_1header_0root_bmodule_bloader"
    ],
    "length": [BYTES],
    "links": [
...
    ],
    "path": "[ROOT]/plugins/transform/libtransform.so",
    "sha256": "[DIGEST]",
    "stated_length": [BYTES],
    "stated_sha256": "[DIGEST]",
    "stays_mapped": null,
    "verified": true
  },
  "manifest": {
    "api": "^1.0",
    "authors": [],
    "command": [],
    "config": {},
    "description": null,
    "handover": "overlap",
    "homepage": null,
    "isolation": "none",
    "license": null,
    "limits": {},
    "package": "transform",
    "permissions": [],
    "provides": [],
    "requires": {},
    "unload": "auto"
  },
  "name": "transform",
  "not_granted": [],
  "notes": [],
  "permissions": [],
  "problem": null,
  "program": null,
  "sandbox": null,
  "signature": {
    "state": "not_checked"
  },
  "state": "ready",
  "version": "[VER]"
}
"#]]);
    let json = hotbay(plugins.dir(), &["inspect", path, "--json"]).exits(0).json();
    assert_eq!(json["library"]["sha256"], json["library"]["stated_sha256"]);
    let json = hotbay(plugins.dir(), &["inspect", path, "--verbose", "--json"]).exits(0).json();
    assert_eq!(json["abi"], json!({ "state": "same", "report": null }));
}

#[cfg(unix)]
#[test]
fn inspect_prints_what_the_host_grants_of_a_sandbox() {
    let plugins = Plugins::new();
    let sandbox = json!({
        "preset": "native", "read": ["/usr/share", "/etc", "/usr/share/zoneinfo/none"],
        "write": ["{state}", "{plugin}/none"], "run": ["sh", "no-such-program"],
        "limits": { "cpu": 0.5, "processes": 9, "call_cpu_seconds": 0.5 },
    });
    let program = ProgramFolder::new(plugins.dir().join("plugins"), "fetch");
    program.bytes("#!/bin/sh\n").set("sandbox", sandbox).install();
    let file = "[sandbox]\nread = ['/usr/share/zoneinfo']\n\
                limits = { processes = 8, call_cpu_seconds = 0.25, open_files = 64 }\n";
    fs::write(plugins.dir().join("hotbay.toml"), file).unwrap();
    let run = hotbay(plugins.dir(), &["inspect", "fetch"]).exits(0);
    let text = run.text();
    let expected = r#"
  not granted    `sandbox.read` lists `/usr/share`, of which the host grants only `/usr/share/zoneinfo`
                 `sandbox.read` lists `/etc`, which the host does not grant
                 `sandbox.limits.processes` is 9, of which the host grants only 8
                 `sandbox.limits.call_cpu_seconds` is 0.5, of which the host grants only 0.25
                 `sandbox.read` lists `/usr/share/zoneinfo/none`, which does not exist
                 `sandbox.write` lists `{plugin}/none`, which does not exist
                 `sandbox.run` lists `no-such-program`, which was not found in PATH
"#;
    assert!(text.contains(expected), "{text}");
    let json = hotbay(plugins.dir(), &["inspect", "fetch", "--json"]).exits(0).json();
    assert_eq!(json["grants"]["read"][0], json!("/usr/share/zoneinfo"));
    assert_eq!(json["grants"]["limits"]["open_files"], json!(64));
    assert_eq!(json["not_granted"].as_array().map(Vec::len), Some(7));
    // What refuses a load is in the list, too.
    fs::write(plugins.dir().join("hotbay.toml"), "[sandbox]\nrequire = ['cpu']\n").unwrap();
    let list = hotbay(plugins.dir(), &["list"]).exits(1).text();
    assert!(list.contains("refused  confine: this machine cannot confine it"), "{list}");
}

#[cfg(unix)]
#[test]
fn programs_cannot_write_in_plugin_directories() {
    let plugins = Plugins::new();
    let dir = plugins.dir().join("plugins");
    for (name, listed) in [("one", dir.join("two")), ("two", dir.clone())] {
        let program = ProgramFolder::new(&dir, name).bytes("#!/bin/sh\n");
        program.set("sandbox", json!({ "write": [listed] })).install();
    }
    for name in ["one", "two"] {
        for arguments in [&["call", name][..], &["inspect", name], &["list"], &["config", "check"]]
        {
            fs::write(plugins.dir().join("hotbay.toml"), "").unwrap();
            let run = hotbay(plugins.dir(), arguments);
            let text = run.text() + &run.stderr;
            assert!(text.contains("which it must not change"), "{arguments:?}: {text}");
        }
    }
}

#[cfg(unix)]
#[test]
fn inspect_prints_what_isolates_a_library() {
    let plugins = Plugins::new();
    let isolated = plugins.add_in("plugins/isolated", "isolated", "faulty");
    isolated.set("isolation", "process").write();
    plugins.add_in("plugins/plain", "plain", "faulty").write();
    let limited = plugins.add_in("plugins/limited", "limited", "faulty");
    limited.set("limits", json!({ "call_memory_bytes": 1000 })).write();
    let runner = hotbay_tests::runner();
    let file = |text: &str| {
        let text = format!("runner = '{}'\n{text}", runner.display());
        fs::write(plugins.dir().join("hotbay.toml"), text).unwrap();
    };
    let check = |name: &str, text: &str, json: serde_json::Value| {
        let printed = hotbay(plugins.dir(), &["inspect", name]).exits(0).text();
        let lines: Vec<_> =
            printed.lines().filter(|line| line.starts_with("  isolation")).collect();
        assert_eq!(lines.concat().trim_start_matches("  isolation      "), text, "{printed}");
        let row = "  sandbox        none: it can do what the host can do\n";
        assert_eq!(printed.contains(row), !text.is_empty(), "{printed}");
        let printed = hotbay(plugins.dir(), &["inspect", name, "--json"]).exits(0).json();
        assert_eq!(printed["isolation"], json, "{printed}");
    };
    let set_by = |by: &str| json!({ "mode": "process", "set_by": by });
    file("[plugins.limited]\nisolation = 'process'\n");
    check("plain", "", json!(null));
    let text = "runs in its own process: `isolation` in its plugin.json";
    check("isolated", text, set_by("plugin.json"));
    let text = "runs in its own process: `isolation` in `[plugins.limited]` of hotbay.toml";
    check("limited", text, set_by("plugins.limited.isolation"));
    let note = "`limits.call_memory_bytes` is not checked: the plugin runs in its own process";
    for arguments in [&["inspect", "limited"][..], &["config", "check"]] {
        let run = hotbay(plugins.dir(), arguments).exits(0);
        assert_eq!((run.text() + &run.stderr).matches(note).count(), 1, "{}", run.stderr);
    }
    file("[sandbox]\nisolate_libraries = true\n");
    let text = "runs in its own process: `isolate_libraries` in `[sandbox]` of hotbay.toml";
    check("plain", text, set_by("sandbox.isolate_libraries"));
    // In the process of the host, the limit applies.
    file("[plugins.isolated.limits]\ncall_memory_bytes = 1000\n");
    let json = hotbay(plugins.dir(), &["inspect", "limited", "--json"]).exits(0).json();
    assert_eq!(json["notes"], json!([]));
    let json = hotbay(plugins.dir(), &["inspect", "isolated", "--json"]).exits(0).json();
    assert!(json["notes"][0].as_str().unwrap().starts_with(note), "{json}");
}

#[cfg(unix)]
#[test]
fn doctor_names_the_runner_and_follows_the_configuration() {
    let plugins = examples();
    let doctor = |arguments: &[&str]| hotbay(plugins.dir(), arguments).exits(0);
    fs::write(plugins.dir().join("hotbay.toml"), "runner = 'none'\n").unwrap();
    let text = doctor(&["doctor"]).text();
    assert!(text.contains("isolated libraries: no program `hotbay-runner`"), "{text}");
    assert!(text.contains("none` is not a file"), "{text}");
    let json = doctor(&["doctor", "--json"]).json();
    assert!(json["runner"].is_null() && json["runner_problem"].is_object(), "{json}");
    // A mistake in the file does not hide what the machine can do.
    fs::write(plugins.dir().join("hotbay.toml"), "runner = 1\n").unwrap();
    let run = doctor(&["doctor"]);
    assert!(
        run.text().contains("syscalls") && run.stderr.contains("`runner` is 1"),
        "{}",
        run.stderr
    );
    let list = hotbay(plugins.dir(), &["list", "--config", "nope.toml"]).exits(1);
    let run = hotbay(plugins.dir(), &["doctor", "--config", "nope.toml"]).exits(1);
    assert!(run.stderr.starts_with("error: ") && run.text().is_empty(), "{}", run.stderr);
    assert_eq!(run.stderr, list.stderr);
    hotbay(plugins.dir(), &["doctor", "--config", "hotbay.toml"]).exits(1);
}

#[test]
fn unknown_plugin_name_prints_hint() {
    let plugins = examples();
    hotbay(plugins.dir(), &["inspect", "transfrom"]).exits(1).shows(str![[r#"
$ hotbay inspect transfrom
--- stderr
error: plugin `transfrom` not found in `plugins`
  hint: did you mean `transform`?
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &["call", "zzz", "--text", ""]).exits(1).shows(str![[r#"
$ hotbay call zzz --text ''
--- stderr
error: plugin `zzz` not found in `plugins`
  hint: run `hotbay list` to see all plugins
--- exit code 1
"#]]);
}

#[test]
fn plugin_name_in_two_folders_is_ambiguous() {
    let plugins = Plugins::new();
    plugins.add_in("one", "twin", "faulty").write();
    plugins.add_in("two", "twin", "faulty").write();
    hotbay(plugins.dir(), &["inspect", "twin", "--dir", "."]).exits(1).shows(str![[r#"
$ hotbay inspect twin --dir .
--- stderr
error: found 2 plugins named `twin`: `./one`, `./two`
  hint: pass the plugin's folder instead of its name
--- exit code 1
"#]]);
}

#[test]
fn tampered_library_is_refused_with_both_digests() {
    let plugins = examples();
    let corrupt = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    plugins.add_in("plugins/bad", "bad", "faulty").stale_digest().bytes(corrupt).write();
    hotbay(plugins.dir(), &["inspect", "bad"]).exits(1).shows(str![[r#"
$ hotbay inspect bad
bad [VER] (library)
  folder         plugins/bad
  requires API   ^1.0
  package        faulty [VER]
  built for API  [API]
  compiler       rustc [RUSTC]
  target         [TARGET], panic=unwind
  library        [ROOT]/plugins/bad/libfaulty.so
  bytes          [BYTES]
  SHA-256        [DIGEST]
  digest         differs from the manifest: [DIGEST]
  links          [NAMES]
  exports        [NAMES]
state: refused: digest: `[ROOT]/plugins/bad/libfaulty.so` has SHA-256 [DIGEST], but its manifest expects [DIGEST]
  hint: install the file again if it is incomplete, or run `hotbay seal DIR` to write its current digest
--- exit code 1
"#]]);
    let json = hotbay(plugins.dir(), &["inspect", "bad", "--json"]).exits(1).json();
    assert_eq!(json["problem"]["step"], "digest");
    assert_eq!(json["library"]["verified"], false);
    hotbay(plugins.dir(), &["call", "bad", "--text", "x"]).exits(1).shows(str![[r#"
$ hotbay call bad --text x
--- stderr
error: plugin `bad` failed to load at step `digest`
  because: `[ROOT]/plugins/bad/libfaulty.so` has SHA-256 [DIGEST], but its manifest expects [DIGEST]
  hint: install the file again if it is incomplete, or run `hotbay seal DIR` to write its current digest
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &["check"]).exits(1).shows(str![[r#"
$ hotbay check
NAME       VERSION  RESULT   LIBRARY  NOTES
bad        [VER]    refused  -        digest: `[ROOT]/plugins/bad/libfaulty.so` has SHA-256 [DIGEST], but its manifest expects [DIGEST]
filter     [VER]    passed   closed
transform  [VER]    passed   closed
--- stderr
hint: plugin `bad`: install the file again if it is incomplete, or run `hotbay seal DIR` to write its current digest
2 of 3 passed
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn tampered_program_is_refused_with_both_digests() {
    let plugins = Plugins::new();
    let program = ProgramFolder::new(plugins.dir(), "bad").built("served", "served");
    program.set("package", "served").set("sha256", "ab".repeat(32)).install();
    let args = ["inspect", "bad", "--dir", ".", "--json"];
    let json = hotbay(plugins.dir(), &args).exits(1).json();
    assert_eq!(json["problem"]["step"], "digest");
    assert_eq!(json["program"]["verified"], false);
    hotbay(plugins.dir(), &["call", "bad", "--dir", ".", "--text", "x"]).exits(1).shows(str![[r#"
$ hotbay call bad --dir . --text x
--- stderr
error: plugin `bad` failed to load at step `digest`
  because: `[ROOT]/bad/program` has SHA-256 [DIGEST], but its manifest expects [DIGEST]
  hint: install the file again if it is incomplete, or run `hotbay seal DIR` to write its current digest
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn paths_of_a_sandbox_below_a_relative_folder_are_checked() {
    let plugins = Plugins::new();
    let program = ProgramFolder::new(plugins.dir(), "linked");
    let folder = program.set("sandbox", json!({ "read": ["{plugin}/link"] })).install();
    std::os::unix::fs::symlink("/", folder.join("link")).unwrap();
    let text = hotbay(plugins.dir(), &["inspect", "linked", "--dir", "."]).exits(1).text();
    assert!(text.contains("which leads to `/`, outside of"), "{text}");
}
