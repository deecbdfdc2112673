//! Builds that cannot be promoted, for every possible reason: the old build keeps serving, nothing
//! of the new one is left, and a good build can follow.

use std::fs;
use std::time::Duration;

use hotbay::hotbay_plugin::API_VERSION;
use hotbay::{ErrorKind, Host, HostEvent, LoadStep};
use hotbay_tests::{
    Plugin, Plugins, event, images, library_file_name, limits, loaded, reloaded, rolled_back,
    threads, under_load, unique, until,
};
use serde_json::{Value, json};

/// A failing build: step, kind, part of the message, and how it is installed.
struct Case {
    step: LoadStep,
    kind: ErrorKind,
    expected: &'static str,
    install: fn(Plugin, &Plugins),
}

fn case(
    step: LoadStep,
    kind: ErrorKind,
    expected: &'static str,
    install: fn(Plugin, &Plugins),
) -> Case {
    Case { step, kind, expected, install }
}

/// Returns a config that counts calls, with more fields.
fn counting(more: Value) -> Value {
    let mut config = json!({ "count": true });
    let fields = config.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    config
}

fn write(plugin: Plugin, more: Value) {
    plugin.config(counting(more)).write();
}

fn before_it_runs() -> Vec<Case> {
    use ErrorKind::{Config, Incompatible, Integrity, Manifest};
    vec![
        case(LoadStep::Manifest, Integrity, "plugin.json", |plugin, _| {
            fs::remove_file(plugin.write().join("plugin.json")).unwrap();
        }),
        case(LoadStep::Manifest, Manifest, ":1:", |plugin, _| {
            plugin.write_with_manifest("{ \"name\" ");
        }),
        case(LoadStep::Manifest, Manifest, "handover", |plugin, _| {
            plugin.set("handover", "sometimes").write();
        }),
        case(LoadStep::Stage, Integrity, "faulty", |plugin, _| {
            fs::remove_file(plugin.write().join(library_file_name("faulty"))).unwrap();
        }),
        case(LoadStep::Digest, Integrity, "SHA-256", |plugin, _| {
            plugin.stale_digest().patch("HOTBAY-STAMP 1\n", "HOTBAY-STAMP 2\n").write();
        }),
        case(LoadStep::Digest, Integrity, "bytes", |plugin, _| {
            plugin.stale_digest().bytes(|bytes| bytes.truncate(bytes.len() / 2)).write();
        }),
        case(LoadStep::Probe, Integrity, "", |plugin, _| {
            plugin.bytes(|bytes| bytes.truncate(bytes.len() / 2)).write();
        }),
        case(LoadStep::Version, Incompatible, "9.9.9", |plugin, _| {
            plugin.patch(&format!("\napi={API_VERSION}\n"), "\napi=9.9.9\n").write();
        }),
        case(LoadStep::Version, Incompatible, "9.9.9", |plugin, _| {
            plugin.set("version", "9.9.9").write();
        }),
        case(LoadStep::Config, Config, "config.count", |plugin, _| {
            let schema = json!({ "properties": { "count": { "type": "string" } } });
            write(plugin.set("config_schema", schema), json!({}));
        }),
    ]
}

