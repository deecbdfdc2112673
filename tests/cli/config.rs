//! `hotbay config`, and the configuration of the other verbs.

use std::fs;

use hotbay_tests::Plugins;
use serde_json::json;
use snapbox::str;

use crate::command::{hotbay, unverified};

/// A folder with the plugin `echo` and a `hotbay.toml`.
fn configured(text: &str) -> Plugins {
    let plugins = Plugins::new();
    let config = json!({ "answers": "manifest" });
    let echo = plugins.add_in("plugins/echo", "echo", "faulty").config(config);
    echo.set("permissions", ["log", "read"]).write();
    fs::write(plugins.dir().join("hotbay.toml"), text).unwrap();
    plugins
}

const FILE: &str = "plugin_dirs = ['plugins']
[permissions]
default = ['log', 'write']
[plugins.echo.config]
'api.key' = '${HOTBAY_TEST_TOKEN:-hunter2}'
token = 'a${HOTBAY_TEST_TOKEN:-hunter2}'
[plugins.second]
folder = 'plugins/echo'
config.answers = 'second'
[plugins.second.limits]
workers = 1
";

#[test]
fn values_are_shown_with_their_places_and_without_secrets() {
    let plugins = configured(FILE);
    let run = hotbay(plugins.dir(), &["config", "show"]).exits(0);
    let text = run.text();
    assert!(!text.contains("hunter2"), "{text}");
    for (value, place) in [
        ("plugin_dirs = [\"plugins\"]", "hotbay.toml:1"),
        ("permissions.default = [\"log\", \"write\"]", "hotbay.toml:3"),
        ("plugins.echo.config.token = (hidden)", "hotbay.toml:6"),
        ("plugins.echo.config.\"api.key\" = (hidden)", "hotbay.toml:5"),
        ("plugins.echo.config.answers = \"manifest\"", "plugins/echo/plugin.json"),
        ("plugins.second.config.answers = \"second\"", "hotbay.toml:9"),
        ("plugins.second.limits.workers = 1", "hotbay.toml:11"),
        ("limits.drain_timeout = \"30s\"", "default"),
        ("quarantine.max_faults = 5", "default"),
    ] {
        let is_line = |line: &str| {
            line.split_once("  # ")
                .is_some_and(|(found, at)| found.trim_end() == value && at == place)
        };
        assert!(text.lines().any(is_line), "{value} # {place} in {text}");
    }
    let json = hotbay(plugins.dir(), &["config", "show", "--json"]).exits(0).json();
    let values = json["values"].as_array().unwrap();
    let token = values.iter().find(|value| value["path"] == "plugins.echo.config.token").unwrap();
    assert_eq!((&token["value"], &token["is_secret"]), (&json!(null), &json!(true)));
    let inspected = hotbay(plugins.dir(), &["inspect", "echo"]).exits(0).text();
    assert!(
        inspected.contains(r#"{"answers":"manifest","api.key":"(hidden)","token":"(hidden)"}"#),
        "{inspected}"
    );
    let inspected = hotbay(plugins.dir(), &["inspect", "echo", "--json"]).exits(0).text();
    assert!(!inspected.contains("hunter2") && inspected.contains("(hidden)"), "{inspected}");
}

#[test]
fn permissions_are_shown_side_by_side() {
    let plugins = configured(FILE);
    let text = hotbay(plugins.dir(), &["inspect", "echo"]).exits(0).text();
    let expected = "  permissions    log    requested      granted      allowed
                 read   requested      not granted  denied
                 write  not requested  granted      unused
";
    assert!(text.contains(expected), "{text}");
    let json = hotbay(plugins.dir(), &["inspect", "echo", "--json"]).exits(0).json();
    let read = json!({
        "permission": "read", "is_requested": true, "is_granted": false, "is_allowed": false,
    });
    assert_eq!(json["permissions"][1], read);
}

#[test]
fn other_verbs_follow_the_file() {
    let plugins = configured(FILE);
    let call = |name: &str| hotbay(plugins.dir(), &["call", name, "--text", "x"]).exits(0).text();
    assert_eq!(call("echo"), "manifest");
    assert_eq!(call("second"), "second");
    let text = hotbay(plugins.dir(), &["list"]).exits(0).text();
    assert!(text.contains("second") && text.contains("echo"), "{text}");
    let other = plugins.dir().join("other.toml");
    fs::write(other, "plugin_dirs = ['plugins']\n[plugins.echo]\nenabled = false\n").unwrap();
    let text = hotbay(plugins.dir(), &["list", "--config", "other.toml"]).exits(0).text();
    assert!(text.contains("disabled") && !text.contains("second"), "{text}");
    let run = hotbay(plugins.dir(), &["list", "--config", "none.toml"]).exits(1);
    assert!(run.stderr.contains("none.toml"), "{}", run.stderr);
    let text =
        hotbay(plugins.dir(), &["inspect", "echo", "--config", "other.toml"]).exits(0).text();
    assert!(text.ends_with("state: disabled\n"), "{text}");
    let run = hotbay(plugins.dir(), &["call", "echo", "--config", "other.toml"]).exits(1);
    assert!(run.stderr.contains("plugin `echo` is disabled"), "{}", run.stderr);
    let text = hotbay(plugins.dir(), &["inspect", "second"]).exits(0).text();
    assert!(text.contains(r#"{"answers":"second"}"#) && text.starts_with("second "), "{text}");
}

#[test]
fn check_reports_what_does_not_exist() {
    let plugins = configured(FILE);
    let run = hotbay(plugins.dir(), &["config", "check"]).exits(0);
    assert_eq!(run.text(), "hotbay.toml: valid (7 values in 1 file)\n");
    let file = plugins.dir().join("hotbay.toml");
    fs::write(
        &file,
        "plugin_dirs = ['plugins', 'none']\n[providers]\nkey-value = ['eko']\n[plugins.ecko]\nconfig.a = 1\n\
         [plugins.copy]\nfolder = 'nowhere'\n",
    )
    .unwrap();
    hotbay(plugins.dir(), &["config", "check"]).exits(1).shows(str![[r#"
$ hotbay config check
--- stderr
error: hotbay.toml:1:15: `plugin_dirs` has `none`, which is not a folder
error: hotbay.toml:3:13: `providers.key-value` names the plugin `eko`, which was not found
error: hotbay.toml:7:10: plugin `copy`: manifest: cannot read `[ROOT]/nowhere`: No such file or directory (os error [ERRNO])
error: hotbay.toml:5:12: `plugins.ecko` names a plugin that was not found
  hint: did you mean `echo`?
--- exit code 1
"#]]);
    fs::write(&file, "[limits]\nmax_worker = 1\ndrain_timeout = 5\n").unwrap();
    hotbay(plugins.dir(), &["config", "check"]).exits(1).shows(str![[r#"
$ hotbay config check
--- stderr
error: invalid configuration of the host
  because: hotbay.toml has 2 mistakes:
      2:1: `limits.max_worker` is not a known field
      3:17: `limits.drain_timeout` is 5; expected a duration such as `50ms`, `1.5s` or `2m`
  hint: did you mean `max_workers`?
--- exit code 1
"#]]);
    fs::write(&file, "[sandbox]\nrequird = true\n").unwrap();
    let run = hotbay(plugins.dir(), &["config", "check"]).exits(1);
    assert!(run.stderr.ends_with("hint: did you mean `required`?\n"), "{}", run.stderr);
    fs::remove_file(&file).unwrap();
    hotbay(plugins.dir(), &["config", "check"]).exits(1).shows(str![[r#"
$ hotbay config check
--- stderr
error: `hotbay.toml` does not exist in the current folder
  hint: name the file with `--config`, or create one; host/manifest/HOTBAY_TOML.md lists its fields
--- exit code 1
"#]]);
}

#[cfg(unix)]
#[test]
fn check_reports_what_this_machine_lacks() {
    let plugins = configured(FILE);
    let file = plugins.dir().join("hotbay.toml");
    let check = || hotbay(plugins.dir(), &["config", "check"]);
    fs::write(&file, "runner = 'none'\n[sandbox]\ncgroup = 'nowhere'\n").unwrap();
    let run = check().exits(1);
    for text in
        ["no program `hotbay-runner`", "`none` is not a file", "`sandbox.cgroup` is `nowhere`"]
    {
        assert!(run.stderr.contains(text), "{}", run.stderr);
    }
    // Also of plugins that the file does not name.
    let text = "runner = '{}'\n[sandbox]\nrequired = true\nisolate_libraries = true\n";
    let text = text.replace("{}", hotbay_tests::runner().to_str().unwrap());
    fs::write(&file, text).unwrap();
    let run = check().exits(1);
    assert!(run.stderr.contains("plugin `echo`: confine: it has no sandbox"), "{}", run.stderr);
    fs::write(&file, "signatures = 'required'\n").unwrap();
    let run = check().exits(0);
    assert!(run.stderr.contains("this file has no `[keys.NAME]`"), "{}", run.stderr);
}

#[cfg(unix)]
#[test]
fn check_notes_plugins_that_bounds_do_not_confine() {
    let plugins = configured("[sandbox]\nread = ['/usr/share']\nlimits = { open_files = 64 }\n");
    let dir = plugins.dir().join("plugins");
    let program = |name: &str| hotbay_tests::ProgramFolder::new(&dir, name);
    program("plain").install();
    program("requests").set("sandbox", json!({ "preset": "native" })).install();
    let check = |text: &str| {
        fs::write(plugins.dir().join("hotbay.toml"), text).unwrap();
        hotbay(plugins.dir(), &["config", "check"]).exits(0)
    };
    check("[sandbox]\nread = ['/usr/share']\nlimits = { open_files = 64 }\n").shows(str![[r#"
$ hotbay config check
hotbay.toml: valid (2 values in 1 file)
--- stderr
note: hotbay.toml:3:25: `[sandbox]` does not confine plugins without a sandbox: `plain`
  hint: add `[plugins.NAME.sandbox]`, or refuse such plugins with `required = true` in `[sandbox]`
"#]]);
    // A list that the section of a plugin without another sandbox does not set grants nothing.
    check(
        "[sandbox]\nread = ['/usr/share']\nlimits = { open_files = 64 }\n\
         [plugins.plain.sandbox]\npreset = 'native'\n[plugins.requests.sandbox]\nwrite = []\n",
    )
    .shows(str![[r#"
$ hotbay config check
hotbay.toml: valid (4 values in 1 file)
--- stderr
note: hotbay.toml:5:10: `[plugins.plain.sandbox]` replaces the bounds in `[sandbox]`, but does not set `limits.open_files`
  hint: repeat there what must still apply
note: hotbay.toml:7:9: `[plugins.requests.sandbox]` replaces the bounds in `[sandbox]`, but does not set `limits.open_files`, `read`
  hint: repeat there what must still apply
"#]]);
    let text = "[sandbox]\nread = []\n[plugins.plain]\nenabled = false\n";
    assert_eq!(check(text).stderr, "");
    // An empty section confines the plugin.
    let text = "[sandbox]\nread = []\n[plugins.plain.sandbox]\n[plugins.requests]\nenabled = false";
    assert_eq!(check(text).stderr, "");
    let text = "[sandbox]\nwrite = ['/usr', '/no/such/folder']\n[plugins.plain]\nenabled = false\n";
    let note = check(text).stderr;
    assert!(note.starts_with("note: hotbay.toml:2:9: `sandbox.write` lists `/no/such/"), "{note}");
    assert_eq!(check("[sandbox]\nnamespaces = true\n").stderr, "");
}

#[cfg(unix)]
#[test]
fn check_notes_libraries_that_required_does_not_confine() {
    let text = "[sandbox]\nrequired = true\n";
    let plugins = configured(text);
    let run = hotbay(plugins.dir(), &["config", "check"]).exits(0);
    run.shows(str![[r#"
$ hotbay config check
hotbay.toml: valid (1 value in 1 file)
--- stderr
note: hotbay.toml:2:12: `required` does not apply to libraries in the host's own process, which cannot be confined: `echo`
  hint: set `isolate_libraries = true` in `[sandbox]`
"#]]);
    let json = hotbay(plugins.dir(), &["config", "check", "--json"]).exits(0).json();
    assert_eq!(json["notes"].as_array().map(Vec::len), Some(1), "{json}");
    let check = |exception: &str| {
        fs::write(plugins.dir().join("hotbay.toml"), format!("{text}{exception}")).unwrap();
        hotbay(plugins.dir(), &["config", "check"]).exits(0).stderr
    };
    assert_eq!(check("[plugins.echo]\nenabled = false\n"), "");
    let note = check("[plugins.echo]\nisolation = 'none'\n");
    assert!(note.contains("`echo` is an exception from `required`"), "{note}");
    assert_eq!(note.lines().count(), 1, "{note}");
}

#[cfg(target_os = "linux")]
#[test]
fn check_notes_controllers_that_are_missing() {
    let plugins = configured("[sandbox]\ncgroup = 'group'\n");
    let group = plugins.dir().join("group");
    fs::create_dir(&group).unwrap();
    let enable = |controllers: &str| {
        fs::write(group.join("cgroup.controllers"), controllers).unwrap();
        fs::write(group.join("cgroup.subtree_control"), "").unwrap();
        hotbay(plugins.dir(), &["config", "check"])
    };
    enable("cpu\n").exits(0).shows(str![[r#"
$ hotbay config check
hotbay.toml: valid (1 value in 1 file)
--- stderr
note: hotbay.toml:2:10: `group` has no controller `memory`, so the limit memory_bytes is partial (allocations of one process above it fail; the memory of all processes is checked each [DURATION], without files in memory that are not mapped)
  hint: delegate `memory` to the user of the host, too
note: hotbay.toml:2:10: `group` has no controller `pids`, so the limit processes is partial (checked each [DURATION]: a program that exceeds it meanwhile is stopped)
  hint: delegate `pids` to the user of the host, too
"#]]);
    assert_eq!(enable("cpu memory pids\n").exits(0).stderr, "");
    let run = enable("memory\n").exits(1);
    for text in ["error: hotbay.toml:2:10: `", "` has no controller `cpu`", "no controller `pids`"]
    {
        assert!(run.stderr.contains(text), "{}", run.stderr);
    }
}

#[test]
fn check_notes_keys_that_are_expired_or_name_no_plugin() {
    let plugins = configured("");
    let made = hotbay(plugins.dir(), &["sign", "--new-key", "a.key", "--no-password", "--json"]);
    let key = made.exits(0).json()["public_key"].as_str().unwrap().to_owned();
    let text = format!(
        "[keys.old]\npublic_key = '{key}'\nexpires = '2020-02-29'\n\
         plugins = ['ecko', 'echo', 'more-*', 'second']\n\
         [plugins.second]\nfolder = 'plugins/echo'\n"
    );
    fs::write(plugins.dir().join("hotbay.toml"), &text).unwrap();
    hotbay(plugins.dir(), &["config", "check"]).exits(0).shows(str![[r#"
$ hotbay config check
hotbay.toml: valid (4 values in 1 file)
--- stderr
note: hotbay.toml:3:11: key `old` has expired: its last day of trust was 2020-02-29
  hint: sign its plugins with another key, or change `expires`
note: hotbay.toml:4:11: `keys.old.plugins` names the plugin `ecko`, which was not found
  hint: did you mean `echo`?
note: hotbay.toml:4:11: `keys.old.plugins` names the plugin `second`, which was not found
  hint: a key signs the name in plugin.json, which all instances have
"#]]);
    let valid = text.replace("2020-02-29", "9999-12-31").replace("'ecko', ", "");
    fs::write(plugins.dir().join("hotbay.toml"), valid.replace(", 'second'", "")).unwrap();
    assert_eq!(hotbay(plugins.dir(), &["config", "check"]).exits(0).stderr, "");
}

#[test]
fn check_ignores_problems_of_disabled_plugins() {
    let section = "[plugins.echo]\nsandbox.preset = 'native'\n[plugins.copy]\nfolder = 'nowhere'\n";
    let plugins = configured(section);
    let check = || hotbay(plugins.dir(), &["config", "check"]);
    let run = check().exits(1);
    for problem in [
        "2:18: plugin `echo`: confine: it has a sandbox, but runs in the host's own process",
        "4:10: plugin `copy`: manifest: cannot read",
    ] {
        assert!(run.stderr.contains(problem), "{}", run.stderr);
    }
    let disabled = section.replace("]\n", "]\nenabled = false\n");
    fs::write(plugins.dir().join("hotbay.toml"), disabled).unwrap();
    let run = check().exits(0);
    assert_eq!(run.stderr, "");
    // Nothing is disabled by this name.
    fs::write(plugins.dir().join("hotbay.toml"), "[plugins.ecko]\nenabled = false\n").unwrap();
    let run = check().exits(1);
    assert!(run.stderr.contains("did you mean `echo`?"), "{}", run.stderr);
}

#[cfg(unix)]
#[test]
fn checks_of_instances_of_one_folder_are_separate() {
    let text = "[sandbox]\nrequired = true\nisolate_libraries = true\n[plugins.second]\n\
                folder = 'plugins/echo'\nsandbox = { preset = 'native' }\n[plugins.third]\n\
                folder = 'plugins/echo'\nenabled = false\n";
    let text = format!("runner = '{}'\n{text}", hotbay_tests::runner().display());
    let plugins = configured(&text);
    let run = hotbay(plugins.dir(), &["check", "--json"]).exits(1);
    let json = run.json();
    let result = |name: &str| {
        let plugins = json["plugins"].as_array().unwrap();
        plugins.iter().find(|one| one["name"] == name).map(|one| one["result"].clone())
    };
    assert_eq!(result("echo"), Some(json!("refused")), "{json}");
    assert_eq!(result("second"), Some(json!("passed")), "{json}");
    assert_eq!(result("third"), None);
    let disabled = "[plugins.echo]\nenabled = false\n";
    fs::write(plugins.dir().join("hotbay.toml"), disabled).unwrap();
    hotbay(plugins.dir(), &["check"]).exits(1).shows(str![[r#"
$ hotbay check
--- stderr
note: plugin `echo` is disabled, so it is not checked
error: nothing to check: all plugins are disabled
--- exit code 1
"#]]);
}

#[test]
fn checks_of_unverified_instances_are_separate() {
    let text = "[plugins.second]\nfolder = 'plugins/one'\nconfig = { abort_in = 'none' }\n";
    let plugins = configured(text);
    unverified(&plugins, "one", json!({ "abort_in": "init" }));
    let requires = |name: &str, required: &str| {
        let folder = format!("plugins/{name}");
        let needs = plugins.add_in(&folder, name, "faulty").unverified();
        needs.set("requires", json!({ required: "*" })).write();
    };
    requires("needs-one", "one");
    requires("needs-second", "second");
    let json = hotbay(plugins.dir(), &["check", "--json"]).exits(1).json();
    let results = json["plugins"].as_array().unwrap().iter();
    let results: Vec<_> = results
        .map(|one| (one["name"].as_str().unwrap(), one["result"].as_str().unwrap()))
        .collect();
    let expected = [
        ("echo", "passed"),
        ("needs-one", "refused"),
        ("needs-second", "passed"),
        ("one", "refused"),
        ("second", "passed"),
    ];
    assert_eq!(results, expected, "{json}");
}

#[cfg(unix)]
#[test]
fn check_runs_no_program_that_the_host_refuses_to_run() {
    let text = "[sandbox]\nrequired = true\n[plugins.program]\nenabled = false\nsandbox = { preset = 'native' }\n\
                [plugins.second]\nfolder = 'plugins/program'\n";
    let plugins = configured(text);
    hotbay_tests::ProgramFolder::new(plugins.dir().join("plugins"), "program").install();
    let json = hotbay(plugins.dir(), &["check", "--json"]).exits(1).json();
    let second = json["plugins"].as_array().unwrap().iter().find(|one| one["name"] == "second");
    let second = second.unwrap();
    assert_eq!(second["problem"]["step"], "confine", "{json}");
    assert_eq!(second["steps"], json!(null), "{json}");
}

#[test]
fn schema_is_printed_whatever_the_file_has() {
    let plugins = configured("not TOML");
    let schema = hotbay(plugins.dir(), &["config", "schema"]).exits(0).json();
    assert_eq!(schema["properties"]["plugin_dirs"]["type"], "array");
    // A verb that loads nothing does not read the file.
    hotbay(plugins.dir(), &["seal", "plugins/echo"]).exits(0);
    hotbay(plugins.dir(), &["list"]).exits(1);
}

#[test]
fn call_starts_a_required_instance() {
    let text = "plugin_dirs = ['plugins']\n[plugins.copy]\nfolder = 'plugins/echo'\n";
    let plugins = configured(text);
    let needs = plugins.add_in("plugins/needs", "needs", "faulty");
    needs.set("requires", json!({ "copy": "*" })).write();
    let run = hotbay(plugins.dir(), &["call", "needs", "--text", "hello"]).exits(0);
    assert_eq!(run.text(), "hello");
}
