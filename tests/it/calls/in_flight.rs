//! `limits.in_flight`: the number of concurrent calls of one plugin, by every call method.

use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, Request};
use hotbay_tests::{Plugins, block_on, limits, loaded, reloaded, unique, until};
use serde_json::json;

use crate::scripted_plugin::{LATE, ScriptedPlugin};

#[test]
fn in_flight_limit_of_one_overloads_other_threads() {
    let scripted = ScriptedPlugin::new();
    let one = limits(|limits| limits.max_in_flight = Some(1));
    let fixture = scripted.host(|builder| builder.limits(one).quarantine(None));
    let pinned = fixture.handle.pin().unwrap();
    for round in 0..3 {
        thread::scope(|scope| {
            let inside = scope.spawn(|| fixture.handle.call(Request::text("wait")));
            until("one call runs", || (scripted.inputs().len() == round * 2 + 1).then_some(()));
            let others: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| fixture.handle.call(Request::text("other"))))
                .collect();
            for other in others {
                let error = other.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Overloaded);
                assert!(error.to_string().contains("limits.in_flight"), "{error}");
            }
            let error = pinned.call(Request::text("pinned")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Overloaded);
            let error = block_on(fixture.execute("pooled")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Overloaded);
            let wait = error.retry_after().expect("an estimate");
            assert!(
                wait >= Duration::from_millis(1) && wait <= Duration::from_secs(60),
                "{wait:?}"
            );
            scripted.release_one();
            inside.join().unwrap().unwrap();
        });
        // A panic releases its slot too.
        let error = fixture.handle.call(Request::text("panic")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
    }
    assert!(fixture.handle.call(Request::text("after")).is_ok());
    assert_eq!(scripted.max_concurrent(), 1);
    assert_eq!(fixture.info().stats.refused, 3 * 6);
}

#[test]
fn pooled_calls_of_limited_plugin_run_one_by_one() {
    let scripted = ScriptedPlugin::new();
    let one = limits(|limits| (limits.max_in_flight, limits.max_workers) = (Some(1), 4));
    let fixture = scripted.host(|builder| builder.limits(one));
    let calls: Vec<_> = (0..100).map(|_| fixture.execute("one by one")).collect();
    for call in calls {
        block_on(call).unwrap();
    }
    assert_eq!(scripted.max_concurrent(), 1);
}

#[test]
fn host_clamps_in_flight_limit_and_reports_it() {
    let plugins = Plugins::new();
    let action = json!({ "in_flight": 9 });
    plugins.add("greedy", "faulty").set("limits", action).write();
    plugins.add("modest", "faulty").set("limits", json!({ "in_flight": 2 })).write();
    let few = limits(|limits| limits.max_in_flight = Some(3));
    let host = Host::builder().plugin_dir(plugins.dir()).limits(few).build().unwrap();
    let report = block_on(host.load_all());
    let notes: Vec<_> = report.loaded.iter().map(|one| one.notes.join("; ")).collect();
    assert!(notes[0].contains("`limits.in_flight` is 9; this host allows at most 3"), "{notes:?}");
    assert_eq!(notes[1], "");
}

#[test]
fn abandoned_call_counts_as_in_flight_until_return() {
    let scripted = ScriptedPlugin::new();
    let one = limits(|limits| limits.max_in_flight = Some(1));
    let fixture = scripted.host(|builder| builder.limits(one));
    let late = fixture.handle.execute(Request::text("wait").with_timeout(LATE));
    scripted.wait_started("wait");
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    let error = block_on(fixture.execute("next")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    scripted.release_all();
    until("the call returns", || (fixture.info().stats.running == 0).then_some(()));
    assert!(block_on(fixture.execute("next")).is_ok());
    assert_eq!(scripted.max_concurrent(), 1);
}

#[test]
fn reload_of_plugin_with_hanging_call_serves_again() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    let name = unique("hung");
    let install = |answers: &str| {
        let release = plugins.dir().join("go");
        let entered = plugins.dir().join("entered");
        let hang = json!({ "hang_in": "execute", "release": release, "entered": entered });
        let config = if answers.is_empty() { hang } else { json!({ "answers": answers }) };
        let plugin = plugins.add(&name, "faulty").config(config);
        plugin.set("limits", json!({ "in_flight": 1 })).write()
    };
    let handle = loaded(&host, install(""));
    let late = handle.execute(Request::text("x").with_timeout(LATE));
    until("it hangs", || plugins.dir().join("entered").exists().then_some(()));
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    install("fixed");
    reloaded(&host, &name);
    let outcome = block_on(handle.execute(Request::text("x")));
    std::fs::write(plugins.dir().join("go"), "").unwrap();
    let reply = outcome.unwrap_or_else(|error| panic!("the new build was not called: {error}"));
    assert_eq!(reply.as_bytes(), b"fixed");
}
