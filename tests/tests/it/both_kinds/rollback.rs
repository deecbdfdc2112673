//! Builds that cannot be promoted, of both kinds: the one before serves on, what is told names
//! step and generation, and nothing of the new one is left.

use std::fs;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, LoadStep};
use hotbay_tests::{Plugins, event, limits, loaded, reloaded, rolled_back, under_load, unique};
use serde_json::{Value, json};

use super::{BOTH, Draft, Journal, Kind, counted, served};

/// What goes wrong, and what is told of it: the same for both kinds but for the step.
struct Case {
    name: &'static str,
    says: &'static str,
    library: (LoadStep, ErrorKind),
    process: (LoadStep, ErrorKind),
    install: fn(Draft, &Scene),
}

/// What an installation may need to know.
struct Scene {
    plugins: Plugins,
    kind: Kind,
    name: String,
    journal: Journal,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        let plugins = Plugins::new();
        let journal = Journal::new(&plugins);
        Self { kind, name: unique("both"), journal, plugins }
    }

    /// The file whose presence makes the build that serves fail in its snapshot.
    fn switch(&self, how: &str) -> std::path::PathBuf {
        self.plugins.dir().join(how)
    }

    fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "journal": self.journal.0,
            "snapshot_fails_while": self.switch("fails"),
            "snapshot_panics_while": self.switch("panics"),
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    fn draft(&self, handover: &str) -> Draft {
        self.kind.served(&self.plugins, &self.name).set("handover", handover)
    }

    fn file(&self) -> std::path::PathBuf {
        self.plugins.dir().join(&self.name).join(self.kind.file())
    }
}

/// A way to fail that the config asks for.
macro_rules! asked {
    ($name:literal, $says:literal, $library:expr, $process:expr, $config:tt) => {
        Case {
            name: $name,
            says: $says,
            library: $library,
            process: $process,
            install: |draft, scene| {
                draft.config(scene.config(&json!($config))).install();
            },
        }
    };
}

fn cases() -> Vec<Case> {
    use ErrorKind::{Config, Incompatible, Integrity, Manifest, StartFailed};
    use LoadStep::{
        Config as Checked, Digest, Init, Launch, Location, Restore, Snapshot, Stage, Version,
    };
    let both = |at: (LoadStep, ErrorKind)| (at, at);
    let case =
        |name, says, (library, process), install| Case { name, says, library, process, install };
    vec![
        case("no manifest", "plugin.json", both((LoadStep::Manifest, Integrity)), |draft, _| {
            fs::remove_file(draft.install().join("plugin.json")).unwrap();
        }),
        case("no sense", ":1:", both((LoadStep::Manifest, Manifest)), |draft, _| {
            fs::write(draft.install().join("plugin.json"), "{ \"name\" ").unwrap();
        }),
        case("nothing to run", "served", both((Stage, Integrity)), |draft, scene| {
            draft.set("description", "another").install();
            fs::remove_file(scene.file()).unwrap();
        }),
        case("another digest", "SHA-256", both((Digest, Integrity)), |draft, _| {
            draft.set("sha256", "ab".repeat(32)).install();
        }),
        case("half of it", "bytes", both((Digest, Integrity)), |draft, scene| {
            draft.set("description", "another").install();
            let bytes = fs::read(scene.file()).unwrap();
            // Another file: a program that runs cannot be written to.
            let half = scene.plugins.dir().join("half");
            fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
            fs::set_permissions(&half, fs::metadata(scene.file()).unwrap().permissions()).unwrap();
            fs::rename(half, scene.file()).unwrap();
        }),
        case("another version", "9.9.9", both((Version, Incompatible)), |draft, _| {
            draft.set("version", "9.9.9").install();
        }),
        case("an unfit config", "config.build", both((Checked, Config)), |draft, scene| {
            let schema = json!({ "properties": { "build": { "type": "string" } } });
            let draft = draft.set("config_schema", schema);
            draft.config(scene.config(&json!({ "build": 1 }))).install();
        }),
        case(
            "not executable",
            "chmod +x",
            ((Stage, Integrity), (Launch, StartFailed)),
            |draft, scene| {
                draft.set("description", "another").install();
                match scene.kind {
                    // Whether a library can be run is nobody's concern; that it is one is.
                    Kind::Library => fs::remove_file(scene.file()).unwrap(),
                    Kind::Process => {
                        use std::os::unix::fs::PermissionsExt as _;
                        let mode = fs::Permissions::from_mode(0o644);
                        fs::set_permissions(scene.file(), mode).unwrap();
                    }
                }
            },
        ),
        asked!("validate_config", "not this one", (Checked, Config), (Location, StartFailed),
            { "config_fails": "not this one" }),
        asked!("a panic there", "not that one", (Checked, StartFailed), (Location, StartFailed),
            { "config_panics": "not that one" }),
        asked!("a config of another shape", "surplus", (Checked, Config), (Location, StartFailed),
            { "surplus": true }),
        asked!("init", "cannot start", (Init, StartFailed), (Location, StartFailed),
            { "init_fails": "cannot start" }),
        asked!("a panic in init", "broke at the start", (Init, StartFailed), (Location, StartFailed),
            { "init_panics": "broke at the start" }),
        case("snapshot", "no state now", both((Snapshot, StartFailed)), |draft, scene| {
            fs::write(scene.switch("fails"), "").unwrap();
            draft.config(scene.config(&json!({ "build": 3 }))).install();
        }),
        case("a panic in snapshot", "in panic", both((Snapshot, StartFailed)), |draft, scene| {
            fs::write(scene.switch("panics"), "").unwrap();
            draft.config(scene.config(&json!({ "build": 4 }))).install();
        }),
        asked!("restore", "what is this", (Restore, StartFailed), (Restore, StartFailed),
            { "restore_fails": "what is this" }),
        asked!("a panic in restore", "no idea", (Restore, StartFailed), (Restore, StartFailed),
            { "restore_panics": "no idea" }),
    ]
}

