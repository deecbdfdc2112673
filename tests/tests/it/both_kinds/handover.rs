//! How state and calls go from build to build, for both kinds: beside calls that go on, while
//! they wait, and where the old build is stopped first.

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

use super::{BOTH, Journal, Kind, answer, asks, counted, waits};

/// A plugin of one kind, a host for it, and how it is handed over.
struct Scene {
    kind: Kind,
    plugins: Plugins,
    journal: Journal,
    handover: &'static str,
    host: Host,
}

impl Scene {
    fn new(kind: Kind, handover: &'static str) -> Self {
        let plugins = Plugins::new();
        let patient = limits(|limits| limits.pause_timeout = LIMIT);
        let host = Host::builder().limits(patient).quarantine(None).build().unwrap();
        let journal = Journal::new(&plugins);
        Self { kind, journal, plugins, handover, host }
    }

    /// The same scene for both kinds.
    fn both(handover: &'static str, play: impl Fn(Self)) {
        for kind in BOTH {
            play(Self::new(kind, handover));
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

    /// A new build that fails; answers with what is told.
    #[track_caller]
    fn fails(&self, more: Value) -> Error {
        self.install(more);
        rolled_back(&self.host, "moves")
    }

    /// Puts something in the file's place that cannot start, and seals it.
    fn spoil(&self) {
        match self.kind {
            Kind::Library => {
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
fn state_goes_on_by_every_handover() {
    for handover in ["overlap", "pause", "stop-first"] {
        Scene::both(handover, |scene| {
            let handle = scene.load(json!({ "build": 1 }));
            for generation in 2..5 {
                assert_eq!(counted(&handle), generation - 1, "{:?} {handover}", scene.kind);
                assert_eq!(scene.reload(json!({ "build": generation })), generation);
            }
            scene.journal.only_one_is_left(scene.serving());
        });
    }
}

/// Two threads count while the build changes; nothing is lost or counted twice.
fn count_under_load(handover: &'static str) {
    Scene::both(handover, |scene| {
        let handle = scene.load(json!({ "counts": true, "build": 1 }));
        let calls = AtomicU64::new(0);
        let served = |outcome: Result<hotbay::Reply, Error>| {
            let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
            assert!(reply.json::<u64>().unwrap() > 0);
            calls.fetch_add(1, Ordering::Relaxed);
        };
        under_load(&handle, 4, served, |traffic| {
            for generation in 2..=6 {
                let config = json!({ "counts": true, "build": generation });
                assert_eq!(scene.reload(config), generation);
                traffic.goes_on();
            }
        });
        assert_eq!(counted(&handle), calls.into_inner() + 1, "{:?}", scene.kind);
    });
}

#[test]
fn nothing_is_lost_or_counted_twice_while_calls_wait() {
    count_under_load("pause");
}

#[test]
fn nothing_is_lost_or_counted_twice_where_the_old_build_is_stopped_first() {
    count_under_load("stop-first");
}

#[test]
fn every_reply_of_an_overlap_is_of_the_build_that_its_generation_names() {
    Scene::both("overlap", |scene| {
        let says = |generation: u64| format!("build {}", generation % 2);
        let config = |generation: u64| json!({ "answers": says(generation) });
        let handle = scene.load(config(1));
        let check = |outcome: Result<hotbay::Reply, Error>| {
            let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
            assert_eq!(reply.as_text().unwrap(), says(reply.generation().get()));
        };
        let mut events = scene.host.events();
        under_load(&handle, 4, check, |traffic| {
            for generation in 2..=6 {
                assert_eq!(scene.reload(config(generation)), generation);
                event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
                traffic.goes_on();
            }
        });
        assert_eq!(scene.host.list()[0].refused, 0);
        assert!(scene.host.retained().is_empty());
        scene.journal.only_one_is_left(scene.serving());
    });
}

#[test]
fn calls_that_run_end_on_the_old_build_and_those_that_wait_are_answered_by_the_new_one() {
    Scene::both("overlap", |scene| {
        let one = limits(|limits| limits.max_workers = 1);
        let scene = Scene { host: Host::builder().limits(one).build().unwrap(), ..scene };
        let handle = scene.load(json!({ "answers": "old" }));
        let (entered, release) = (scene.plugins.dir().join("in"), scene.plugins.dir().join("go"));
        let old = scene.serving();
        let running = handle.execute(waits(&entered, &release));
        until("it runs", || entered.exists().then_some(()));
        let pinned = handle.pin().unwrap();
        assert_eq!(scene.reload(json!({ "answers": "new" })), 2);
        assert_eq!(answer(&handle), "new");
        let error = pinned.call(Request::text("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retired);
        assert_eq!(error.generation().map(|it| it.get()), Some(1));
        drop(pinned);
        let mut events = scene.host.events();
        fs::write(release, "").unwrap();
        let reply = block_on(running).unwrap();
        assert_eq!((reply.as_bytes(), reply.generation().get()), (b"came".as_slice(), 1));
        drop(reply);
        event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
        assert_ne!((scene.kind, old), (Kind::Process, scene.serving()));
        scene.journal.only_one_is_left(scene.serving());
    });
}

#[test]
fn calls_that_came_during_a_pause_are_answered_by_the_new_build() {
    Scene::both("pause", |scene| {
        let handle = scene.load(json!({ "answers": "old" }));
        let pinned = handle.pin().unwrap();
        scene.install(json!({ "answers": "new" }));
        thread::scope(|scope| {
            let reload = scope.spawn(|| reloaded(&scene.host, "moves"));
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
fn a_pin_lets_a_pause_roll_back_and_afterwards_everything_serves() {
    for kind in BOTH {
        let wait = limits(|limits| limits.pause_timeout = Duration::from_millis(50));
        for handover in ["pause", "stop-first"] {
            let host = Host::builder().limits(wait.clone()).build().unwrap();
            let scene = Scene { host, ..Scene::new(kind, handover) };
            let handle = scene.load(json!({ "build": 1 }));
            assert_eq!(counted(&handle), 1);
            let serving = scene.serving();
            let pinned = handle.pin().unwrap();
            let error = scene.fails(json!({ "build": 2 }));
            let told = error.full_message();
            assert_eq!(
                (error.kind(), error.step()),
                (ErrorKind::Overloaded, Some(LoadStep::Drain))
            );
            assert!(told.contains("generation 1 keeps serving"), "{told}");
            scene.journal.only_one_is_left(serving);
            assert_eq!(counted(&handle), 2);
            drop(pinned);
            reloaded(&scene.host, "moves");
            assert_eq!(counted(&handle), 3);
        }
    }
}

#[test]
fn what_is_exclusive_is_given_up_by_the_old_build_before_the_new_one_starts() {
    Scene::both("stop-first", |scene| {
        let exclusive = scene.plugins.dir().join("port");
        let config = |build: u64| json!({ "exclusive": exclusive, "build": build });
        let handle = scene.load(config(1));
        assert_eq!(counted(&handle), 1);
        let mut events = scene.host.events();
        assert_eq!(scene.reload(config(2)), 2);
        assert_eq!(counted(&handle), 2);
        let seen = events_until(&mut events, |event| matches!(event, HostEvent::Promoted { .. }));
        assert!(matches!(seen[0], HostEvent::Retired { .. }), "{seen:?}");
        assert!(matches!(seen.last(), Some(HostEvent::Promoted { from: None, .. })), "{seen:?}");
        // With another handover it cannot start beside the old one.
        let beside = Scene { handover: "overlap", ..scene };
        let told = beside.fails(config(3)).full_message();
        assert!(told.contains("port") && told.contains("generation 2 keeps serving"), "{told}");
        assert_eq!(counted(&handle), 3);
    });
}

/// One way after another: the old build is started again from its own copy, with its config and
/// its state.
#[test]
fn where_the_new_build_does_not_start_the_old_one_is_started_again_with_its_state() {
    Scene::both("stop-first", |scene| {
        let exclusive = scene.plugins.dir().join("port");
        let config = |more: Value| {
            let mut config = json!({ "exclusive": exclusive, "counts": true });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let handle = scene.load(config(json!({})));
        let mut generation = 1;
        let mut count = 0;
        let ways: [(&str, &dyn Fn()); 3] = [
            ("no init", &|| drop(scene.install(config(json!({ "init_fails": "no init" }))))),
            ("no state", &|| drop(scene.install(config(json!({ "restore_fails": "no state" }))))),
            ("", &|| scene.spoil()),
        ];
        for (says, spoil) in ways {
            count += 1;
            assert_eq!(answer(&handle), count.to_string());
            spoil();
            let error = rolled_back(&scene.host, "moves");
            let told = error.full_message();
            generation += 2;
            let again = format!("the previous build was restarted as generation {generation}");
            assert!(told.contains(&again) && told.contains(says), "{:?}: {told}", scene.kind);
            assert_eq!(error.generation().map(|it| it.get()), Some(generation));
            // What serves is neither the file nor the manifest that lie there now.
            scene.journal.only_one_is_left(scene.serving());
        }
        count += 1;
        assert_eq!(answer(&handle), count.to_string());
        scene.reload(config(json!({ "build": 9 })));
        assert_eq!(answer(&handle), (count + 1).to_string());
    });
}

#[test]
fn where_neither_build_starts_it_is_told_and_the_name_is_free() {
    Scene::both("stop-first", |scene| {
        let switch = scene.plugins.dir().join("broken");
        let handle = scene.load(json!({ "init_fails_while": switch }));
        let mut events = scene.host.events();
        fs::write(&switch, "").unwrap();
        let error = scene.fails(json!({ "init_panics": "the new one" }));
        let told = error.full_message();
        for part in ["is no longer loaded", "failed to restart", "not now", "the new one"] {
            assert!(told.contains(part), "`{part}` in: {told}");
        }
        assert_eq!((error.kind(), error.generation()), (ErrorKind::StartFailed, None));
        let is_rolled_back = |event: &HostEvent| matches!(event, HostEvent::RolledBack { .. });
        let told = event(&mut events, is_rolled_back);
        assert!(matches!(told, HostEvent::RolledBack { generation: None, .. }), "{told:?}");
        assert_eq!(handle.call(Request::text("x")).unwrap_err().kind(), ErrorKind::Retired);
        assert_eq!(scene.host.plugin("moves").unwrap_err().kind(), ErrorKind::NotFound);
        scene.journal.only_one_is_left(None);
        let handle = scene.load(json!({}));
        assert_eq!(counted(&handle), 1);
    });
}

/// What lies on the disk is tried by reloads only.
#[test]
fn a_process_that_ends_after_a_failed_reload_is_started_again_as_the_old_build() {
    let scene = Scene::new(Kind::Process, "overlap");
    let handle = scene.load(json!({ "answers": "old" }));
    let mut events = scene.host.events();
    let broken: [&dyn Fn(); 2] =
        [&|| drop(scene.install(json!({ "init_fails": "no init", "answers": "new" }))), &|| {
            let script = "#!/bin/sh\necho broken >&2\nexit 3\n";
            ProgramFolder::new(scene.plugins.dir(), "moves").bytes(script).install();
        }];
    for spoil in broken {
        spoil();
        rolled_back(&scene.host, "moves");
        let before = handle.call(asks(json!({ "do": "exit", "code": 4 })));
        assert_eq!(before.unwrap_err().kind(), ErrorKind::Disconnected);
        let restarted = event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
        let HostEvent::Restarted { generation, pid, .. } = restarted else { unreachable!() };
        assert_eq!(generation.get(), 1);
        assert_eq!(answer(&handle), "old");
        scene.journal.only_one_is_left(Some(pid));
    }
}