fn while_it_starts() -> Vec<Case> {
    use ErrorKind::{Config, StartFailed};
    use LoadStep::{Health, Init, Restore, Snapshot};
    vec![
        case(LoadStep::Config, Config, "in validate, on request", |plugin, _| {
            write(plugin, json!({ "error_in": "validate" }));
        }),
        case(LoadStep::Config, StartFailed, "in validate, on request", |plugin, _| {
            write(plugin, json!({ "panic_in": "validate" }));
        }),
        case(Init, StartFailed, "in init, on request", |plugin, _| {
            write(plugin, json!({ "error_in": "init" }));
        }),
        case(Init, StartFailed, "panicked: in init, on request", |plugin, _| {
            write(plugin, json!({ "panic_in": "init" }));
        }),
        case(Snapshot, StartFailed, "in snapshot, on request", |plugin, plugins| {
            fs::write(plugins.dir().join("error"), "").unwrap();
            write(plugin, json!({ "at": 1 }));
        }),
        case(Snapshot, StartFailed, "panicked: in snapshot, on request", |plugin, plugins| {
            fs::write(plugins.dir().join("panic"), "").unwrap();
            write(plugin, json!({ "at": 2 }));
        }),
        case(Restore, StartFailed, "in restore, on request", |plugin, _| {
            write(plugin, json!({ "error_in": "restore" }));
        }),
        case(Restore, StartFailed, "panicked: in restore, on request", |plugin, _| {
            write(plugin, json!({ "panic_in": "restore" }));
        }),
        case(Restore, StartFailed, "state of shape 1, expected 2", |plugin, _| {
            write(plugin, json!({ "shape": 2 }));
        }),
        case(Health, StartFailed, "in health, on request", |plugin, _| {
            write(plugin, json!({ "error_in": "health" }));
        }),
        case(Health, StartFailed, "panicked: in health, on request", |plugin, _| {
            write(plugin, json!({ "panic_in": "health" }));
        }),
    ]
}

/// Breaks a build in each way while threads call, and then installs a good one.
fn check(handover: &str, cases: &[Case]) {
    let plugins = Plugins::new();
    let staging = tempfile::TempDir::new().unwrap();
    let host = Host::builder().staging_dir(staging.path()).build().unwrap();
    let mut events = host.events();
    let name = unique("back");
    let plugin = |more: Value| {
        let plugin = plugins.add(&name, "faulty").set("handover", handover);
        plugin.config(counting(more))
    };
    // The snapshot fails while one of two files exists.
    let switch = |what: &str| plugins.dir().join(what);
    let good = |at: usize| {
        let panics = cases.get(at).is_some_and(|case| case.expected.starts_with("panicked"));
        let what = if panics { "panic" } else { "error" };
        plugin(json!({ format!("{what}_in"): "snapshot", "while": switch(what), "at": at }))
    };
    let handle = loaded(&host, good(0).write());
    let served = |outcome: Result<hotbay::Reply, hotbay::Error>| {
        outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
    };
    under_load(&handle, 2, served, |traffic| {
        for (at, case) in cases.iter().enumerate() {
            let serving = handle.pin().unwrap().generation();
            let state = handle.call(hotbay::Request::text("x")).unwrap().json::<u64>().unwrap();
            (case.install)(plugin(json!({})), &plugins);
            let error = rolled_back(&host, &name);
            let message = error.full_message();
            assert_eq!((error.kind(), error.step()), (case.kind, Some(case.step)), "{message}");
            assert_eq!(error.generation(), Some(serving), "{message}");
            let keeps = format!("at step `{}` (generation {serving} keeps serving)", case.step);
            assert!(
                message.contains(case.expected) && message.contains(&keeps),
                "`{}`: {message}",
                case.expected
            );
            match event(&mut events, |event| matches!(event, HostEvent::RolledBack { .. })) {
                HostEvent::RolledBack { generation, step, reason, .. } => {
                    assert_eq!((generation, step), (Some(serving), Some(case.step)));
                    assert_eq!(reason, message);
                }
                other => panic!("{other:?}"),
            }
            traffic.wait_for_progress();
            assert_nothing_left(&host, &name, serving.get(), staging.path());

            for what in ["error", "panic"] {
                // Missing in most cases.
                let _ = fs::remove_file(switch(what));
            }
            good(at + 1).write();
            assert!(reloaded(&host, &name) > serving);
            event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
            let later = handle.call(hotbay::Request::text("x")).unwrap().json::<u64>().unwrap();
            assert!(later > state, "{later} after {state}");
        }
    });
}

