//! Shutdown of a host: which calls may finish, which fail with `Shutdown`, the order of plugins,
//! and that nothing is left.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, Request};
use hotbay_tests::{
    LIMIT, Plugins, block_on, events_until, limits, loaded, reloaded, run_in_subprocess, threads,
    unique, until,
};
use serde_json::json;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::scripted_plugin::{Fixture, NEVER, ScriptedPlugin};

/// Returns a host with one worker, busy with the first call, and three queued calls.
fn busy(scripted: &ScriptedPlugin) -> (Fixture, Vec<hotbay::Execute>) {
    let one = limits(|limits| limits.max_workers = 1);
    let fixture = scripted.host(|builder| builder.limits(one));
    let mut calls = vec![fixture.execute("wait")];
    scripted.wait_started("wait");
    calls.extend(["1", "2", "3"].map(|text| fixture.execute(text)));
    (fixture, calls)
}

/// Waits until a host that is shutting down refuses calls.
fn refuses(fixture: &Fixture) {
    until("calls are refused", || {
        let outcome = fixture.handle.call(Request::text("direct"));
        outcome.err().map(|error| assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}"))
    });
}

#[test]
fn grace_finishes_queued_calls_and_refuses_new_ones() {
    let scripted = ScriptedPlugin::new();
    let (fixture, calls) = busy(&scripted);
    let pipeline = fixture.host.pipeline(["scripted"]).unwrap();
    thread::scope(|scope| {
        let shutdown = scope.spawn(|| block_on(fixture.host.shutdown(LIMIT)));
        refuses(&fixture);
        let received = scripted.inputs();
        let outcomes = [
            block_on(fixture.execute("pooled")).map(drop),
            block_on(pipeline.run(Request::text("piped"))).map(drop),
            fixture.handle.pin().map(drop),
            fixture.host.plugin("scripted").map(drop),
            block_on(fixture.host.load("nowhere-at-all")).map(drop),
        ];
        for (at, outcome) in outcomes.into_iter().enumerate().take(4) {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Shutdown, "outcome {at}");
        }
        assert_eq!(scripted.inputs(), received);
        assert!(!shutdown.is_finished());
        scripted.release_all();
        for call in calls {
            assert!(block_on(call).is_ok());
        }
        shutdown.join().unwrap();
    });
    for _ in 0..2 {
        let error = fixture.handle.call(Request::text("after")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shutdown);
        let error = block_on(fixture.execute("after")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shutdown);
        block_on(fixture.host.shutdown(NEVER));
    }
    assert!(fixture.host.list().is_empty() && fixture.host.retained().is_empty());
}

#[test]
fn no_grace_fails_queued_calls_and_lets_running_end() {
    let scripted = ScriptedPlugin::new();
    let (fixture, mut calls) = busy(&scripted);
    let mut events = fixture.host.events();
    block_on(fixture.host.shutdown(Duration::ZERO));
    for call in calls.drain(1..) {
        assert_eq!(block_on(call).unwrap_err().kind(), ErrorKind::Shutdown);
    }
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    assert!(seen.iter().any(|event| matches!(event, HostEvent::Kept { .. })), "{seen:?}");
    scripted.release_all();
    assert!(block_on(calls.remove(0)).is_ok());
    assert_eq!(scripted.inputs(), ["wait"]);
}

#[test]
fn expired_grace_fails_waiting_calls() {
    let scripted = ScriptedPlugin::new();
    let (fixture, mut calls) = busy(&scripted);
    block_on(fixture.host.shutdown(crate::scripted_plugin::SOON));
    for call in calls.drain(1..) {
        assert_eq!(block_on(call).unwrap_err().kind(), ErrorKind::Shutdown);
    }
    scripted.release_all();
    assert!(block_on(calls.remove(0)).is_ok());
}