/// Breaks a build in each way while threads call; then a good one follows.
fn check(kind: Kind, handover: &str, cases: &[Case]) {
    let scene = Scene::new(kind);
    let staging = tempfile::TempDir::new().unwrap();
    let host = Host::builder().staging_dir(staging.path()).quarantine(None).build().unwrap();
    let mut events = host.events();
    let config = |build: u64| scene.config(&json!({ "build": build }));
    let handle = loaded(&host, scene.draft(handover).config(config(1)).install());
    assert_eq!(counted(&handle), 1);
    let serving = scene.journal.starts()[0].0;
    let copies_before = copies(staging.path());
    under_load(&handle, 2, served, |traffic| {
        for case in cases {
            let context = format!("{kind:?}, {handover}, {}", case.name);
            (case.install)(scene.draft(handover), &scene);
            let error = rolled_back(&host, &scene.name);
            let told = error.full_message();
            let wanted = if kind == Kind::Library { case.library } else { case.process };
            assert_eq!(
                (error.step(), error.kind()),
                (Some(wanted.0), wanted.1),
                "{context}: {told}"
            );
            assert_eq!(error.generation().map(|it| it.get()), Some(1), "{context}: {told}");
            let keeps = format!("at step `{}`; generation 1 keeps serving", wanted.0);
            assert!(told.contains(&keeps), "{context}: {told}");
            let is_of_libraries = case.name == "not executable" && kind == Kind::Library;
            let is_of_programs = case.name == "nothing to run" && kind == Kind::Process;
            let says = if is_of_programs { "program" } else { case.says };
            assert!(told.contains(says) || is_of_libraries, "{context}: {told}");
            match event(&mut events, |event| matches!(event, HostEvent::RolledBack { .. })) {
                HostEvent::RolledBack { generation, step, reason, .. } => {
                    assert_eq!((generation, step), (error.generation(), error.step()));
                    assert_eq!(reason, told);
                }
                other => panic!("{other:?}"),
            }
            traffic.goes_on();
            scene.journal.only_one_is_left(Some(serving));
            assert_eq!(copies(staging.path()), copies_before, "{context}");
            for how in ["fails", "panics"] {
                // Not there in most cases.
                let _ = fs::remove_file(scene.switch(how));
            }
        }
        scene.draft(handover).config(config(2)).install();
        assert!(reloaded(&host, &scene.name).get() > 1);
        event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
        traffic.goes_on();
    });
    assert_eq!(counted(&handle), 2);
    assert!(host.retained().is_empty());
    let now = scene.journal.starts().pop().unwrap().0;
    scene.journal.only_one_is_left(Some(now));
}

/// Files below a folder, however deep.
fn copies(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { copies(&path) } else { 1 }).sum()
}

/// The first so many are found before anything of the new build runs.
const BEFORE: usize = 8;

#[test]
fn what_fails_before_it_runs_leaves_the_old_library_serving() {
    check(Kind::Library, "overlap", &cases()[..BEFORE]);
}

#[test]
fn what_fails_before_it_runs_leaves_the_old_program_serving() {
    check(Kind::Process, "overlap", &cases()[..BEFORE]);
}

#[test]
fn a_library_that_fails_while_it_starts_leaves_the_old_one_serving() {
    check(Kind::Library, "overlap", &cases()[BEFORE..]);
}

#[test]
fn a_program_that_fails_while_it_starts_leaves_the_old_one_serving() {
    check(Kind::Process, "overlap", &cases()[BEFORE..]);
}

#[test]
fn a_library_that_fails_while_calls_wait_lets_the_old_one_serve_on() {
    check(Kind::Library, "pause", &cases()[BEFORE..]);
}

#[test]
fn a_program_that_fails_while_calls_wait_lets_the_old_one_serve_on() {
    check(Kind::Process, "pause", &cases()[BEFORE..]);
}

#[test]
fn what_is_ill_is_not_promoted_by_any_handover() {
    for kind in BOTH {
        let scene = Scene::new(kind);
        let wait = limits(|limits| limits.start_timeout = Duration::from_millis(1500));
        let host = Host::builder().limits(wait).build().unwrap();
        let ill = scene.switch("ill");
        fs::write(&ill, "").unwrap();
        for (at, handover) in ["overlap", "pause"].into_iter().enumerate() {
            if kind == Kind::Process && handover == "pause" {
                continue;
            }
            let build = 10 * at;
            let good = scene.draft(handover).config(scene.config(&json!({ "build": build })));
            let folder = good.install();
            let handle = match at {
                0 => loaded(&host, folder),
                _ => {
                    reloaded(&host, &scene.name);
                    host.plugin(&scene.name).unwrap()
                }
            };
            let serving = scene.journal.starts().pop().unwrap().0;
            let config = scene.config(&json!({ "ill_while": ill, "build": build + 1 }));
            scene.draft(handover).config(config).install();
            let error = under_load(&handle, 2, served, |_| rolled_back(&host, &scene.name));
            let told = error.full_message();
            let step = if kind == Kind::Library { LoadStep::Health } else { LoadStep::Ready };
            assert_eq!(
                (error.step(), error.kind()),
                (Some(step), ErrorKind::StartFailed),
                "{told}"
            );
            assert!(told.contains("ill") && told.contains("keeps serving"), "{told}");
            scene.journal.only_one_is_left(Some(serving));
        }
    }
}