/// Waits until only image, copy and threads of the serving generation are left.
#[track_caller]
fn assert_nothing_left(host: &Host, name: &str, serving: u64, staging: &std::path::Path) {
    // Replies held for a moment may keep a build that was closed before.
    until("one image is left", || {
        (images(name).len() <= 1 && host.retained().is_empty()).then_some(())
    });
    until("no thread of another generation is left", || {
        let own = format!("{name}-{serving}");
        threads(&format!("{name}-")).iter().all(|thread| *thread == own).then_some(())
    });
    until("one copy is left", || (copies(staging) <= 1).then_some(()));
}

/// Counts the files under a folder, recursively.
fn copies(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { copies(&path) } else { 1 }).sum()
}

#[test]
fn failure_before_start_keeps_old_build() {
    for handover in ["overlap", "pause"] {
        check(handover, &before_it_runs());
    }
}

#[test]
fn failure_during_start_keeps_old_build() {
    check("overlap", &while_it_starts());
}

#[test]
fn failure_during_pause_keeps_old_build() {
    check("pause", &while_it_starts());
}

#[test]
fn oversized_state_is_refused() {
    let plugins = Plugins::new();
    let small = limits(|limits| limits.max_snapshot_bytes = 100);
    let host = Host::builder().limits(small).build().unwrap();
    for (handover, bytes, fits) in [
        ("overlap", 100, true),
        ("overlap", 101, false),
        ("pause", 100, true),
        ("pause", 101, false),
    ] {
        let name = unique("large");
        let install = |at: u32| {
            let config = json!({ "state_bytes": bytes, "at": at });
            plugins.add(&name, "faulty").set("handover", handover).config(config).write()
        };
        let handle = loaded(&host, install(1));
        install(2);
        if fits {
            assert_eq!(reloaded(&host, &name).get(), 2);
            continue;
        }
        let error = rolled_back(&host, &name);
        let message = error.full_message();
        assert_eq!(error.step(), Some(LoadStep::Snapshot), "{message}");
        assert!(message.contains("101 bytes; the limit is 100"), "{message}");
        let reply = handle.call(hotbay::Request::text("x")).unwrap();
        assert_eq!(reply.generation().get(), 1);
    }
}

#[test]
fn hanging_start_is_abandoned_and_listed() {
    let plugins = Plugins::new();
    let wait = limits(|limits| limits.start_timeout = Duration::from_secs(3));
    let host = Host::builder().limits(wait).build().unwrap();
    let name = unique("late");
    let release = plugins.dir().join("go");
    let handle = loaded(&host, plugins.add(&name, "faulty").write());
    let left = plugins.dir().join("left");
    let config = json!({ "hang_in": "init", "release": release, "left": left });
    plugins.add(&name, "faulty").config(config).write();
    let served = |outcome: Result<hotbay::Reply, hotbay::Error>| {
        assert!(outcome.is_ok(), "{outcome:?}");
    };
    let error = under_load(&handle, 2, served, |_| rolled_back(&host, &name));
    let message = error.full_message();
    assert_eq!(
        (error.kind(), error.step()),
        (ErrorKind::StartFailed, Some(LoadStep::Init)),
        "{message}"
    );
    assert!(message.contains("did not finish within 3000 ms"), "{message}");
    let kept = host.retained();
    assert_eq!((kept.len(), kept[0].generation), (1, None));
    assert_eq!(kept[0].reason, "init: still running");
    #[cfg(target_os = "linux")]
    assert_eq!((images(&name).len(), threads(&format!("{name}-2")).len()), (2, 1));

    plugins.add(&name, "faulty").config(json!({ "answers": "good" })).write();
    assert_eq!(reloaded(&host, &name).get(), 3);
    fs::write(release, "").unwrap();
    until("init has finished", || left.exists().then_some(()));
    #[cfg(target_os = "linux")]
    assert_eq!(threads(&format!("{name}-2")).len(), 1, "the thread that opened the library stays");
}
