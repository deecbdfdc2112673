//! Watched plugin directories: every way of replacing files, and changes that must be ignored.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hotbay::{Events, Host, HostBuilder, HostEvent, LoadOptions, Request};
use hotbay_tests::{
    LIMIT, Plugins, block_on, event, events_until, library_file_name, threads, until,
};
use serde_json::json;

/// Shorter than the time after which a half-written build is reported.
const QUICK: Duration = Duration::from_millis(200);

/// A host that watches one folder, and another folder in which builds are prepared.
struct Watched {
    plugins: Plugins,
    drafts: Plugins,
    host: Host,
    events: Events,
}

impl Watched {
    fn new(configure: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let (plugins, drafts) = (Plugins::new(), Plugins::new());
        let builder = Host::builder().plugin_dir(plugins.dir()).hot_reload(true);
        let host = configure(builder).build().unwrap();
        let events = host.events();
        Self { plugins, drafts, host, events }
    }

    /// Watches with the plugin `echo` loaded, which returns `old`.
    fn with_echo(configure: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let mut watched = Self::new(configure);
        watched.appear("echo", "old");
        watched
    }

    fn draft(&self, name: &str, answers: &str) -> PathBuf {
        let draft = self.drafts.add(name, "faulty").config(json!({ "answers": answers }));
        // A different file each time, with its own digest.
        draft.bytes(|bytes| bytes.extend_from_slice(answers.as_bytes())).write()
    }

    /// Installs a new plugin atomically.
    fn appear(&mut self, name: &str, answers: &str) {
        fs::rename(self.draft(name, answers), self.folder(name)).unwrap();
        event(&mut self.events, |event| summary(event) == format!("Loaded {name}"));
        assert_eq!(self.answer(name), answers);
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.plugins.dir().join(name)
    }

    fn answer(&self, name: &str) -> String {
        let reply = self.host.plugin(name).unwrap().call(Request::text("x")).unwrap();
        reply.as_text().unwrap().to_owned()
    }

    /// Changes the manifest of `echo` in place.
    fn edit(&self, found: &str, by: &str) {
        let manifest = self.folder("echo").join("plugin.json");
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(found), "{text}");
        fs::write(&manifest, text.replace(found, by)).unwrap();
    }

    /// Returns the events so far, after all changes were processed, without the ends of replaced
    /// builds.
    fn settled(&mut self) -> Vec<String> {
        let folder = self.folder("sentinel");
        fs::create_dir_all(&folder).unwrap();
        let nonsense = format!("{{ {:?}", Instant::now());
        fs::write(folder.join("plugin.json"), nonsense).unwrap();
        let is_last = |event: &HostEvent| summary(event).ends_with("sentinel");
        let seen = events_until(&mut self.events, is_last);
        fs::remove_dir_all(folder).unwrap();
        let ends =
            |message: &String| message.starts_with("Retired") || message.starts_with("Closed");
        let seen = seen.iter().filter(|event| !is_last(event)).map(summary);
        seen.filter(|message| !ends(message)).collect()
    }
}

/// Returns an event in short: its kind and plugin.
fn summary(event: &HostEvent) -> String {
    let of = |what: &str, plugin: &dyn ToString| format!("{what} {}", plugin.to_string());
    match event {
        HostEvent::Loaded { plugin, .. } => of("Loaded", plugin),
        HostEvent::Refused { plugin, .. } => {
            let name = Path::new(plugin).file_name().unwrap_or_default();
            of("Refused", &name.to_string_lossy())
        }
        HostEvent::Promoted { plugin, .. } => of("Promoted", plugin),
        HostEvent::RolledBack { plugin, .. } => of("RolledBack", plugin),
        HostEvent::Retired { plugin, .. } => of("Retired", plugin),
        HostEvent::Closed { plugin, .. } => of("Closed", plugin),
        other => format!("{other:?}"),
    }
}

fn library() -> String {
    library_file_name("faulty")
}

fn rename_into(draft: &Path, folder: &Path, file: &str) {
    fs::rename(draft.join(file), folder.join(file)).unwrap();
}

/// Installs as `build-plugins` does.
fn install(draft: &Path, folder: &Path) {
    rename_into(draft, folder, &library());
    rename_into(draft, folder, "plugin.json");
}

