//! The lifecycle of plugins of each kind: loaded with and without a state, unloaded during calls,
//! required by a plugin of the other kind.

use std::fs;
use std::thread;

use hotbay::{ErrorKind, Host, HostEvent, LoadStep, PluginError, Request, Snapshot};
use hotbay_tests::{
    Plugins, block_on, event, events_until, host, loaded, refused, reloaded, rolled_back, until,
};
use serde_json::json;

use crate::both_kinds::{Journal, KINDS, Kind, action_request, increment, waits};

#[test]
fn lifecycle_events_come_in_same_order() {
    for kind in KINDS {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let (mut events, mut beside) = (host.events(), host.events());
        let install =
            |build: u64| kind.served(&plugins, "life").config(json!({ "build": build })).install();
        let life = loaded(&host, install(1));
        let panic = action_request(json!({ "do": "panic", "message": "on request" }));
        let error = block_on(life.execute(panic)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(error.fault().map(hotbay::Fault::message), Some("on request"));
        install(2);
        reloaded(&host, "life");
        event(&mut beside, |event| matches!(event, HostEvent::Closed { .. }));
        block_on(host.unload("life")).unwrap();
        block_on(host.shutdown(hotbay_tests::LIMIT));
        let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
        let kinds: Vec<_> = seen.iter().map(kind_of).collect();
        let expected =
            ["Loaded", "Faulted", "Promoted", "Retired", "Closed", "Retired", "Closed", "Stopped"];
        assert_eq!(kinds, expected, "{kind:?}: {seen:#?}");
    }
}

fn kind_of(event: &HostEvent) -> String {
    let reported = format!("{event:?}");
    let end = reported.find([' ', '{']).unwrap_or(reported.len());
    reported[..end].to_owned()
}

#[test]
fn load_restores_state_and_refuses_invalid_state() {
    for kind in KINDS {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let journal = Journal::new(&plugins);
        let config = json!({ "journal": journal.0 });
        let folder = kind.served(&plugins, "state").config(config).install();
        let handle = loaded(&host, &folder);
        assert!(block_on(handle.snapshot()).unwrap().is_none(), "no state before the first count");
        for expected in 1..4 {
            assert_eq!(increment(&handle), expected);
        }
        let state = block_on(handle.snapshot()).unwrap().expect("a state");
        assert_eq!((state.version(), state.as_bytes()), (3, b"3".as_slice()));
        block_on(handle.health()).unwrap();
        block_on(host.unload("state")).unwrap();
        let handle =
            block_on(host.load_with(&folder, hotbay::LoadOptions::new().with_state(state)))
                .unwrap();
        assert_eq!(increment(&handle), 4);
        block_on(host.unload("state")).unwrap();
        let error = block_on(
            host.load_with(&folder, hotbay::LoadOptions::new().with_state(Snapshot::new(3, "?"))),
        )
        .unwrap_err();
        assert_eq!((error.kind(), error.step()), (ErrorKind::StartFailed, Some(LoadStep::Restore)));
        assert_eq!(error.plugin_error().map(PluginError::code), Some(409));
        assert_eq!(error.generation(), None);
        journal.assert_only_one_left(None);
    }
}

#[test]
fn unload_finishes_running_calls_and_refuses_later_ones() {
    for kind in KINDS {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let mut events = host.events();
        let journal = Journal::new(&plugins);
        let config = json!({ "journal": journal.0 });
        let folder = kind.served(&plugins, "goes").config(config).install();
        for round in 0..2 {
            let handle = loaded(&host, &folder);
            let (entered, release) = (
                plugins.dir().join(format!("in{round}")),
                plugins.dir().join(format!("go{round}")),
            );
            let here = plugins.dir().join(format!("here{round}"));
            thread::scope(|scope| {
                let running = handle.execute(waits(&entered, &release));
                let in_thread = scope.spawn(|| handle.call(waits(&here, &release)));
                until("both run", || (entered.exists() && here.exists()).then_some(()));
                let unload = scope.spawn(|| block_on(host.unload("goes")));
                let refuses = || {
                    let error = handle.call(Request::text("x")).err()?;
                    assert_eq!(error.kind(), ErrorKind::Retired);
                    Some(())
                };
                until("it is retired", refuses);
                assert_eq!(handle.pin().unwrap_err().kind(), ErrorKind::Retired);
                fs::write(&release, "").unwrap();
                assert_eq!(block_on(running).unwrap().as_bytes(), b"came");
                assert_eq!(in_thread.join().unwrap().unwrap().as_bytes(), b"came");
                unload.join().unwrap().unwrap();
            });
            event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
            assert_eq!(block_on(handle.health()).unwrap_err().kind(), ErrorKind::Retired);
            assert_eq!(host.plugin("goes").unwrap_err().kind(), ErrorKind::NotFound);
            journal.assert_only_one_left(None);
        }
        assert!(host.retained().is_empty());
    }
}

#[test]
fn plugin_shutdown_runs_once_and_reports_failure() {
    for kind in KINDS {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let mut events = host.events();
        let reported = plugins.dir().join("events");
        let config = json!({ "shutdown_writes": reported });
        let handle = loaded(&host, kind.served(&plugins, "ends").config(config).install());
        increment(&handle);
        block_on(host.unload("ends")).unwrap();
        event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
        assert_eq!(fs::read_to_string(&reported).unwrap(), "1");
        let config = json!({ "shutdown_panics": "at its end" });
        loaded(&host, kind.served(&plugins, "ends").config(config).install());
        block_on(host.unload("ends")).unwrap();
        match event(&mut events, |event| matches!(event, HostEvent::ShutdownFailed { .. })) {
            HostEvent::ShutdownFailed { reason, .. } => {
                assert!(reason.contains("at its end"), "{kind:?}: {reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn plugins_of_both_kinds_require_each_other() {
    for (below, above) in [(Kind::Library, Kind::Process), (Kind::Process, Kind::Library)] {
        let plugins = Plugins::new();
        let host = host(&plugins);
        let requires = json!({ "below": "^0.1" });
        let needs = above.served(&plugins, "above").set("requires", requires).install();
        let error = refused(&host, &needs);
        assert_eq!((error.kind(), error.step()), (ErrorKind::Requires, Some(LoadStep::Requires)));
        below.served(&plugins, "below").install();
        let report = block_on(host.load_all());
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.loaded.len(), 2);
        let error = block_on(host.unload("below")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Requires, "{above:?} needs {below:?}");
        // A version that the other plugin does not accept.
        below.served(&plugins, "below").set("version", "0.2.0").install();
        let error = rolled_back(&host, "below");
        assert_eq!((error.kind(), error.step()), (ErrorKind::Requires, Some(LoadStep::Requires)));
        assert!(error.full_message().contains("`above` requires ^0.1"), "{error:?}");
        block_on(host.unload("above")).unwrap();
        block_on(host.unload("below")).unwrap();
    }
}

#[test]
fn two_hosts_are_isolated_for_both_kinds() {
    for kind in KINDS {
        let plugins = Plugins::new();
        let journal = Journal::new(&plugins);
        let config = json!({ "journal": journal.0 });
        let folder = kind.served(&plugins, "twice").config(config).install();
        let (one, other) = (host(&plugins), Host::builder().build().unwrap());
        let (first, second) = (loaded(&one, &folder), loaded(&other, &folder));
        let last = journal.starts().pop().unwrap().0;
        assert_eq!((increment(&first), increment(&first), increment(&second)), (1, 2, 1));
        drop(one);
        assert_eq!(first.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Shutdown);
        assert_eq!(increment(&second), 2);
        journal.assert_only_one_left(Some(last));
        drop(other);
        journal.assert_only_one_left(None);
    }
}
