//! Folders that serve under several names, while their files change, and discovered plugins.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hotbay::hotbay_plugin::Snapshot;
use hotbay::{
    Discovered, Discovery, Error, Host, HostEvent, LoadOptions, LoadStep, Manifest, PluginState,
    Reloaded, Request,
};
use hotbay_tests::{Plugins, StopOnDrop, block_on, event, host, loaded, until};
use serde_json::json;

use super::runtime_plugins::{Plain, names};

fn named(name: &str) -> LoadOptions {
    LoadOptions::new().with_name(name)
}

fn generation(host: &Host, name: &str) -> u64 {
    let plugin = host.list().into_iter().find(|plugin| plugin.name.as_str() == name).unwrap();
    plugin.generation.unwrap().get()
}

/// Replaces the files of `folder` by those of another one, the manifest last.
fn replace(folder: &Path, by: &Path) {
    let mut files: Vec<_> = std::fs::read_dir(by).unwrap().map(|file| file.unwrap()).collect();
    files.sort_by_key(|file| file.file_name() == "plugin.json");
    for file in files {
        std::fs::rename(file.path(), folder.join(file.file_name())).unwrap();
    }
}

#[test]
fn renamed_manifest_reloads_the_other_names_of_its_folder() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    let mut events = host.events();
    let drafts = Plugins::new();
    let draft = |name: &str, version: &str| {
        let plugin = drafts.add_in("draft", name, "faulty");
        plugin.bytes(|bytes| bytes.extend_from_slice(version.as_bytes())).write()
    };
    let folder = plugins.dir().join("echo");
    std::fs::rename(draft("echo", "1"), &folder).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Loaded { .. }));
    block_on(host.load_with(&folder, named("one"))).unwrap();
    replace(&folder, &draft("echo2", "2"));
    event(
        &mut events,
        |event| matches!(event, HostEvent::Loaded { plugin, .. } if plugin.as_str() == "echo2"),
    );
    event(
        &mut events,
        |event| matches!(event, HostEvent::Promoted { plugin, .. } if plugin.as_str() == "one"),
    );
    assert_eq!(names(&host), ["echo2", "one"]);
}

#[test]
fn removed_folder_unloads_the_names_that_nothing_requires() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    let mut events = host.events();
    let drafts = Plugins::new();
    let folder = plugins.dir().join("echo");
    std::fs::rename(drafts.add("echo", "faulty").write(), &folder).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Loaded { .. }));
    block_on(host.load_with(&folder, named("free"))).unwrap();
    let manifest = Manifest::new("top", "1.0.0").unwrap().with_requirement("echo", "*").unwrap();
    block_on(host.register::<Plain>(manifest)).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::RolledBack { .. }));
    until("the other one is unloaded", || (names(&host) == ["echo", "top"]).then_some(()));
}

#[test]
fn reload_of_one_name_hides_no_change_from_the_others() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    let mut events = host.events();
    let drafts = Plugins::new();
    let draft = |version: &str| {
        let plugin = drafts.add("echo", "faulty").config(json!({}));
        plugin.bytes(|bytes| bytes.extend_from_slice(version.as_bytes())).write()
    };
    let folder = plugins.dir().join("echo");
    std::fs::rename(draft("1"), &folder).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Loaded { .. }));
    block_on(host.load_with(&folder, named("one"))).unwrap();
    for round in 2..8 {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        // Most are replaced by a later one.
                        let _ = block_on(host.reload("echo"));
                    }
                });
            }
            let before = generation(&host, "one");
            replace(&folder, &draft(&round.to_string()));
            let _stop = StopOnDrop(&stop);
            let what = format!("`one` serves round {round}");
            until(&what, || (generation(&host, "one") != before).then_some(()));
        });
    }
}

#[test]
fn plugin_that_is_stopped_first_is_not_listed_as_retired() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = plugins.add("echo", "faulty").set("handover", "stop-first").write();
    let _ = loaded(&host, &folder);
    let files = ["entered", "release"].map(|name| plugins.dir().join(name));
    let [entered, release] = files.each_ref().map(|path| path.to_str().unwrap());
    let next = json!({ "hang_in": "init", "entered": entered, "release": release });
    plugins.add("echo", "faulty").set("handover", "stop-first").config(next).write();
    let other = host.clone();
    let reload = std::thread::spawn(move || block_on(other.reload("echo")));
    until("the new build starts", || files[0].exists().then_some(()));
    let state = host.list()[0].state;
    std::fs::write(&files[1], "").unwrap();
    reload.join().unwrap().unwrap();
    assert_ne!(state, PluginState::Retired);
}

#[test]
fn state_of_another_shape_is_refused() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = plugins.add("echo", "faulty").config(json!({"count": true})).write();
    let state = || Snapshot::new(1, "41");
    let handle = block_on(host.load_with(&folder, named("a").with_state(state()))).unwrap();
    assert_eq!(handle.call(Request::text("x")).unwrap().as_text().unwrap(), "42");
    let bad = Snapshot::new(7, "41");
    let error = block_on(host.load_with(&folder, named("b").with_state(bad))).unwrap_err();
    assert_eq!(error.step(), Some(LoadStep::Restore));
    assert_eq!(names(&host), ["a"]);
}

