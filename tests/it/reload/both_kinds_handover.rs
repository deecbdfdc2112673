//! Handover of state and calls between builds of both kinds: overlapping, paused, and with the old
//! build stopped first.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hotbay::{Error, ErrorKind, Host, HostEvent, LoadStep, PluginHandle, Request};
use hotbay_tests::{
    LIMIT, Plugins, ProgramFolder, block_on, event, events_until, limits, loaded, reloaded,
    rolled_back, under_load, until,
};
use serde_json::{Value, json};

use crate::both_kinds::{Journal, KINDS, Kind, action_request, answer, increment, waits};

/// A plugin of one kind, its host and its handover.
struct Fixture {
    kind: Kind,
    plugins: Plugins,
    journal: Journal,
    handover: &'static str,
    host: Host,
}

impl Fixture {
    fn new(kind: Kind, handover: &'static str) -> Self {
        let plugins = Plugins::new();
        let patient = limits(|limits| limits.pause_timeout = LIMIT);
        let host = Host::builder().limits(patient).quarantine(None).build().unwrap();
        let journal = Journal::new(&plugins);
        Self { kind, journal, plugins, handover, host }
    }

    /// Runs the same scenario for both kinds.
    fn both(handover: &'static str, scenario: impl Fn(Self)) {
        for kind in KINDS {
            scenario(Self::new(kind, handover));
        }
    }

    fn install(&self, more: Value) -> PathBuf {
        let mut config = json!({ "journal": self.journal.0 });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let draft = self.kind.served(&self.plugins, "moves").config(config);
        draft.set("handover", self.handover).install()
    }

    fn load(&self, more: Value) -> PluginHandle {
        loaded(&self.host, self.install(more))
    }

    #[track_caller]
    fn reload(&self, more: Value) -> u64 {
        self.install(more);
        reloaded(&self.host, "moves").get()
    }

    /// Reloads a new build that fails, and returns the error.
    #[track_caller]
    fn fails(&self, more: Value) -> Error {
        self.install(more);
        rolled_back(&self.host, "moves")
    }

    /// Replaces the file with a sealed one that cannot start.
    fn corrupt(&self) {
        match self.kind {
            Kind::Library | Kind::Isolated => {
                let half = self.plugins.add("moves", "served").bytes(|bytes| bytes.truncate(1000));
                half.set("handover", self.handover).write();
            }
            Kind::Process => {
                let script = "#!/bin/sh\necho broken >&2\nexit 3\n";
                let program = ProgramFolder::new(self.plugins.dir(), "moves").bytes(script);
                program.set("handover", self.handover).install();
            }
        }
    }

    fn serving(&self) -> Option<u32> {
        self.journal.starts().pop().map(|(process, _)| process)
    }
}

#[test]
fn state_survives_every_handover_of_both_kinds() {
    for handover in ["overlap", "pause", "stop-first"] {
        Fixture::both(handover, |fixture| {
            let handle = fixture.load(json!({ "build": 1 }));
            for generation in 2..5 {
                assert_eq!(increment(&handle), generation - 1, "{:?} {handover}", fixture.kind);
                assert_eq!(fixture.reload(json!({ "build": generation })), generation);
            }
            fixture.journal.assert_only_one_left(fixture.serving());
        });
    }
}

/// Counts on two threads while the build changes; no count is lost or repeated.
fn count_under_load(handover: &'static str) {
    Fixture::both(handover, |fixture| {
        let handle = fixture.load(json!({ "counts": true, "build": 1 }));
        let calls = AtomicU64::new(0);
        let served = |outcome: Result<hotbay::Reply, Error>| {
            let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
            assert!(reply.json::<u64>().unwrap() > 0);
            calls.fetch_add(1, Ordering::Relaxed);
        };
        under_load(&handle, 4, served, |traffic| {
            for generation in 2..=6 {
                let config = json!({ "counts": true, "build": generation });
                assert_eq!(fixture.reload(config), generation);
                traffic.wait_for_progress();
            }
        });
        assert_eq!(increment(&handle), calls.into_inner() + 1, "{:?}", fixture.kind);
    });
}

#[test]
fn paused_handover_loses_no_call_of_either_kind() {
    count_under_load("pause");
}

#[test]
fn stop_first_handover_loses_no_call_of_either_kind() {
    count_under_load("stop-first");
}