/// Replaces `echo` in one way, and expects one promotion and no other event.
#[track_caller]
fn check(configure: impl FnOnce(HostBuilder) -> HostBuilder, replace: impl FnOnce(&Path, &Path)) {
    let mut watched = Watched::with_echo(configure);
    let draft = watched.draft("echo", "new");
    let began = Instant::now();
    replace(&draft, &watched.folder("echo"));
    let was_quick = began.elapsed() < QUICK;
    let seen = events_until(&mut watched.events, |event| summary(event) == "Promoted echo");
    assert_eq!(watched.answer("echo"), "new");
    let mut summaries: Vec<_> = seen.iter().map(summary).collect();
    summaries.extend(watched.settled());
    if was_quick {
        summaries
            .retain(|message| !message.starts_with("Retired") && !message.starts_with("Closed"));
        assert_eq!(summaries, ["Promoted echo"], "{seen:#?}");
    }
}

fn as_it_is(builder: HostBuilder) -> HostBuilder {
    builder
}

#[test]
fn files_renamed_one_by_one_are_one_reload() {
    check(as_it_is, |draft, folder| {
        install(draft, folder);
    });
    check(as_it_is, |draft, folder| {
        rename_into(draft, folder, "plugin.json");
        rename_into(draft, folder, &library());
    });
}

#[test]
fn files_written_in_pieces_are_awaited() {
    check(as_it_is, |draft, folder| {
        for file in [library(), "plugin.json".to_owned()] {
            let bytes = fs::read(draft.join(&file)).unwrap();
            let mut into = fs::File::create(folder.join(&file)).unwrap();
            for piece in bytes.chunks(1 + bytes.len() / 50) {
                into.write_all(piece).unwrap();
                into.sync_data().unwrap();
            }
        }
    });
}

#[test]
fn files_truncated_or_recreated_are_awaited() {
    check(as_it_is, |draft, folder| {
        for file in [library(), "plugin.json".to_owned()] {
            let into = folder.join(&file);
            fs::write(&into, "").unwrap();
            fs::copy(draft.join(&file), into).unwrap();
        }
    });
    check(as_it_is, |draft, folder| {
        for file in ["plugin.json".to_owned(), library()] {
            fs::remove_file(folder.join(&file)).unwrap();
            fs::copy(draft.join(&file), folder.join(&file)).unwrap();
        }
    });
}

#[test]
fn folder_swapped_as_whole_is_reloaded() {
    check(as_it_is, |draft, folder| {
        // Hidden folders are ignored.
        fs::rename(folder, folder.with_file_name(".old")).unwrap();
        fs::rename(draft, folder).unwrap();
    });
}

#[test]
fn manifest_change_alone_is_reloaded() {
    let mut watched = Watched::with_echo(as_it_is);
    watched.edit("\"old\"", "\"new\"");
    event(&mut watched.events, |event| summary(event) == "Promoted echo");
    assert_eq!(watched.answer("echo"), "new");
}

#[test]
fn polling_watch_detects_same_changes() {
    let poll = |builder: HostBuilder| builder.watch_poll_interval(Duration::from_millis(10));
    check(poll, |draft, folder| {
        install(draft, folder);
    });
    check(poll, |draft, folder| {
        fs::copy(draft.join(library()), folder.join(library())).unwrap();
        fs::copy(draft.join("plugin.json"), folder.join("plugin.json")).unwrap();
    });
    let mut watched = Watched::with_echo(poll);
    fs::remove_dir_all(watched.folder("echo")).unwrap();
    event(&mut watched.events, |event| summary(event) == "Closed echo");
    assert!(watched.host.list().is_empty());
}

#[test]
fn removed_or_renamed_folder_is_unloaded() {
    let mut watched = Watched::with_echo(as_it_is);
    let (folder, other) = (watched.folder("echo"), watched.folder("other"));
    fs::rename(&folder, &other).unwrap();
    let until_loaded = |event: &HostEvent| summary(event) == "Loaded echo";
    let seen: Vec<_> =
        events_until(&mut watched.events, until_loaded).iter().map(summary).collect();
    assert_eq!(seen, ["Retired echo", "Closed echo", "Loaded echo"]);
    assert_eq!(watched.host.list()[0].folder.as_deref(), Some(other.as_path()));
    fs::remove_file(other.join("plugin.json")).unwrap();
    event(&mut watched.events, |event| summary(event) == "Closed echo");
    assert!(watched.host.list().is_empty());
}

#[test]
fn renamed_plugin_is_another_plugin() {
    let mut watched = Watched::with_echo(as_it_is);
    watched.edit("\"name\": \"echo\"", "\"name\": \"shout\"");
    let until_loaded = |event: &HostEvent| summary(event) == "Loaded shout";
    let seen: Vec<_> =
        events_until(&mut watched.events, until_loaded).iter().map(summary).collect();
    assert_eq!(seen, ["Retired echo", "Closed echo", "Loaded shout"]);
    assert_eq!(watched.host.list().len(), 1);
}