#[test]
fn discovered_state_is_restored_once() {
    struct With(PathBuf);
    impl Discovery for With {
        fn discover(&self) -> Vec<Result<Discovered, Error>> {
            let options = named("a").with_state(Snapshot::new(1, "41"));
            vec![Ok(Discovered::new(&self.0).with_options(options))]
        }
    }
    let plugins = Plugins::new();
    let write = |version: &str| {
        let plugin = plugins.add("echo", "faulty").config(json!({"count": true}));
        plugin.bytes(|bytes| bytes.extend_from_slice(version.as_bytes())).write()
    };
    let host = Host::builder().discovery(With(write("1"))).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let count = || {
        host.plugin("a").unwrap().call(Request::text("x")).unwrap().as_text().unwrap().to_owned()
    };
    assert_eq!(count(), "42");
    assert!(block_on(host.load_all()).is_clean());
    assert_eq!(count(), "43");
    write("2");
    assert!(matches!(block_on(host.reload("a")), Ok(Reloaded::Promoted(_))));
    assert_eq!(count(), "44");
}

#[test]
fn many_duplicates_of_a_discovery_are_refused_briefly() {
    struct Same(PathBuf);
    impl Discovery for Same {
        fn discover(&self) -> Vec<Result<Discovered, Error>> {
            (0..2000).map(|_| Ok(Discovered::new(&self.0))).collect()
        }
    }
    let plugins = Plugins::new();
    let folder = plugins.add("echo", "faulty").write();
    let host = Host::builder().discovery(Same(folder)).build().unwrap();
    let report = block_on(host.load_all());
    let bytes: usize =
        report.refused.iter().map(|refused| refused.error.full_message().len()).sum();
    assert_eq!(report.refused.len(), 2000);
    assert!(bytes < 4_000_000, "{bytes} bytes");
}

#[test]
fn folder_serves_under_many_names_while_it_changes() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    let mut events = host.events();
    let drafts = Plugins::new();
    let draft = |version: &str| {
        let plugin = drafts.add("echo", "faulty").config(json!({ "answers": version }));
        plugin.bytes(|bytes| bytes.extend_from_slice(version.as_bytes())).write()
    };
    let folder = plugins.dir().join("echo");
    std::fs::rename(draft("0"), &folder).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Loaded { .. }));
    let answer = |name: &str| {
        let reply = host.plugin(name).ok()?.call(Request::text("x")).ok()?;
        Some(reply.as_text().unwrap().to_owned())
    };
    let serves = |name: &str, version: &str| {
        let what = format!("`{name}` serves version {version}");
        until(&what, || (answer(name)? == version).then_some(()));
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (host, folder, stop) = (&host, &folder, &stop);
            scope.spawn(move || {
                let name = format!("n{number}");
                while !stop.load(Ordering::SeqCst) {
                    // Fails while the files do not match.
                    if block_on(host.load_with(folder, named(&name))).is_ok() && number % 2 == 0 {
                        block_on(host.unload(&name)).unwrap();
                    }
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        for version in ["1", "2", "3", "4", "5"] {
            replace(&folder, &draft(version));
            serves("echo", version);
        }
    });
    for name in ["echo", "n1", "n3"] {
        serves(name, "5");
    }
    assert_eq!(names(&host), ["echo", "n1", "n3"]);
    std::fs::remove_dir_all(&folder).unwrap();
    until("all are unloaded", || host.list().is_empty().then_some(()));
    until("nothing stays mapped", || host.retained().is_empty().then_some(()));
}

#[test]
fn name_that_cannot_follow_a_change_does_not_stop_the_others() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    let mut events = host.events();
    let drafts = Plugins::new();
    let schema = json!({ "properties": { "answers": { "type": "number" } } });
    let draft = |version: &str| {
        let plugin = drafts.add("echo", "faulty");
        let plugin = plugin.bytes(|bytes| bytes.extend_from_slice(version.as_bytes()));
        if version == "1" {
            plugin.write()
        } else {
            plugin.set("config_schema", schema.clone()).write()
        }
    };
    let folder = plugins.dir().join("echo");
    std::fs::rename(draft("1"), &folder).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Loaded { .. }));
    let text = named("a-text").with_config(json!({ "answers": "text" }));
    block_on(host.load_with(&folder, text)).unwrap();
    replace(&folder, &draft("2"));
    until("the other one is replaced", || (generation(&host, "echo") > 1).then_some(()));
    assert_eq!(generation(&host, "a-text"), 1);
    event(
        &mut events,
        |event| matches!(event, HostEvent::RolledBack { plugin, .. } if plugin.as_str() == "a-text"),
    );
}