#[test]
fn overlap_replies_name_generation_of_their_build() {
    Fixture::both("overlap", |fixture| {
        let expected = |generation: u64| format!("build {}", generation % 2);
        let config = |generation: u64| json!({ "answers": expected(generation) });
        let handle = fixture.load(config(1));
        let check = |outcome: Result<hotbay::Reply, Error>| {
            let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
            assert_eq!(reply.as_text().unwrap(), expected(reply.generation().get()));
        };
        let mut events = fixture.host.events();
        under_load(&handle, 4, check, |traffic| {
            for generation in 2..=6 {
                assert_eq!(fixture.reload(config(generation)), generation);
                event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
                traffic.wait_for_progress();
            }
        });
        assert_eq!(fixture.host.list()[0].stats.refused, 0);
        assert!(fixture.host.retained().is_empty());
        fixture.journal.assert_only_one_left(fixture.serving());
    });
}

#[test]
fn handover_moves_waiting_calls_and_lets_running_end() {
    Fixture::both("overlap", |fixture| {
        let one = limits(|limits| limits.max_workers = 1);
        let fixture = Fixture { host: Host::builder().limits(one).build().unwrap(), ..fixture };
        let handle = fixture.load(json!({ "answers": "old" }));
        let (entered, release) =
            (fixture.plugins.dir().join("in"), fixture.plugins.dir().join("go"));
        let old = fixture.serving();
        let running = handle.execute(waits(&entered, &release));
        until("the call runs", || entered.exists().then_some(()));
        let pinned = handle.pin().unwrap();
        assert_eq!(fixture.reload(json!({ "answers": "new" })), 2);
        assert_eq!(answer(&handle), "new");
        let error = pinned.call(Request::text("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired);
        assert_eq!(error.generation().map(|it| it.get()), Some(1));
        drop(pinned);
        let mut events = fixture.host.events();
        fs::write(release, "").unwrap();
        let reply = block_on(running).unwrap();
        assert_eq!((reply.as_bytes(), reply.generation().get()), (b"came".as_slice(), 1));
        drop(reply);
        event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
        assert_ne!((fixture.kind, old), (Kind::Process, fixture.serving()));
        fixture.journal.assert_only_one_left(fixture.serving());
    });
}

#[test]
fn calls_during_pause_reach_new_build_of_either_kind() {
    Fixture::both("pause", |fixture| {
        let handle = fixture.load(json!({ "answers": "old" }));
        let pinned = handle.pin().unwrap();
        fixture.install(json!({ "answers": "new" }));
        thread::scope(|scope| {
            let reload = scope.spawn(|| reloaded(&fixture.host, "moves"));
            until("it is paused", || pinned.call(Request::text("x")).err());
            let pooled: Vec<_> = (0..20).map(|_| handle.execute(Request::text("x"))).collect();
            let calls = [(); 4].map(|()| scope.spawn(|| handle.call(Request::text("x")).unwrap()));
            assert!(!reload.is_finished());
            drop(pinned);
            assert_eq!(reload.join().unwrap().get(), 2);
            for reply in calls {
                assert_eq!(reply.join().unwrap().as_bytes(), b"new");
            }
            for reply in pooled {
                assert_eq!(block_on(reply).unwrap().as_bytes(), b"new");
            }
        });
    });
}

#[test]
fn pin_rolls_back_pause_of_either_kind() {
    for kind in KINDS {
        let wait = limits(|limits| limits.pause_timeout = Duration::from_millis(50));
        for handover in ["pause", "stop-first"] {
            let host = Host::builder().limits(wait.clone()).build().unwrap();
            let fixture = Fixture { host, ..Fixture::new(kind, handover) };
            let handle = fixture.load(json!({ "build": 1 }));
            assert_eq!(increment(&handle), 1);
            let serving = fixture.serving();
            let pinned = handle.pin().unwrap();
            let error = fixture.fails(json!({ "build": 2 }));
            let message = error.full_message();
            assert_eq!(
                (error.kind(), error.step()),
                (ErrorKind::Overloaded, Some(LoadStep::Drain))
            );
            assert!(message.contains("generation 1 keeps serving"), "{message}");
            fixture.journal.assert_only_one_left(serving);
            assert_eq!(increment(&handle), 2);
            drop(pinned);
            reloaded(&fixture.host, "moves");
            assert_eq!(increment(&handle), 3);
        }
    }
}

#[test]
fn stop_first_releases_resource_of_either_kind() {
    Fixture::both("stop-first", |fixture| {
        let exclusive = fixture.plugins.dir().join("port");
        let config = |build: u64| json!({ "exclusive": exclusive, "build": build });
        let handle = fixture.load(config(1));
        assert_eq!(increment(&handle), 1);
        let mut events = fixture.host.events();
        assert_eq!(fixture.reload(config(2)), 2);
        assert_eq!(increment(&handle), 2);
        let seen = events_until(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
        assert!(matches!(seen[0], HostEvent::Retired { .. }), "{seen:?}");
        assert!(matches!(seen.last(), Some(HostEvent::Promoted { from: None, .. })), "{seen:?}");
        // With another handover the new build cannot start beside the old one.
        let beside = Fixture { handover: "overlap", ..fixture };
        let message = beside.fails(config(3)).full_message();
        assert!(
            message.contains("port") && message.contains("generation 2 keeps serving"),
            "{message}"
        );
        assert_eq!(increment(&handle), 3);
    });
}

/// After each kind of failure the old build is restarted from its private copy, with its config and
/// state.
#[test]
fn failed_start_restarts_old_build_of_either_kind() {
    Fixture::both("stop-first", |fixture| {
        let exclusive = fixture.plugins.dir().join("port");
        let config = |more: Value| {
            let mut config = json!({ "exclusive": exclusive, "counts": true });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let handle = fixture.load(config(json!({})));
        let mut generation = 1;
        let mut count = 0;
        let cases: [(&str, &dyn Fn()); 3] = [
            ("no init", &|| drop(fixture.install(config(json!({ "init_fails": "no init" }))))),
            ("no state", &|| drop(fixture.install(config(json!({ "restore_fails": "no state" }))))),
            ("", &|| fixture.corrupt()),
        ];
        for (expected, corrupt) in cases {
            count += 1;
            assert_eq!(answer(&handle), count.to_string());
            corrupt();
            let error = rolled_back(&fixture.host, "moves");
            let message = error.full_message();
            generation += 2;
            let again = format!("the previous build was restarted as generation {generation}");
            assert!(
                message.contains(&again) && message.contains(expected),
                "{:?}: {message}",
                fixture.kind
            );
            assert_eq!(error.generation().map(|it| it.get()), Some(generation));
            // The serving build is neither the installed file nor the installed manifest.
            fixture.journal.assert_only_one_left(fixture.serving());
        }
        count += 1;
        assert_eq!(answer(&handle), count.to_string());
        fixture.reload(config(json!({ "build": 9 })));
        assert_eq!(answer(&handle), (count + 1).to_string());
    });
}

#[test]
fn failed_start_of_both_builds_frees_name_of_either_kind() {
    Fixture::both("stop-first", |fixture| {
        let switch = fixture.plugins.dir().join("broken");
        let handle = fixture.load(json!({ "init_fails_while": switch }));
        let mut events = fixture.host.events();
        fs::write(&switch, "").unwrap();
        let error = fixture.fails(json!({ "init_panics": "the new one" }));
        let message = error.full_message();
        for part in ["is no longer loaded", "failed to restart", "not now", "the new one"] {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
        assert_eq!((error.kind(), error.generation()), (ErrorKind::StartFailed, None));
        let is_rolled_back = |event: &HostEvent| matches!(event, HostEvent::RolledBack { .. });
        let message = event(&mut events, is_rolled_back);
        assert!(matches!(message, HostEvent::RolledBack { generation: None, .. }), "{message:?}");
        assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Retired);
        assert_eq!(fixture.host.plugin("moves").unwrap_err().kind(), ErrorKind::NotFound);
        fixture.journal.assert_only_one_left(None);
        let handle = fixture.load(json!({}));
        assert_eq!(increment(&handle), 1);
    });
}

/// Only reloads use the installed files.
#[test]
fn process_exit_after_failed_reload_restarts_old_build() {
    let fixture = Fixture::new(Kind::Process, "overlap");
    let handle = fixture.load(json!({ "answers": "old" }));
    let mut events = fixture.host.events();
    let broken: [&dyn Fn(); 2] =
        [&|| drop(fixture.install(json!({ "init_fails": "no init", "answers": "new" }))), &|| {
            let script = "#!/bin/sh\necho broken >&2\nexit 3\n";
            ProgramFolder::new(fixture.plugins.dir(), "moves").bytes(script).install();
        }];
    for corrupt in broken {
        corrupt();
        rolled_back(&fixture.host, "moves");
        let before = handle.call(action_request(json!({ "do": "exit", "code": 4 })));
        assert_eq!(before.unwrap_err().kind(), ErrorKind::Disconnected);
        let restarted = event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
        let HostEvent::Restarted { generation, pid, .. } = restarted else { unreachable!() };
        assert_eq!(generation.get(), 1);
        assert_eq!(answer(&handle), "old");
        fixture.journal.assert_only_one_left(Some(pid));
    }
}