#[test]
fn removed_plugin_stays_if_required_or_kept_by_option() {
    let mut watched = Watched::with_echo(|builder| builder.unload_removed(false));
    fs::remove_dir_all(watched.folder("echo")).unwrap();
    assert_eq!(watched.settled(), Vec::<String>::new());
    assert_eq!(watched.answer("echo"), "old");

    let mut watched = Watched::with_echo(as_it_is);
    let needs = watched.drafts.add("needs", "faulty").set("requires", json!({ "echo": "*" }));
    fs::rename(needs.write(), watched.folder("needs")).unwrap();
    event(&mut watched.events, |event| summary(event) == "Loaded needs");
    fs::remove_dir_all(watched.folder("echo")).unwrap();
    let kept = event(&mut watched.events, |event| summary(event) == "RolledBack echo");
    let HostEvent::RolledBack { reason, .. } = kept else { unreachable!("the event matches") };
    assert!(reason.contains("its folder was removed") && reason.contains("`needs`"), "{reason}");
    assert_eq!(watched.answer("echo"), "old");
    // It is unloaded when no plugin requires it anymore.
    fs::remove_dir_all(watched.folder("needs")).unwrap();
    event(&mut watched.events, |event| summary(event) == "Closed echo");
}

#[test]
fn new_plugins_wait_for_requirements() {
    let mut watched = Watched::new(as_it_is);
    let needs = watched.drafts.add("needs", "faulty").set("requires", json!({ "echo": "*" }));
    fs::rename(needs.write(), watched.folder("needs")).unwrap();
    event(&mut watched.events, |event| summary(event) == "Refused needs");
    watched.appear("echo", "new");
    event(&mut watched.events, |event| summary(event) == "Loaded needs");
}

#[test]
fn editor_files_and_touches_are_ignored() {
    let mut watched = Watched::with_echo(as_it_is);
    let folder = watched.folder("echo");
    for name in [".plugin.json.swp", "4913", "plugin.json~", "#x#", "notes.txt", ".x.so.tmp"] {
        fs::write(folder.join(name), "x").unwrap();
        fs::write(watched.plugins.dir().join(name), "x").unwrap();
        fs::remove_file(folder.join(name)).unwrap();
    }
    for name in ["plugin.json", &library()] {
        let path = folder.join(name);
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
        // An editor that rewrites the same content.
        fs::write(&path, fs::read(&path).unwrap()).unwrap();
    }
    assert_eq!(watched.settled(), Vec::<String>::new());
    assert_eq!(watched.host.list()[0].generation.map(|generation| generation.get()), Some(1));
}

#[test]
fn storm_of_other_files_ends_in_right_state() {
    let mut watched = Watched::with_echo(as_it_is);
    let draft = watched.draft("echo", "new");
    let folder = watched.folder("echo");
    for number in 0..2_500 {
        for place in [&folder, watched.plugins.dir()] {
            let file = place.join(format!("x{number}"));
            fs::write(&file, "x").unwrap();
            fs::remove_file(&file).unwrap();
        }
        if number == 1_250 {
            install(&draft, &folder);
        }
    }
    event(&mut watched.events, |event| summary(event) == "Promoted echo");
    assert_eq!(watched.answer("echo"), "new");
    assert_eq!(watched.settled(), Vec::<String>::new());
}

