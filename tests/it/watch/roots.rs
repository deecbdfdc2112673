//! Watched plugin directories under every form of path: absolute, relative, and through a symlink,
//! in a host and in the command. The reported events are the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotbay::{Events, Host, HostEvent, Reloaded, Request};
use hotbay_tests::{Plugins, block_on, event, library_file_name, loaded};
use serde_json::json;
use tempfile::TempDir;

/// A path to a directory, and a folder that must outlive it.
type Named = (PathBuf, Option<TempDir>);

fn absolute(dir: &Path) -> Named {
    (dir.to_owned(), None)
}

/// Returns a path relative to the working directory, which all tests share.
fn relative(dir: &Path) -> Named {
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    (up.join(dir.canonicalize().unwrap().strip_prefix("/").unwrap()), None)
}

fn with_dots(dir: &Path) -> Named {
    let up = relative(dir).0;
    (Path::new(".").join(up).join("..").join(dir.file_name().unwrap()).join("."), None)
}

fn linked(dir: &Path) -> Named {
    let scratch = TempDir::with_prefix("hotbay-tests-").unwrap();
    let link = scratch.path().join("plugins");
    std::os::unix::fs::symlink(dir, &link).unwrap();
    (link, Some(scratch))
}

fn linked_relative(dir: &Path) -> Named {
    let (link, scratch) = linked(dir);
    (relative(link.parent().unwrap()).0.join("plugins"), scratch)
}

const NAMES: [fn(&Path) -> Named; 5] = [absolute, relative, with_dots, linked, linked_relative];

/// A host that watches a directory under one form of its path.
struct Watched {
    plugins: Plugins,
    drafts: Plugins,
    host: Host,
    events: Events,
    _named: Named,
}

impl Watched {
    /// Watches with the plugin `echo` loaded, which returns `old`.
    fn new(name: fn(&Path) -> Named, poll: bool) -> Self {
        let (plugins, drafts) = (Plugins::new(), Plugins::new());
        let named = name(plugins.dir());
        let mut builder = Host::builder().plugin_dir(&named.0).hot_reload(true);
        if poll {
            builder = builder.watch_poll_interval(Duration::from_millis(20));
        }
        let host = builder.build().unwrap();
        let events = host.events();
        let mut watched = Self { plugins, drafts, host, events, _named: named };
        fs::rename(watched.draft("old"), watched.folder()).unwrap();
        watched.event(|event| matches!(event, HostEvent::Loaded { .. }));
        assert_eq!(watched.answer(), "old");
        watched
    }

    fn folder(&self) -> PathBuf {
        self.plugins.dir().join("echo")
    }

    /// Prepares a sealed build.
    fn draft(&self, answers: &str) -> PathBuf {
        draft(&self.drafts, answers)
    }

    fn answer(&self) -> String {
        let reply = self.host.plugin("echo").unwrap().call(Request::text("x")).unwrap();
        reply.as_text().unwrap().to_owned()
    }

    fn event(&mut self, expected: impl Fn(&HostEvent) -> bool) -> HostEvent {
        event(&mut self.events, expected)
    }

    /// Waits until a mix of two builds is reported.
    fn mismatch(&mut self) {
        let message = self.event(|event| matches!(event, HostEvent::RolledBack { .. }));
        let HostEvent::RolledBack { reason, .. } = message else {
            unreachable!("the event matches")
        };
        assert!(reason.contains("SHA-256") || reason.contains("bytes"), "{reason}");
        assert_eq!(self.answer(), "old");
    }

    fn promoted(&mut self) {
        self.event(|event| matches!(event, HostEvent::Promoted { .. }));
        assert_eq!(self.answer(), "new");
    }
}

fn draft(drafts: &Plugins, answers: &str) -> PathBuf {
    let draft = drafts.add("echo", "faulty").config(json!({ "answers": answers }));
    draft.bytes(|bytes| bytes.extend_from_slice(answers.as_bytes())).write()
}

fn library() -> String {
    library_file_name("faulty")
}

/// Runs the check for each form of the path, with file events and with polling.
fn each(check: impl Fn(Watched)) {
    for name in NAMES {
        for poll in [false, true] {
            check(Watched::new(name, poll));
        }
    }
}

#[test]
fn replaced_build_is_promoted_for_every_path_form() {
    each(|mut watched| {
        let (draft, folder) = (watched.draft("new"), watched.folder());
        fs::rename(draft.join(library()), folder.join(library())).unwrap();
        fs::rename(draft.join("plugin.json"), folder.join("plugin.json")).unwrap();
        watched.promoted();
    });
}

#[test]
fn changed_library_with_old_digest_is_reported() {
    each(|mut watched| {
        let draft = watched.draft("new");
        fs::copy(draft.join(library()), watched.folder().join(library())).unwrap();
        watched.mismatch();
    });
}

#[test]
fn late_library_is_promoted() {
    each(|mut watched| {
        let (draft, folder) = (watched.draft("new"), watched.folder());
        fs::rename(draft.join("plugin.json"), folder.join("plugin.json")).unwrap();
        watched.mismatch();
        fs::copy(draft.join(library()), folder.join(library())).unwrap();
        watched.promoted();
    });
}

#[test]
fn switched_directory_symlink_is_followed() {
    let (plugins, drafts) = (TempDir::with_prefix("hotbay-tests-").unwrap(), Plugins::new());
    let at = |name: &str| plugins.path().join(name);
    for (dir, answers) in [("v1", "old"), ("v2", "new")] {
        fs::create_dir(at(dir)).unwrap();
        fs::rename(draft(&drafts, answers), at(dir).join("echo")).unwrap();
    }
    std::os::unix::fs::symlink("v1", at("current")).unwrap();
    let builder = Host::builder().plugin_dir(at("current")).hot_reload(true);
    let host = builder.build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let mut events = host.events();
    std::os::unix::fs::symlink("v2", at("next")).unwrap();
    fs::rename(at("next"), at("current")).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
    let reply = host.plugin("echo").unwrap().call(Request::text("x")).unwrap();
    assert_eq!(reply.as_text().unwrap(), "new");
}

#[test]
fn folder_loaded_by_relative_path_is_absolute() {
    let (plugins, drafts) = (Plugins::new(), Plugins::new());
    fs::rename(draft(&drafts, "old"), plugins.dir().join("echo")).unwrap();
    let host = Host::builder().build().unwrap();
    loaded(&host, relative(&plugins.dir().join("echo")).0);
    let folder = host.list()[0].folder.clone().unwrap();
    assert!(folder.is_absolute(), "{folder:?}");
    assert_eq!(block_on(host.reload("echo")).unwrap(), Reloaded::Unchanged);
}
