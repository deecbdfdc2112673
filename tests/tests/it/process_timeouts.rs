//! Starts and calls of process plugins that once hung forever.

use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, Request};
use hotbay_tests::{Plugins, ProgramFolder, block_on, limits, loaded, refused, until};
use serde_json::{Value, json};

fn host_of(plugins: &Plugins, start_timeout: Duration, drain_timeout: Duration) -> Host {
    let limits = limits(|limits| {
        limits.start_timeout = start_timeout;
        limits.drain_timeout = drain_timeout;
    });
    Host::builder().plugin_dir(plugins.dir()).limits(limits).quarantine(None).build().unwrap()
}

fn load_error(start_timeout: Duration, location: Value) -> String {
    let plugins = Plugins::new();
    let host = host_of(&plugins, start_timeout, Duration::from_secs(30));
    let program = ProgramFolder::new(plugins.dir(), "program");
    let folder = program.behavior(json!({ "location": location })).install();
    let error = refused(&host, folder);
    assert_eq!(error.kind(), ErrorKind::StartFailed, "{}", error.full_message());
    error.full_message()
}

#[test]
fn start_without_socket_ends_at_start_timeout() {
    let message = load_error(Duration::from_millis(300), json!({ "unbound": true }));
    assert!(message.contains("was not ready within 300 ms: no connection to"), "{message}");
}

#[test]
fn program_exit_without_socket_is_detected() {
    let message =
        load_error(Duration::from_secs(600), json!({ "unbound": true, "then": { "exit": 3 } }));
    assert!(message.contains("exited with code 3"), "{message}");
}

#[test]
fn unanswered_sync_call_ends_with_plugin_unload() {
    let plugins = Plugins::new();
    let host = host_of(&plugins, Duration::from_secs(30), Duration::ZERO);
    let began = plugins.dir().join("began");
    let wait = json!({ "do": "wait", "began": began, "until": plugins.dir().join("never") });
    let wait = wait.to_string();
    let plugin = loaded(&host, ProgramFolder::new(plugins.dir(), "program").install());
    let answer = thread::scope(|scope| {
        let call = scope.spawn(|| plugin.call(Request::json_text(&wait)));
        until("the call runs", || began.exists().then_some(()));
        block_on(host.unload("program")).unwrap();
        call.join().unwrap()
    });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Retired);
}
