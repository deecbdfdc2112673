//! The start of an isolated library: the runner, the private copy, and what a host refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use hotbay::confinement::ConfinementPolicy;
use hotbay::manifest::Isolation;
use hotbay::{
    ConfigFile, ErrorKind, Host, HostEvent, LoadOptions, LoadStep, Output, Request, inspect,
};
use hotbay_tests::{Plugin, Plugins, block_on, event, loaded, refused, runner, until};
use serde_json::json;
use tempfile::TempDir;

use super::process_of;
use crate::process::fixture::kill;

fn isolated(plugins: &Plugins) -> Plugin {
    plugins.add("crashing", "crashing").set("isolation", "process")
}

/// Returns a folder with a program that prints its arguments as an error.
fn other_runner(script: &str, mode: u32) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("runner");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
    (folder, program)
}

#[test]
fn plugin_shows_its_isolation() {
    let plugins = Plugins::new();
    runner();
    let host = Host::builder().build().unwrap();
    let plugin = loaded(&host, isolated(&plugins).write());
    loaded(&host, plugins.add("own", "crashing").write());
    let own = host.plugin("own").unwrap();
    assert_ne!(process_of(&plugin), Some(std::process::id()));
    assert_eq!(process_of(&own), Some(std::process::id()));
    let isolation = |name: &str| {
        let list = host.list();
        let info = list.iter().find(|info| info.name.as_str() == name).expect("it is loaded");
        info.manifest.isolation()
    };
    assert_eq!((isolation("crashing"), isolation("own")), (Isolation::Process, Isolation::None));
}

#[test]
fn other_program_as_runner_is_named() {
    let plugins = Plugins::new();
    let folder = isolated(&plugins).write();
    let host = Host::builder().runner("/bin/true").build().unwrap();
    let error = refused(&host, &folder);
    let message = error.full_message();
    assert!(message.contains("the runner `/bin/true` printed invalid"), "{message}");
    let hint = error.hint().expect("a hint");
    assert!(hint.contains("correct `runner` in hotbay.toml"), "{hint}");
}

#[test]
fn missing_runner_is_named_with_the_searched_places() {
    let plugins = Plugins::new();
    let folder = isolated(&plugins).write();
    let host = Host::builder().runner("/no/such/runner").build().unwrap();
    let error = refused(&host, &folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::StartFailed, Some(LoadStep::Launch)));
    let message = error.full_message();
    assert!(message.contains("`/no/such/runner` is not a file"), "{message}");
    let hint = error.hint().expect("a hint");
    assert!(hint.contains("host/runner") && hint.contains("`HostBuilder::runner`"), "{hint}");
}

#[test]
fn runner_that_is_not_executable_is_named() {
    let plugins = Plugins::new();
    let folder = isolated(&plugins).write();
    let (_folder, program) = other_runner("#!/bin/sh\n", 0o644);
    let host = Host::builder().runner(&program).build().unwrap();
    let error = refused(&host, &folder);
    let message = error.full_message();
    let runner = format!("cannot use the runner `{}`", program.display());
    assert!(message.contains(&runner), "{message}");
    assert!(message.contains("this user may not execute it"), "{message}");
    assert!(error.hint().is_some_and(|hint| hint.starts_with("make it executable")), "{error:?}");
}

#[test]
fn runner_that_others_can_replace_is_refused() {
    let plugins = Plugins::new();
    let folder = isolated(&plugins).write();
    let (_folder, program) = other_runner("#!/bin/sh\n", 0o777);
    let host = Host::builder().runner(&program).build().unwrap();
    let message = refused(&host, &folder).full_message();
    assert!(message.contains("cannot use the runner"), "{message}");
    assert!(message.contains(&program.display().to_string()), "{message}");
}

#[test]
fn failed_runner_is_named_beside_the_library() {
    let plugins = Plugins::new();
    let folder = isolated(&plugins).write();
    let script = "#!/bin/sh\necho \"$0: not found\" >&2\nexit 3\n";
    let (_folder, program) = other_runner(script, 0o755);
    let host = Host::builder().runner(&program).build().unwrap();
    let message = refused(&host, &folder).full_message();
    let library = hotbay_tests::library_file_name("crashing");
    let runner = program.display();
    let library = folder.join(library);
    let expected = format!("the runner `{runner}` of `{}` exited with code 3", library.display());
    assert!(message.contains(&expected), "{message}");
    assert!(message.contains(&format!("output: {runner}: not found")), "{message}");
}

