//! Plugins with a custom allocator whose state is bound to the thread that opened the library:
//! called from three threads, reloaded and unloaded. Each runs in a subprocess, so that a crash is
//! detected.

use std::env;
use std::thread;

use hotbay::{Host, HostEvent, PluginHandle, Reply, Request};
use hotbay_tests::{
    Plugins, block_on, event, host, images, library, loaded, reloaded, run_in_subprocess, unique,
};
use serde_json::json;

/// Set in the subprocess: the package to load.
const PACKAGE: &str = "HOTBAY_TESTS_ALLOCATOR";
const RELOADS: u64 = 20;

fn run_in_own_process(package: &str) {
    // Built before the subprocess starts, which then does not need to build it.
    library(package);
    let test = concat!(module_path!(), "::allocator_child_process");
    run_in_subprocess(test, &[(PACKAGE, package)]);
}

#[test]
fn mimalloc_plugin_called_from_three_threads_is_unmapped() {
    run_in_own_process("with-mimalloc");
}

#[cfg(unix)]
#[test]
fn jemalloc_plugin_called_from_three_threads_is_unmapped() {
    run_in_own_process("with-jemalloc");
}

#[test]
fn allocator_child_process() {
    let Ok(package) = env::var(PACKAGE) else { return };
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("alloc");
    let install = |at: u64| plugins.add(&name, &package).config(json!({ "at": at })).write();
    let plugin = loaded(&host, install(0));
    for at in 1..=RELOADS {
        call_from_three_threads(&plugin);
        install(at);
        reloaded(&host, &name);
        is_closed(&mut events);
    }
    call_from_three_threads(&plugin);
    block_on(host.unload(&name)).unwrap();
    is_closed(&mut events);
    assert_eq!(images(&name), Vec::<String>::new());
    assert!(Host::retained(&host).is_empty());
}

fn is_closed(events: &mut hotbay::Events) {
    let is_end =
        |event: &HostEvent| matches!(event, HostEvent::Kept { .. } | HostEvent::Closed { .. });
    let end = event(events, is_end);
    assert!(matches!(end, HostEvent::Closed { .. }), "{end:?}");
}

/// Calls in parallel and in sequence; replies are freed on another thread than they were created
/// on.
fn call_from_three_threads(plugin: &PluginHandle) {
    let call = || -> Vec<Reply> {
        let calls = (0..200).map(|at| plugin.call(Request::text(&"x".repeat(at))).unwrap());
        calls.collect()
    };
    let replies = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(call)).collect();
        let replies = threads.into_iter().map(|thread| thread.join().unwrap());
        replies.collect::<Vec<_>>()
    });
    for replies in replies {
        let freed = thread::scope(|scope| {
            scope
                .spawn(move || replies.iter().map(|reply| reply.as_bytes().len()).sum::<usize>())
                .join()
        });
        assert_eq!(freed.unwrap(), (0..200).map(|at| at * 3).sum::<usize>());
        // Pooled calls run on worker threads; their replies are freed on a caller thread that
        // exits.
        let pooled = || block_on(plugin.execute(Request::text("abc"))).unwrap();
        let pooled = thread::scope(|scope| scope.spawn(|| pooled().as_bytes().to_vec()).join());
        assert_eq!(pooled.unwrap(), b"abcabcabc");
    }
}
