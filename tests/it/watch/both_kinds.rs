//! Plugins of both kinds whose files are replaced while a host watches.

use std::fs;
use std::path::Path;

use hotbay::{Events, Host, HostEvent, PluginHandle};
use hotbay_tests::{Plugins, ProgramFolder, binary, block_on, event};
use serde_json::{Value, json};

use crate::both_kinds::{Journal, KINDS, Kind, action_request, answer};

/// A host that watches one folder, and another folder in which builds are prepared.
struct Watched {
    kind: Kind,
    plugins: Plugins,
    drafts: Plugins,
    journal: Journal,
    host: Host,
    events: Events,
}

impl Watched {
    fn new(kind: Kind) -> Self {
        let (plugins, drafts) = (Plugins::new(), Plugins::new());
        let builder = Host::builder().plugin_dir(plugins.dir()).hot_reload(true);
        let host = builder.allow_unverified(true).build().unwrap();
        let (events, journal) = (host.events(), Journal::new(&drafts));
        Self { kind, plugins, drafts, journal, host, events }
    }

    /// Prepares a build, and returns its folder.
    fn draft(&self, more: Value) -> std::path::PathBuf {
        let mut config = json!({ "journal": self.journal.0 });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.kind.served(&self.drafts, "echo").config(config).install()
    }

    /// Installs a new plugin atomically.
    fn appear(&mut self, answers: &str) -> PluginHandle {
        let draft = self.draft(json!({ "answers": answers }));
        fs::rename(draft, self.folder()).unwrap();
        event(&mut self.events, |event| matches!(event, HostEvent::Loaded { .. }));
        let handle = self.host.plugin("echo").unwrap();
        assert_eq!(answer(&handle), answers);
        handle
    }

    fn folder(&self) -> std::path::PathBuf {
        self.plugins.dir().join("echo")
    }

    /// Installs as `build-plugins` does.
    fn replace(&self, draft: &Path) {
        for file in [self.kind.file(), "plugin.json".to_owned()] {
            fs::rename(draft.join(&file), self.folder().join(file)).unwrap();
        }
    }

    #[track_caller]
    fn is_promoted(&mut self) -> u64 {
        match event(&mut self.events, |event| matches!(event, HostEvent::Promoted { .. })) {
            HostEvent::Promoted { generation, .. } => generation.get(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn renamed_files_are_promoted_broken_ones_are_not() {
    for kind in KINDS {
        let mut watched = Watched::new(kind);
        let handle = watched.appear("old");
        watched.replace(&watched.draft(json!({ "answers": "new" })));
        assert_eq!(watched.is_promoted(), 2);
        assert_eq!(answer(&handle), "new");
        let serving = watched.journal.starts().pop().unwrap().0;
        watched.replace(&watched.draft(json!({ "init_fails": "no init" })));
        let failed =
            event(&mut watched.events, |event| matches!(event, HostEvent::RolledBack { .. }));
        let HostEvent::RolledBack { generation, reason, .. } = failed else { unreachable!() };
        assert_eq!(generation.map(|it| it.get()), Some(2));
        assert!(reason.contains("no init"), "{reason}");
        assert_eq!(answer(&handle), "new");
        watched.journal.assert_only_one_left(Some(serving));
        fs::remove_dir_all(watched.folder()).unwrap();
        event(&mut watched.events, |event| matches!(event, HostEvent::Retired { .. }));
        event(&mut watched.events, |event| matches!(event, HostEvent::Closed { .. }));
        watched.journal.assert_only_one_left(None);
    }
}

#[test]
fn config_change_in_manifest_is_reloaded() {
    for kind in KINDS {
        let mut watched = Watched::new(kind);
        let handle = watched.appear("old");
        let manifest = watched.folder().join("plugin.json");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("\"old\"", "\"new\"")).unwrap();
        assert_eq!(watched.is_promoted(), 2);
        assert_eq!(answer(&handle), "new");
    }
}

/// Scripts are usually edited in place.
#[test]
fn script_overwritten_in_place_is_promoted() {
    let mut watched = Watched::new(Kind::Process);
    let served = binary("served", "served");
    let script = |build: u32| {
        let served = served.display();
        format!("#!/bin/sh\n# {}\nBUILD={build} exec '{served}' \"$@\"\n", "x".repeat(100))
    };
    let draft = ProgramFolder::new(watched.drafts.dir(), "echo").set("package", "served");
    let folder = draft.unverified().bytes(script(1)).install();
    fs::rename(folder, watched.folder()).unwrap();
    event(&mut watched.events, |event| matches!(event, HostEvent::Loaded { .. }));
    let handle = watched.host.plugin("echo").unwrap();
    let build = || {
        let action = action_request(json!({ "do": "environment", "name": "BUILD" }));
        block_on(handle.execute(action)).unwrap().json::<String>().unwrap()
    };
    assert_eq!(build(), "1");
    for generation in 2..4 {
        fs::write(watched.folder().join("program"), script(generation)).unwrap();
        assert_eq!(watched.is_promoted(), u64::from(generation));
        assert_eq!(build(), generation.to_string());
    }
}