#[test]
fn runner_of_another_version_is_refused() {
    let plugins = Plugins::new();
    let folder = isolated(&plugins).write();
    let script = format!("#!/bin/sh\nshift\nexec '{}' 9.9.9 \"$@\"\n", runner().display());
    let (_folder, program) = other_runner(&script, 0o755);
    let host = Host::builder().runner(&program).build().unwrap();
    let error = refused(&host, &folder);
    let message = error.full_message();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("hotbay-runner has version {version}, but the host has 9.9.9");
    assert!(message.contains(&expected), "{message}");
    assert_eq!(error.step(), Some(LoadStep::Capabilities));
}

#[test]
fn library_is_verified_before_the_runner_starts() {
    let plugins = Plugins::new();
    let folder = isolated(&plugins).stale_digest().bytes(|bytes| bytes.push(0)).write();
    // A runner that would be noticed.
    let (place, program) = other_runner("#!/bin/sh\ntouch \"$0.ran\"\n", 0o755);
    let host = Host::builder().runner(&program).build().unwrap();
    let error = refused(&host, &folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Integrity, Some(LoadStep::Digest)));
    let folder = isolated(&plugins).set("version", "9.9.9").write();
    let error = refused(&host, &folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Incompatible, Some(LoadStep::Version)));
    let entries: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
}

