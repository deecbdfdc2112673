//! Builds of both kinds that cannot be promoted: the old build keeps serving, the error names step
//! and generation, and nothing of the new build is left.

use std::fs;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, LoadStep};
use hotbay_tests::{
    Plugins, event, limits, loaded, reloaded, rolled_back, under_load, unique, until,
};
use serde_json::{Value, json};

use crate::both_kinds::{Draft, Journal, KINDS, Kind, increment, served};

/// A failing build and its expected error; only the step differs by kind.
struct Case {
    name: &'static str,
    part: &'static str,
    library: (LoadStep, ErrorKind),
    process: (LoadStep, ErrorKind),
    install: fn(Draft, &Fixture),
}

/// Context of an installation.
struct Fixture {
    plugins: Plugins,
    kind: Kind,
    name: String,
    journal: Journal,
}

impl Fixture {
    fn new(kind: Kind) -> Self {
        let plugins = Plugins::new();
        let journal = Journal::new(&plugins);
        Self { kind, name: unique("both"), journal, plugins }
    }

    /// Returns the file that makes the snapshot of the serving build fail while it exists.
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

/// A failure configured in the fixture.
macro_rules! action {
    ($name:literal, $part:literal, $library:expr, $process:expr, $config:tt) => {
        Case {
            name: $name,
            part: $part,
            library: $library,
            process: $process,
            install: |draft, fixture| {
                draft.config(fixture.config(&json!($config))).install();
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
        |name, part, (library, process), install| Case { name, part, library, process, install };
    vec![
        case("no manifest", "plugin.json", both((LoadStep::Manifest, Integrity)), |draft, _| {
            fs::remove_file(draft.install().join("plugin.json")).unwrap();
        }),
        case("invalid manifest", ":1:", both((LoadStep::Manifest, Manifest)), |draft, _| {
            fs::write(draft.install().join("plugin.json"), "{ \"name\" ").unwrap();
        }),
        case("missing file", "served", both((Stage, Integrity)), |draft, fixture| {
            draft.set("description", "another").install();
            fs::remove_file(fixture.file()).unwrap();
        }),
        case("another digest", "SHA-256", both((Digest, Integrity)), |draft, _| {
            draft.set("sha256", "ab".repeat(32)).install();
        }),
        case("truncated file", "bytes", both((Digest, Integrity)), |draft, fixture| {
            draft.set("description", "another").install();
            let bytes = fs::read(fixture.file()).unwrap();
            // A different file: a running program cannot be written to.
            let half = fixture.plugins.dir().join("half");
            fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
            fs::set_permissions(&half, fs::metadata(fixture.file()).unwrap().permissions())
                .unwrap();
            fs::rename(half, fixture.file()).unwrap();
        }),
        case("another version", "9.9.9", both((Version, Incompatible)), |draft, _| {
            draft.set("version", "9.9.9").install();
        }),
        case("invalid config", "config.build", both((Checked, Config)), |draft, fixture| {
            let schema = json!({ "properties": { "build": { "type": "string" } } });
            let draft = draft.set("config_schema", schema);
            draft.config(fixture.config(&json!({ "build": 1 }))).install();
        }),
        case(
            "not executable",
            "is not executable",
            ((Stage, Integrity), (Launch, StartFailed)),
            |draft, fixture| {
                draft.set("description", "another").install();
                match fixture.kind {
                    // A library need not be executable, but must be a library.
                    Kind::Library | Kind::Isolated => fs::remove_file(fixture.file()).unwrap(),
                    Kind::Process => {
                        use std::os::unix::fs::PermissionsExt as _;
                        let mode = fs::Permissions::from_mode(0o644);
                        fs::set_permissions(fixture.file(), mode).unwrap();
                    }
                }
            },
        ),
        action!("validate_config", "not this one", (Checked, Config), (Location, StartFailed),
            { "config_fails": "not this one" }),
        action!("a panic in validate_config", "not that one", (Checked, StartFailed), (Location, StartFailed),
            { "config_panics": "not that one" }),
        action!("a config of another shape", "surplus", (Checked, Config), (Location, StartFailed),
            { "surplus": true }),
        action!("init", "cannot start", (Init, StartFailed), (Location, StartFailed),
            { "init_fails": "cannot start" }),
        action!("a panic in init", "broke at the start", (Init, StartFailed), (Location, StartFailed),
            { "init_panics": "broke at the start" }),
        case("snapshot", "no state now", both((Snapshot, StartFailed)), |draft, fixture| {
            fs::write(fixture.switch("fails"), "").unwrap();
            draft.config(fixture.config(&json!({ "build": 3 }))).install();
        }),
        case("a panic in snapshot", "in panic", both((Snapshot, StartFailed)), |draft, fixture| {
            fs::write(fixture.switch("panics"), "").unwrap();
            draft.config(fixture.config(&json!({ "build": 4 }))).install();
        }),
        action!("restore", "what is this", (Restore, StartFailed), (Restore, StartFailed),
            { "restore_fails": "what is this" }),
        action!("a panic in restore", "no idea", (Restore, StartFailed), (Restore, StartFailed),
            { "restore_panics": "no idea" }),
    ]
}

/// Breaks a build in each way while threads call, and then installs a good one.
fn check(kind: Kind, handover: &str, cases: &[Case]) {
    let fixture = Fixture::new(kind);
    let staging = tempfile::TempDir::new().unwrap();
    let host = Host::builder().staging_dir(staging.path()).quarantine(None).build().unwrap();
    let mut events = host.events();
    let config = |build: u64| fixture.config(&json!({ "build": build }));
    let handle = loaded(&host, fixture.draft(handover).config(config(1)).install());
    assert_eq!(increment(&handle), 1);
    let serving = fixture.journal.starts()[0].0;
    let copies_before = copies(staging.path());
    under_load(&handle, 2, served, |traffic| {
        for case in cases {
            let context = format!("{kind:?}, {handover}, {}", case.name);
            (case.install)(fixture.draft(handover), &fixture);
            let error = rolled_back(&host, &fixture.name);
            let message = error.full_message();
            let is_of_file = case.name == "not executable";
            let expected = match kind {
                Kind::Library => case.library,
                Kind::Isolated if is_of_file => case.library,
                Kind::Isolated | Kind::Process => case.process,
            };
            assert_eq!(
                (error.step(), error.kind()),
                (Some(expected.0), expected.1),
                "{context}: {message}"
            );
            assert_eq!(error.generation().map(|it| it.get()), Some(1), "{context}: {message}");
            let keeps = format!("at step `{}` (generation 1 keeps serving)", expected.0);
            assert!(message.contains(&keeps), "{context}: {message}");
            let is_of_libraries = is_of_file && kind != Kind::Process;
            let is_of_programs = case.name == "missing file" && kind == Kind::Process;
            let part = if is_of_programs { "program" } else { case.part };
            assert!(message.contains(part) || is_of_libraries, "{context}: {message}");
            match event(&mut events, |event| matches!(event, HostEvent::RolledBack { .. })) {
                HostEvent::RolledBack { generation, step, reason, .. } => {
                    assert_eq!((generation, step), (error.generation(), error.step()));
                    assert_eq!(reason, message);
                }
                other => panic!("{other:?}"),
            }
            traffic.wait_for_progress();
            fixture.journal.assert_only_one_left(Some(serving));
            until(&format!("{context}: the new copy is removed"), || {
                (copies(staging.path()) == copies_before).then_some(())
            });
            for how in ["fails", "panics"] {
                // Missing in most cases.
                let _ = fs::remove_file(fixture.switch(how));
            }
        }
        fixture.draft(handover).config(config(2)).install();
        assert!(reloaded(&host, &fixture.name).get() > 1);
        event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
        traffic.wait_for_progress();
    });
    assert_eq!(increment(&handle), 2);
    assert!(host.retained().is_empty());
    let now = fixture.journal.starts().pop().unwrap().0;
    fixture.journal.assert_only_one_left(Some(now));
}

/// Counts the files under a folder, recursively.
fn copies(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { copies(&path) } else { 1 }).sum()
}

/// Number of cases that fail before anything of the new build runs.
const BEFORE: usize = 8;

#[test]
fn library_failure_before_start_keeps_old_build() {
    check(Kind::Library, "overlap", &cases()[..BEFORE]);
}

#[test]
fn program_failure_before_start_keeps_old_build() {
    check(Kind::Process, "overlap", &cases()[..BEFORE]);
}

#[test]
fn isolated_library_failure_keeps_old_build() {
    check(Kind::Isolated, "overlap", &cases());
    check(Kind::Isolated, "pause", &cases()[BEFORE..]);
}

#[test]
fn library_failure_during_start_keeps_old_build() {
    check(Kind::Library, "overlap", &cases()[BEFORE..]);
}

#[test]
fn program_failure_during_start_keeps_old_build() {
    check(Kind::Process, "overlap", &cases()[BEFORE..]);
}

#[test]
fn library_failure_during_pause_keeps_old_build() {
    check(Kind::Library, "pause", &cases()[BEFORE..]);
}

#[test]
fn program_failure_during_pause_keeps_old_build() {
    check(Kind::Process, "pause", &cases()[BEFORE..]);
}

#[test]
fn unhealthy_build_is_never_promoted() {
    for kind in KINDS {
        let fixture = Fixture::new(kind);
        let wait = limits(|limits| limits.start_timeout = Duration::from_secs(4));
        let host = Host::builder().limits(wait).build().unwrap();
        let unhealthy = fixture.switch("unhealthy");
        fs::write(&unhealthy, "").unwrap();
        for (at, handover) in ["overlap", "pause"].into_iter().enumerate() {
            if kind != Kind::Library && handover == "pause" {
                continue;
            }
            let build = 10 * at;
            let good = fixture.draft(handover).config(fixture.config(&json!({ "build": build })));
            let folder = good.install();
            let handle = match at {
                0 => loaded(&host, folder),
                _ => {
                    reloaded(&host, &fixture.name);
                    host.plugin(&fixture.name).unwrap()
                }
            };
            let serving = fixture.journal.starts().pop().unwrap().0;
            let config =
                fixture.config(&json!({ "unhealthy_while": unhealthy, "build": build + 1 }));
            fixture.draft(handover).config(config).install();
            let error = under_load(&handle, 2, served, |_| rolled_back(&host, &fixture.name));
            let message = error.full_message();
            let step = if kind == Kind::Library { LoadStep::Health } else { LoadStep::Ready };
            assert_eq!(
                (error.step(), error.kind()),
                (Some(step), ErrorKind::StartFailed),
                "{message}"
            );
            assert!(
                message.contains("unhealthy") && message.contains("keeps serving"),
                "{message}"
            );
            fixture.journal.assert_only_one_left(Some(serving));
        }
    }
}