#[test]
fn broken_build_is_reported_once_until_fixed() {
    let mut watched = Watched::with_echo(as_it_is);
    let folder = watched.folder("echo");
    let build = |config: serde_json::Value| watched.drafts.add("echo", "faulty").config(config);
    // One that does not start, and one whose files do not match.
    let broken = build(json!({ "error_in": "init" })).write();
    install(&broken, &folder);
    event(&mut watched.events, |event| summary(event) == "RolledBack echo");
    assert_eq!(watched.answer("echo"), "old");
    let manifest = folder.join("plugin.json");
    fs::write(&manifest, fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(watched.settled(), Vec::<String>::new());

    fs::write(folder.join(library()), "half of a library").unwrap();
    event(&mut watched.events, |event| summary(event) == "RolledBack echo");
    fs::write(folder.join(library()), "half of a library").unwrap();
    assert_eq!(watched.settled(), Vec::<String>::new());
    assert_eq!(watched.answer("echo"), "old");

    let fixed = watched.draft("echo", "new");
    install(&fixed, &folder);
    event(&mut watched.events, |event| summary(event) == "Promoted echo");
    assert_eq!(watched.answer("echo"), "new");
}

#[test]
fn two_hosts_watch_one_folder() {
    let mut watched = Watched::with_echo(as_it_is);
    let builder = Host::builder().plugin_dir(watched.plugins.dir()).hot_reload(true);
    let other = builder.build().unwrap();
    assert!(block_on(other.load_all()).is_clean());
    let mut others = other.events();
    let draft = watched.draft("echo", "new");
    install(&draft, &watched.folder("echo"));
    event(&mut watched.events, |event| summary(event) == "Promoted echo");
    event(&mut others, |event| summary(event) == "Promoted echo");
}

#[test]
fn plugin_folder_created_or_replaced_later_is_found() {
    let (place, drafts) = (Plugins::new(), Plugins::new());
    let dir = place.dir().join("not/yet");
    let host = Host::builder().plugin_dir(&dir).hot_reload(true).build().unwrap();
    let mut events = host.events();
    fs::create_dir_all(&dir).unwrap();
    fs::rename(drafts.add("echo", "faulty").write(), dir.join("echo")).unwrap();
    event(&mut events, |event| summary(event) == "Loaded echo");
    // While the directory is missing, the plugins keep serving.
    let away = place.dir().join("away");
    fs::rename(&dir, &away).unwrap();
    fs::create_dir_all(dir.with_file_name("next")).unwrap();
    fs::rename(away.join("echo"), dir.with_file_name("next").join("echo")).unwrap();
    fs::rename(dir.with_file_name("next"), &dir).unwrap();
    let build = drafts.add("echo", "faulty").config(json!({ "answers": "new" })).write();
    rename_into(&build, &dir.join("echo"), "plugin.json");
    event(&mut events, |event| summary(event) == "Promoted echo");
    assert_eq!(host.list()[0].generation.map(|generation| generation.get()), Some(2));
}

#[cfg(unix)]
#[test]
fn retargeted_symlink_is_reloaded() {
    let mut watched = Watched::new(as_it_is);
    for (folder, answers) in [(".v1", "old"), (".v2", "new")] {
        fs::rename(watched.draft("echo", answers), watched.folder(folder)).unwrap();
    }
    std::os::unix::fs::symlink(".v1", watched.folder("now")).unwrap();
    event(&mut watched.events, |event| summary(event) == "Loaded echo");
    assert_eq!(watched.answer("echo"), "old");
    std::os::unix::fs::symlink(".v2", watched.folder(".next")).unwrap();
    fs::rename(watched.folder(".next"), watched.folder("now")).unwrap();
    event(&mut watched.events, |event| summary(event) == "Promoted echo");
    assert_eq!(watched.answer("echo"), "new");
}

#[test]
fn host_shutdown_ends_watch() {
    let watching = || threads("hotbay-watch").len();
    for ending in ["shutdown", "drop"] {
        let watched = Watched::with_echo(as_it_is);
        let draft = watched.draft("echo", "new");
        rename_into(&draft, &watched.folder("echo"), &library());
        if ending == "shutdown" {
            block_on(watched.host.shutdown(LIMIT));
            // Nothing is loaded anymore.
            rename_into(&draft, &watched.folder("echo"), "plugin.json");
            assert!(watched.host.list().is_empty());
        }
        let Watched { host, mut events, .. } = watched;
        drop(host);
        // The event bus is dropped with the host, so nothing else holds it.
        while block_on(events.next()).is_some() {}
    }
    // Other tests watch as well, but not forever.
    until("no watch is left", || (watching() == 0).then_some(()));
}

#[test]
fn renamed_plugin_keeps_the_options_of_its_load() {
    let mut watched = Watched::with_echo(as_it_is);
    let folder = watched.folder("echo");
    block_on(watched.host.unload("echo")).unwrap();
    let options = LoadOptions::new().with_config(json!({ "answers": "set" }));
    block_on(watched.host.load_with(&folder, options)).unwrap();
    watched.edit("\"name\": \"echo\"", "\"name\": \"shout\"");
    event(&mut watched.events, |event| summary(event) == "Loaded shout");
    assert_eq!(watched.answer("shout"), "set");
    // Also if the new name cannot be loaded at first.
    watched.edit("\"name\": \"shout\"", "\"name\": \"Shout\"");
    watched.edit("\"name\": \"Shout\"", "\"name\": \"cry\", \"requires\": {\"no\": \"*\"}");
    event(&mut watched.events, |event| summary(event).starts_with("Refused"));
    watched.edit("\"no\": \"*\"", "");
    event(&mut watched.events, |event| summary(event) == "Loaded cry");
    assert_eq!(watched.answer("cry"), "set");
}