#[test]
fn removed_private_copy_is_made_again_of_the_same_bytes() {
    let plugins = Plugins::new();
    runner();
    let staging = tempfile::tempdir().unwrap();
    let host = Host::builder().quarantine(None).staging_dir(staging.path()).build().unwrap();
    let folder = isolated(&plugins).write();
    let plugin = loaded(&host, &folder);
    let mut events = host.events();
    let library = folder.join(hotbay_tests::library_file_name("crashing"));
    let copy = |plugin: &hotbay::PluginHandle| -> Option<PathBuf> {
        let arguments: Vec<String> = plugin.call(Request::text("arguments")).ok()?.json().ok()?;
        Some(PathBuf::from(&arguments[2]))
    };
    let first = copy(&plugin).expect("it serves");
    assert!(first.starts_with(staging.path().canonicalize().unwrap()), "{}", first.display());
    fs::remove_file(&first).unwrap();
    kill(process_of(&plugin).unwrap());
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    let second = copy(&plugin).expect("it serves again");
    assert_ne!(first, second);
    // Another build is not run in its place.
    fs::remove_file(&second).unwrap();
    let kept = plugins.dir().join("kept");
    fs::rename(&library, &kept).unwrap();
    fs::write(&library, "another build").unwrap();
    kill(process_of(&plugin).unwrap());
    let message = until("the failed start is reported", || {
        let error = plugin.call(Request::text("pid")).err()?.full_message();
        error.contains("has changed since").then_some(error)
    });
    assert!(message.contains("has changed since"), "{message}");
    fs::rename(&kept, &library).unwrap();
    until("it serves again", || process_of(&plugin));
    drop(plugin);
    block_on(host.unload("crashing")).unwrap();
    // The task of its process still holds the copy when that is reported.
    until("the copies are removed", || (files_below(staging.path()) == 0).then_some(()));
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[test]
fn operator_isolates_a_library_by_the_configuration() {
    let plugins = Plugins::new();
    let folder = plugins.add("crashing", "crashing").write();
    let file = plugins.dir().join("hotbay.toml");
    for (isolation, is_isolated) in [("process", true), ("none", false)] {
        let text = format!(
            "runner = '{}'\n[plugins.crashing]\nisolation = '{isolation}'\n",
            runner().display()
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let host = Host::builder().config_file(&file).build().unwrap();
        let plugin = loaded(&host, &folder);
        assert_eq!(process_of(&plugin) != Some(std::process::id()), is_isolated);
    }
}

#[test]
fn host_isolates_all_libraries_but_the_exceptions() {
    let plugins = Plugins::new();
    let folder = plugins.add("crashing", "crashing").set("isolation", "none").write();
    let own = plugins.add("own", "crashing").write();
    let file = plugins.dir().join("hotbay.toml");
    let text = format!("runner = '{}'\n[plugins.own]\nisolation = 'none'\n", runner().display());
    let sections = "[sandbox]\nisolate_libraries = true\n";
    for (more, policy) in [(sections, false), ("", true)] {
        fs::write(&file, format!("{text}{more}")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let policy = ConfinementPolicy::default().with_isolate_libraries(policy);
        let host = Host::builder().confinement(policy).config_file(&file).build().unwrap();
        let plugin = loaded(&host, &folder);
        let process = process_of(&plugin);
        assert_ne!(process, Some(std::process::id()));
        assert_eq!(process_of(&loaded(&host, &own)), Some(std::process::id()));
        let config = json!({ "round": more });
        plugins.add("crashing", "crashing").config(config).write();
        hotbay_tests::reloaded(&host, "crashing");
        let reloaded = process_of(&plugin);
        assert!(reloaded != Some(std::process::id()) && reloaded != process, "{reloaded:?}");
    }
}

fn isolating() -> ConfinementPolicy {
    ConfinementPolicy::default().with_isolate_libraries(true)
}

#[test]
fn all_libraries_are_isolated_whatever_loads_them() {
    let plugins = Plugins::new();
    let folder = plugins.add("crashing", "crashing").write();
    let file = plugins.dir().join("hotbay.toml");
    let text = format!(
        "runner = '{}'\n[sandbox]\nisolate_libraries = true\n[plugins.second]\nfolder = '{}'\n",
        runner().display(),
        folder.display()
    );
    fs::write(&file, &text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let host = Host::builder()
        .plugin_dir(plugins.dir())
        .config_file(&file)
        .register_fn("compiled", |_, _| Output::json(&std::process::id()))
        .hot_reload(true)
        .build()
        .unwrap();
    let report = block_on(host.load_all());
    assert!(report.is_clean(), "{report:?}");
    let third = LoadOptions::new().with_name("third");
    block_on(host.load_with(&folder, third)).unwrap();
    let mut events = host.events();
    plugins.add("watched", "crashing").write();
    event(
        &mut events,
        |event| matches!(event, HostEvent::Loaded { plugin, .. } if plugin.as_str() == "watched"),
    );
    let process = |name: &str| process_of(&host.plugin(name).unwrap()).expect("it serves");
    for name in ["crashing", "second", "third", "watched"] {
        assert_ne!(process(name), std::process::id(), "{name}");
    }
    assert_eq!(process("compiled"), std::process::id());
    // It is fixed while the host runs.
    fs::write(&file, text.replace("isolate_libraries = true", "isolate_libraries = false"))
        .unwrap();
    let changes = block_on(host.apply_config(ConfigFile::read(&file).unwrap())).unwrap();
    assert_eq!(changes.needs_restart, ["sandbox.isolate_libraries"]);
    block_on(host.reload("crashing")).unwrap();
    assert_ne!(process("crashing"), std::process::id());
}

#[test]
fn isolated_library_needs_a_required_sandbox() {
    let plugins = Plugins::new();
    let folder = plugins.add("crashing", "crashing").write();
    let builder = || Host::builder().runner(runner()).confinement(isolating().with_required(true));
    let error = refused(&builder().build().unwrap(), &folder);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.full_message().contains("has no sandbox"), "{}", error.full_message());
    let survey = inspect::survey(&builder().plugin_dir(plugins.dir()));
    let problem = survey.plugins[0].problem.as_ref().expect("it is refused");
    assert_eq!(problem.full_message(), error.full_message());
}

#[test]
fn isolated_library_is_not_opened_for_its_abi() {
    let plugins = Plugins::new();
    let folder = plugins.add("crashing", "crashing").write();
    let error = inspect::abi_report(&Host::builder().confinement(isolating()), &folder);
    let error = error.expect_err("it is isolated");
    assert_eq!((error.kind(), error.step()), (ErrorKind::Unsupported, Some(LoadStep::Confine)));
    assert_eq!(inspect::abi_report(&Host::builder(), &folder).unwrap(), None);
}

#[test]
fn missing_runner_is_found_after_problems_of_the_files() {
    let plugins = Plugins::new();
    let builder = || Host::builder().runner("/no/such/runner").confinement(isolating());
    let inspected = |folder: &Path| {
        let problem = inspect::plugin(&builder(), folder).surveyed.problem;
        problem.expect("it is refused")
    };
    let folder = plugins.add("crashing", "crashing").write();
    let problem = inspected(&folder);
    assert_eq!(problem.step(), Some(LoadStep::Launch));
    assert!(problem.full_message().contains("/no/such/runner"), "{}", problem.full_message());
    let survey = inspect::survey(&builder().plugin_dir(plugins.dir()));
    let surveyed = survey.plugins[0].problem.as_ref().expect("it is refused");
    assert_eq!(surveyed.full_message(), problem.full_message());
    let folder = plugins.add("crashing", "crashing").stale_digest().bytes(|it| it.push(0)).write();
    assert_eq!(inspected(&folder).step(), Some(LoadStep::Digest));
}

#[test]
fn changed_isolation_is_applied_by_a_reload() {
    let plugins = Plugins::new();
    runner();
    let host = Host::builder().build().unwrap();
    let install =
        |isolation: &str| plugins.add("crashing", "crashing").set("isolation", isolation).write();
    let plugin = loaded(&host, install("none"));
    assert_eq!(process_of(&plugin), Some(std::process::id()));
    for (isolation, is_isolated) in [("process", true), ("none", false), ("process", true)] {
        install(isolation);
        hotbay_tests::reloaded(&host, "crashing");
        assert_eq!(process_of(&plugin) != Some(std::process::id()), is_isolated);
    }
    assert_eq!(json!(host.list()[0].manifest.to_json()["isolation"]), "process");
}
