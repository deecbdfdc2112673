//! Confined programs: what they are denied, what they can do, and what the host reports.

mod cgroups;
mod denials;
mod denied;
mod limits;
mod links;
mod location;
mod namespaces;
mod permitted;
mod reports;

use hotbay::confinement::Kernel;
use hotbay::{HostBuilder, Request};
use hotbay_tests::ProgramFolder;
use serde_json::{Value, json};

use crate::process::fixture::{ProcessFixture, Running};

/// Starts the fixture `confined` with a sandbox, or without one if it is `null`.
#[track_caller]
fn start(sandbox: Value) -> Running {
    start_with(sandbox, |fixture| fixture, |host| host)
}

#[track_caller]
fn start_with(
    sandbox: Value,
    change: impl FnOnce(ProgramFolder) -> ProgramFolder,
    host: impl FnOnce(HostBuilder) -> HostBuilder,
) -> Running {
    let program = |program: ProgramFolder| {
        let program = program.built("confined", "confined").set("package", "confined");
        let program = if sandbox.is_null() { program } else { program.set("sandbox", sandbox) };
        change(program)
    };
    ProcessFixture::new().run_with(json!({}), program, |builder| host(builder.quarantine(None)))
}

/// Returns the fixture `confined`, to be installed, with a sandbox, or without one if it is `null`.
fn program(fixture: &ProcessFixture, sandbox: Value) -> ProgramFolder {
    let program = fixture.program(json!({})).built("confined", "confined");
    let program = program.set("package", "confined");
    if sandbox.is_null() { program } else { program.set("sandbox", sandbox) }
}

/// Lets the program try something; returns `permitted`, or `denied` with an error number.
#[track_caller]
fn attempt(running: &Running, action: Value) -> String {
    match running.handle.call(Request::json_text(&action.to_string())) {
        Ok(reply) => reply.as_text().expect("text").to_owned(),
        Err(error) => panic!("{action}: {}", error.full_message()),
    }
}

#[track_caller]
fn assert_denied(running: &Running, action: Value) {
    let outcome = attempt(running, action.clone());
    assert!(outcome.starts_with("denied "), "{action}: {outcome}");
}

#[track_caller]
fn assert_permitted(running: &Running, action: Value) {
    assert_eq!(attempt(running, action.clone()), "permitted", "{action}");
}

/// Returns whether the kernel has this version of Landlock, and filters of system calls. If not,
/// prints that a test is skipped.
fn can_confine(landlock: u32) -> bool {
    let kernel = Kernel::current();
    let can = kernel.landlock >= landlock && kernel.seccomp;
    if !can {
        eprintln!("skipped: this machine has Landlock {}, not {landlock}", kernel.landlock);
    }
    can
}
