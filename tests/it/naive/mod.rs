//! A plugin host as usually written, compared with hotbay: the same plugins crash it, or mix up
//! their builds, while hotbay survives them.

mod crashes;
mod versions;

use std::path::Path;
use std::process::Command;

use hotbay::{Error, ErrorKind, Fault, Host, HostEvent, PluginHandle, Request};
use hotbay_tests::{ChildOutput, binary, block_on, event, mappings, run_to_end};

const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;

pub(crate) fn host_that_never_quarantines() -> Host {
    let host = Host::builder().quarantine(None).build();
    host.expect("a host without compiled-in plugins builds")
}

pub(crate) fn load(host: &Host, folder: &Path) -> PluginHandle {
    block_on(host.load(folder)).unwrap_or_else(|error| panic!("{}", error.full_message()))
}

pub(crate) fn answer(plugin: &PluginHandle) -> String {
    let reply = block_on(plugin.execute(Request::text("")));
    let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
    reply.as_text().expect("an answer of text").to_owned()
}

/// Unloads the plugin, and returns its leaked bytes if they are counted.
pub(crate) fn unload(host: &Host, name: &str) -> Option<i64> {
    let mut events = host.events();
    block_on(host.unload(name)).expect("the plugin is loaded");
    let end =
        |event: &HostEvent| matches!(event, HostEvent::Closed { .. } | HostEvent::Kept { .. });
    let leaked_bytes = match event(&mut events, end) {
        HostEvent::Closed { leaked_bytes, .. } => leaked_bytes,
        kept => panic!("{kept:?}"),
    };
    assert_eq!(mappings(name), 0, "`{name}` is still mapped");
    leaked_bytes
}

#[track_caller]
pub(crate) fn panicked(error: &Error, kind: ErrorKind) -> &Fault {
    assert_eq!(error.kind(), kind, "{}", error.full_message());
    error.fault().expect("the error has a fault")
}

/// Runs the naive host.
#[allow(clippy::disallowed_methods, reason = "the naive host may crash")]
fn naive(arguments: &[&Path]) -> ChildOutput {
    let program = binary("hotbay-naive", "naive");
    run_to_end(Command::new(program).args(arguments).env("RUST_BACKTRACE", "1"))
}

#[track_caller]
fn check_died(naive: &ChildOutput, signal: i32, reported: &str) {
    assert_eq!(naive.signal(), Some(signal), "{naive:?}");
    assert!(naive.stderr.contains(reported), "{}", naive.stderr);
}

#[track_caller]
fn check_printed(naive: &ChildOutput, expected: &str) {
    assert_eq!(naive.code(), Some(0), "{naive:?}");
    assert_eq!(naive.stdout, expected);
}