#[test]
fn pin_outliving_host_fails_with_shutdown() {
    let scripted = ScriptedPlugin::new();
    let fixture = scripted.host(|builder| builder);
    let pinned = fixture.handle.pin().unwrap();
    block_on(fixture.host.shutdown(Duration::ZERO));
    let error = pinned.call(Request::text("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
}

#[test]
fn concurrent_shutdowns_complete_on_one_signal() {
    let scripted = ScriptedPlugin::new();
    let (fixture, calls) = busy(&scripted);
    let mut events = fixture.host.events();
    let mut signals = Signals::new([SIGUSR1]).unwrap();
    thread::scope(|scope| {
        let host = fixture.host.clone();
        scope.spawn(move || {
            assert_eq!(signals.forever().next(), Some(SIGUSR1));
            block_on(host.shutdown(LIMIT));
        });
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        refuses(&fixture);
        for _ in 0..4 {
            scope.spawn(|| block_on(fixture.host.shutdown(Duration::ZERO)));
        }
        assert!(fixture.host.retained().is_empty());
        scripted.release_all();
    });
    for call in calls {
        // The first shutdown gave a grace.
        assert!(block_on(call).is_ok());
    }
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let stops = seen.iter().filter(|event| matches!(event, HostEvent::Stopped)).count();
    assert_eq!((stops, events.try_next().is_none()), (1, true));
}

#[test]
fn plugins_retire_and_close_before_their_requirements() {
    let plugins = Plugins::new();
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let hang = json!({ "hang_in": "execute", "release": release, "entered": entered });
    plugins.add("base", "faulty").config(hang).set("limits", json!({ "workers": 1 })).write();
    plugins.add("middle", "faulty").set("requires", json!({ "base": "*" })).write();
    plugins.add("top", "faulty").set("requires", json!({ "middle": "*" })).write();
    let host = Host::builder().plugin_dir(plugins.dir()).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let base = host.plugin("base").unwrap();
    let calls = [base.execute(Request::text("x")), base.execute(Request::text("x"))];
    until("one call runs", || entered.exists().then_some(()));
    let mut events = host.events();
    thread::scope(|scope| {
        scope.spawn(|| block_on(host.shutdown(LIMIT)));
        std::fs::write(&release, "").unwrap();
    });
    for call in calls {
        drop(block_on(call));
    }
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let message: Vec<_> = seen
        .iter()
        .filter_map(|event| match event {
            HostEvent::Retired { plugin, .. } => Some(format!("{plugin} retired")),
            HostEvent::Closed { plugin, .. } => Some(format!("{plugin} closed")),
            HostEvent::Kept { plugin, reason, .. } => Some(format!("{plugin} kept: {reason}")),
            _ => None,
        })
        .collect();
    let expected =
        ["top", "middle", "base"].map(|name| [format!("{name} retired"), format!("{name} closed")]);
    assert_eq!(message, expected.concat());
}

#[test]
fn plugin_retires_before_requirements_that_form_a_cycle() {
    let plugins = Plugins::new();
    let [release, entered] = ["go", "entered"].map(|name| plugins.dir().join(name));
    let hang = json!({ "hang_in": "shutdown", "release": release, "entered": entered });
    let base = plugins.add("base", "faulty").write();
    let middle = plugins.add("middle", "faulty").set("requires", json!({ "base": "*" })).write();
    let top = plugins.add("top", "faulty").set("requires", json!({ "middle": "*" }));
    let top = top.config(hang).write();
    let host = Host::builder().plugin_dir(plugins.dir()).build().unwrap();
    for folder in [base, middle, top] {
        loaded(&host, folder);
    }
    let mut events = host.events();
    let changed = json!({ "build": 2 });
    plugins.add("base", "faulty").set("requires", json!({ "middle": "*" })).config(changed).write();
    reloaded(&host, "base");
    events_until(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    thread::scope(|scope| {
        scope.spawn(|| block_on(host.shutdown(LIMIT)));
        until("`top` shuts down", || entered.exists().then_some(()));
        // Time in which the others would close.
        thread::sleep(crate::scripted_plugin::SOON);
        std::fs::write(&release, "").unwrap();
    });
    let seen = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let closed = seen.iter().filter_map(|event| match event {
        HostEvent::Closed { plugin, .. } => Some(plugin.as_str()),
        _ => None,
    });
    assert_eq!(closed.collect::<Vec<_>>(), ["top", "middle", "base"]);
}

#[test]
fn last_host_clone_may_drop_inside_call() {
    let slot = Arc::new(Mutex::new(None::<Host>));
    let held = Arc::clone(&slot);
    let drops = move |_: &hotbay::CallContext<'_>, input: hotbay::Payload<'_>| {
        drop(held.lock().unwrap().take());
        Ok(hotbay::Output::copy_of(input.as_bytes()))
    };
    for pooled in [false, true] {
        let host = Host::builder().register_fn("drops", drops.clone()).build().unwrap();
        let handle = host.plugin("drops").unwrap();
        let mut events = host.events();
        *slot.lock().unwrap() = Some(host);
        let reply = match pooled {
            true => block_on(handle.execute(Request::text("x"))),
            false => handle.call(Request::text("x")),
        };
        assert_eq!(reply.unwrap().as_bytes(), b"x");
        events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
        let error = handle.call(Request::text("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shutdown);
    }
}

#[test]
fn call_may_shut_down_its_own_host() {
    let slot = Arc::new(Mutex::new(None::<Host>));
    let held = Arc::clone(&slot);
    let ends = move |_: &hotbay::CallContext<'_>, input: hotbay::Payload<'_>| {
        let host = held.lock().unwrap().take();
        if let Some(host) = host {
            block_on(host.shutdown(crate::scripted_plugin::SOON));
        }
        Ok(hotbay::Output::copy_of(input.as_bytes()))
    };
    let host = Host::builder().register_fn("ends", ends).build().unwrap();
    let handle = host.plugin("ends").unwrap();
    *slot.lock().unwrap() = Some(host.clone());
    assert_eq!(block_on(handle.execute(Request::text("x"))).unwrap().as_bytes(), b"x");
    let error = block_on(handle.execute(Request::text("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
}

/// Set in the subprocess that runs only this test.
const CHILD: &str = "HOTBAY_TESTS_SHUTDOWN";

/// Runs in a subprocess, since hosts of other tests use the same thread names.
#[test]
fn shutdown_leaves_no_host_threads() {
    if std::env::var_os(CHILD).is_some() {
        return leave_no_thread();
    }
    let test = concat!(module_path!(), "::shutdown_leaves_no_host_threads");
    run_in_subprocess(test, &[(CHILD, "1")]);
}

fn leave_no_thread() {
    let plugins = Plugins::new();
    let name = unique("gone");
    let faulty = plugins.add(&name, "faulty").config(json!({ "scripted": true })).write();
    let scripted = ScriptedPlugin::new();
    let builder = Host::builder().plugin_dir(plugins.dir()).hot_reload(true);
    let host = scripted.register(builder, "scripted").build().unwrap();
    let faulty = hotbay_tests::loaded(&host, faulty);
    for _ in 0..10 {
        let request = Request::json_text("{}").with_timeout(NEVER);
        block_on(faulty.execute(request)).unwrap();
    }
    let (late, script) = (host.plugin("scripted").unwrap(), scripted.clone());
    let late = late.execute(Request::text("wait").with_timeout(crate::scripted_plugin::SOON));
    assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    script.release_all();
    assert!(!threads("hotbay-").is_empty(), "host threads run before the shutdown");
    block_on(host.shutdown(LIMIT));
    assert_eq!((threads(&name), threads("scripted")), (Vec::new(), Vec::new()));
    drop(host);
    until("all host threads have exited", || threads("hotbay-").is_empty().then_some(()));
    // Handles may outlive the host.
    assert_eq!(faulty.call(Request::json_text("{}")).unwrap_err().kind(), ErrorKind::Shutdown);
}

#[test]
fn every_method_fails_with_shutdown_after_it() {
    let scripted = ScriptedPlugin::new();
    let host = scripted.host(|builder| builder).host;
    block_on(host.shutdown(Duration::ZERO));
    let errors = [
        host.plugin("scripted").err(),
        host.pipeline(["scripted"]).err(),
        block_on(host.load("nowhere-at-all")).err(),
        block_on(host.reload("scripted")).err(),
        block_on(host.unload("scripted")).err(),
        block_on(host.unregister("scripted")).err(),
    ];
    let kinds = errors.map(|error| error.map(|error| error.kind()));
    assert_eq!(kinds[0], Some(ErrorKind::Shutdown));
    assert_eq!(kinds[1], Some(ErrorKind::Shutdown));
    assert_eq!(kinds[3..], [Some(ErrorKind::Shutdown); 3], "{kinds:?}");
}

#[test]
fn shutdown_waits_for_earlier_replaced_builds() {
    let plugins = Plugins::new();
    let patient = limits(|limits| limits.stop_timeout = LIMIT);
    let host = Host::builder().limits(patient).build().unwrap();
    let (release, entered) = (plugins.dir().join("go"), plugins.dir().join("entered"));
    let config = json!({ "hang_in": "shutdown", "release": release, "entered": entered });
    loaded(&host, plugins.add("slow", "faulty").config(config).write());
    let mut events = host.events();
    plugins.add("slow", "faulty").write();
    assert_eq!(reloaded(&host, "slow").get(), 2);
    until("the old build shuts down", || entered.exists().then_some(()));
    let mut seen = thread::scope(|scope| {
        let shutdown = scope.spawn(|| block_on(host.shutdown(LIMIT)));
        let is_of_new = |event: &HostEvent| matches!(event, HostEvent::Closed { generation, .. } if generation.get() == 2);
        let seen = events_until(&mut events, is_of_new);
        assert!(!shutdown.is_finished(), "the old build has not finished");
        std::fs::write(&release, "").unwrap();
        shutdown.join().unwrap();
        seen
    });
    while let Some(event) = events.try_next() {
        seen.push(event);
    }
    let old = |event: &HostEvent| match event {
        HostEvent::Retired { generation, .. } if generation.get() == 1 => Some("retired"),
        HostEvent::Closed { generation, .. } if generation.get() == 1 => Some("closed"),
        HostEvent::Stopped => Some("stopped"),
        _ => None,
    };
    let reported: Vec<_> = seen.iter().filter_map(old).collect();
    assert_eq!(reported, ["retired", "closed", "stopped"], "{seen:#?}");
}

#[test]
fn requirement_added_by_reload_orders_shutdown() {
    let plugins = Plugins::new();
    let host = Host::builder().build().unwrap();
    for name in ["first", "second"] {
        loaded(&host, plugins.add(name, "faulty").write());
    }
    plugins.add("first", "faulty").set("requires", json!({ "second": "*" })).write();
    reloaded(&host, "first");
    let mut events = host.events();
    block_on(host.shutdown(LIMIT));
    let events = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let at = |name: &str, is_end: bool| {
        let is_it = |event: &HostEvent| match event {
            HostEvent::Retired { plugin, .. } => !is_end && plugin.as_str() == name,
            HostEvent::Closed { plugin, generation, .. } => {
                is_end && plugin.as_str() == name && (name == "second" || generation.get() == 2)
            }
            _ => false,
        };
        events.iter().position(is_it).unwrap_or_else(|| panic!("{name}: {events:#?}"))
    };
    assert!(at("first", true) < at("second", false), "{events:#?}");
}

/// Waits in its shutdown until the other plugin shuts down too.
struct Together(std::sync::mpsc::Sender<()>, Mutex<std::sync::mpsc::Receiver<()>>);

impl hotbay::Plugin for Together {
    fn init(
        _: &hotbay::hotbay_plugin::Config,
        _: hotbay::hotbay_plugin::HostServices,
    ) -> Result<Self, hotbay::PluginError> {
        Err(hotbay::PluginError::new(1, "only by a factory"))
    }

    fn execute(
        &self,
        _: &hotbay::CallContext<'_>,
        _: hotbay::Payload<'_>,
    ) -> Result<hotbay::Output, hotbay::PluginError> {
        Ok(hotbay::Output::default())
    }

    fn shutdown(self) -> Result<(), hotbay::PluginError> {
        let _ = self.0.send(());
        let received = self.1.into_inner().unwrap().recv_timeout(LIMIT / 2);
        received.map_err(|_| hotbay::PluginError::new(2, "the other plugin did not shut down"))
    }
}

#[test]
fn independent_plugins_shut_down_at_the_same_time() {
    if thread::available_parallelism().is_ok_and(|cores| cores.get() == 1) {
        return;
    }
    let ((to_first, first), (to_second, second)) =
        (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let ends = Mutex::new(vec![
        Together(to_second, Mutex::new(first)),
        Together(to_first, Mutex::new(second)),
    ]);
    let patient = limits(|limits| limits.stop_timeout = LIMIT);
    let host = Host::builder()
        .limits(patient)
        .register_factory("together", move |_: &hotbay::hotbay_plugin::Config| {
            ends.lock().unwrap().pop().ok_or_else(|| hotbay::PluginError::new(3, "two at most"))
        })
        .build()
        .unwrap();
    for name in ["one", "other"] {
        block_on(host.create("together", name, json!({}))).unwrap();
    }
    let mut events = host.events();
    block_on(host.shutdown(LIMIT));
    let events = events_until(&mut events, |event| matches!(event, HostEvent::Stopped));
    let failed = events.iter().any(|event| matches!(event, HostEvent::ShutdownFailed { .. }));
    assert!(!failed, "{events:#?}");
}
