//! The runtime of a plugin, when its threads outlive the plugin, and in a crate that is a library and
//! a program.

use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use hotbay::contract::Handle;
use hotbay::{ErrorKind, Events, Host, HostEvent};
use hotbay_tests::{
    Plugins, ProgramFolder, block_on, event, host, images, limits, loaded, processes_of, reloaded,
    unique, until,
};
use serde_json::json;
use text_contract::{Echoes, Leftovers};

use super::streams::read;

/// Makes a call that blocks a thread of the plugin's runtime, and drops the call. The thread blocks
/// until the returned connection is dropped.
fn block_thread(host: &Host, name: &str) -> TcpStream {
    let leftovers = host.contract::<dyn Leftovers>(name).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut call = pin!(leftovers.block_on_socket(&address));
    // A process is called while the future is polled.
    until("the thread blocks", || {
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        listener.accept().ok()
    })
    .0
}

fn build(host: &Host, name: &str) -> u64 {
    host.contract::<dyn Leftovers>(name).unwrap().build().unwrap()
}

/// Waits until a generation is reported as closed or kept; returns the reason.
fn end_of_first(events: &mut Events) -> Option<String> {
    let is_end =
        |event: &HostEvent| matches!(event, HostEvent::Kept { .. } | HostEvent::Closed { .. });
    match event(events, is_end) {
        HostEvent::Kept { generation, reason, .. } => {
            assert_eq!(generation.get(), 1);
            Some(reason)
        }
        HostEvent::Closed { generation, .. } => {
            assert_eq!(generation.get(), 1);
            None
        }
        other => panic!("{other:?}"),
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn blocked_thread_keeps_library_until_it_returns() {
    let (plugins, name) = (Plugins::new(), unique("block"));
    let host = host(&plugins);
    loaded(&host, plugins.add(&name, "unclean").write());
    let mut events = host.events();
    let blocked = block_thread(&host, &name);
    let report = block_on(host.unload(&name)).unwrap();
    assert!(report.shutdown_error.is_none(), "{report:?}");
    assert_eq!(report.retain_reason.as_deref(), Some("threads: 1 still running"));
    assert_eq!(end_of_first(&mut events), report.retain_reason);
    assert_eq!(host.retained().len(), 1);
    assert_eq!(images(&name).len(), 1);
    drop(blocked);
    assert_eq!(end_of_first(&mut events), None);
    until("it is not listed", || host.retained().is_empty().then_some(()));
    assert!(images(&name).is_empty());
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn reload_with_blocked_thread_serves_the_new_build() {
    let (plugins, name) = (Plugins::new(), unique("block"));
    let host = host(&plugins);
    loaded(&host, plugins.add(&name, "unclean").write());
    let mut events = host.events();
    let blocked = block_thread(&host, &name);
    assert_eq!(build(&host, &name), 1);
    plugins.add(&name, "unclean").config(json!({ "build": 2 })).write();
    reloaded(&host, &name);
    // While the old runtime waits for its thread, and afterward.
    check(&host, &name, 2);
    assert_eq!(end_of_first(&mut events).as_deref(), Some("threads: 1 still running"));
    check(&host, &name, 2);
    assert_eq!(images(&name).len(), 2);
    drop(blocked);
    assert_eq!(end_of_first(&mut events), None);
    until("it is not listed", || host.retained().is_empty().then_some(()));
    assert_eq!(images(&name).len(), 1);
    check(&host, &name, 2);
    let report = block_on(host.unload(&name)).unwrap();
    assert_eq!(report.retain_reason, None, "{report:?}");
}

#[test]
fn blocked_thread_delays_unload_at_most_the_stop_timeout() {
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.stop_timeout = Duration::from_millis(50));
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    loaded(&host, plugins.add("block", "unclean").write());
    let _blocked = block_thread(&host, "block");
    let report = block_on(host.unload("block")).unwrap();
    let error = report.shutdown_error.as_ref().expect("it is still running");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(report.retain_reason.as_deref(), Some("shutdown: still running"));
    assert_eq!(host.retained().len(), 1);
}

#[test]
fn blocked_thread_of_a_program_ends_with_it() {
    let (plugins, name) = (Plugins::new(), unique("block"));
    let host = host(&plugins);
    loaded(&host, program(&plugins, &name).install());
    let _blocked = block_thread(&host, &name);
    let report = block_on(host.unload(&name)).unwrap();
    assert!(report.shutdown_error.is_none(), "{report:?}");
    assert_eq!(report.retain_reason, None, "{report:?}");
    assert!(processes_of(&name).is_empty());
}

pub(super) fn program(plugins: &Plugins, name: &str) -> ProgramFolder {
    ProgramFolder::new(plugins.dir(), name).set("package", "unclean").built("unclean", "unclean")
}

/// Calls methods of all kinds.
fn check(host: &Host, name: &str, expected_build: u64) {
    assert_eq!(build(host, name), expected_build);
    let echoes: Handle<dyn Echoes> = host.contract(name).unwrap();
    assert_eq!(echoes.echo("a").unwrap(), "a");
    assert_eq!(block_on(echoes.echo_later(0, "b")).unwrap(), "b");
    assert_eq!(block_on(echoes.pooled().echo_later(1, "c")).unwrap(), "c");
    for stream in [echoes.each("d", 2), echoes.each_later("d", 2)] {
        let (items, error) = read(stream.unwrap());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(items, ["d 0", "d 1"]);
    }
}

#[test]
fn crate_is_library_and_program_with_async_methods() {
    let (plugins, name) = (Plugins::new(), unique("kinds"));
    let host = host(&plugins);
    for folder in [plugins.add(&name, "unclean").write(), program(&plugins, "program").install()] {
        loaded(&host, folder);
    }
    check(&host, &name, 1);
    check(&host, "program", 1);
    for name in [name.as_str(), "program"] {
        let report = block_on(host.unload(name)).unwrap();
        assert!(report.shutdown_error.is_none(), "{report:?}");
        assert_eq!(report.retain_reason, None, "{report:?}");
    }
    assert_eq!(host.retained().len(), 0);
    assert!(images(&name).is_empty());
}

#[test]
fn library_stopped_first_runs_tasks_again_after_rollback() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let plugin = || plugins.add("again", "unclean").set("handover", "stop-first");
    loaded(&host, plugin().write());
    check(&host, "again", 1);
    plugin().config(json!({ "build": "two" })).write();
    hotbay_tests::rolled_back(&host, "again");
    check(&host, "again", 1);
    let report = block_on(host.unload("again")).unwrap();
    assert_eq!(report.retain_reason, None, "{report:?}");
}
