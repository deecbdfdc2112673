//! What the host reports about confinement, on this machine and on one that lacks it.

use hotbay::confinement::{ConfinementPolicy, Kernel, RuleStatus};
use hotbay::manifest::{Sandbox, SandboxLimits, SandboxRule};
use hotbay::{ErrorKind, Host, LoadStep};
use hotbay_tests::{block_on, refused};
use serde_json::{Value, json};

use super::denials::run_without;
use super::{can_confine, program, start};
use crate::process::fixture::ProcessFixture;

#[test]
fn enforced_rules_are_in_the_plugins_info() {
    if !can_confine(6) {
        return;
    }
    let running = start(json!({ "limits": { "open_files": 64 } }));
    let info = running.host.list().remove(0);
    let confinement = info.confinement.expect("it is confined");
    for rule in [SandboxRule::Read, SandboxRule::Write, SandboxRule::Run, SandboxRule::Net] {
        assert_eq!(confinement.status(rule), Some(&RuleStatus::Enforced), "{rule}");
    }
    assert_eq!(confinement.status(SandboxRule::OpenFiles), Some(&RuleStatus::Enforced));
    assert_eq!(confinement.status(SandboxRule::Cpu), None);
    running.end();
    let free = start(Value::Null);
    assert_eq!(free.host.list().remove(0).confinement, None);
    free.end();
}

#[test]
fn required_rule_that_is_unavailable_refuses_the_program() {
    let fixture = ProcessFixture::new();
    let sandbox = json!({ "limits": { "cpu": 0.5 }, "require": ["cpu"] });
    let folder = program(&fixture, sandbox).install();
    let host = Host::builder().build().expect("a host");
    let error = refused(&host, folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Unsupported, Some(LoadStep::Confine)));
    let message = error.full_message();
    assert!(message.contains("cpu is unavailable (needs a folder of control groups"), "{message}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`cgroup` in `[sandbox]`")), "{error:?}");
    assert!(fixture.started().is_empty());
}

#[test]
fn required_limit_that_is_not_set_refuses_the_program() {
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, json!({ "require": ["open_files"] })).install();
    let host = Host::builder().build().expect("a host");
    let error = refused(&host, folder.clone());
    assert_eq!(
        (error.kind(), error.step()),
        (ErrorKind::PermissionDenied, Some(LoadStep::Confine))
    );
    let message = error.full_message();
    assert!(message.contains("the limit `open_files` is required, but not set"), "{message}");
    assert!(fixture.started().is_empty());
    // The host's limit is one of the program.
    let limits = SandboxLimits::default().with_open_files(Some(64));
    let bounds = Sandbox::default().with_limits(limits);
    let policy = ConfinementPolicy::default().with_bounds(Some(bounds));
    let host = Host::builder().confinement(policy).build().expect("a host");
    block_on(host.load(folder)).expect("its limit is set");
}

#[test]
fn host_that_requires_confinement_refuses_programs_without_it() {
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, Value::Null).install();
    let policy = ConfinementPolicy::default().with_required(true);
    let host = Host::builder().confinement(policy).build().expect("a host");
    let error = refused(&host, folder);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.full_message().contains("has no sandbox"), "{}", error.full_message());
}

#[test]
fn library_with_a_sandbox_is_refused() {
    let plugins = hotbay_tests::Plugins::new();
    let folder = plugins.add("transform", "transform").set("sandbox", json!({})).write();
    let host = Host::builder().build().expect("a host");
    let error = refused(&host, folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Unsupported, Some(LoadStep::Confine)));
}

#[test]
fn missing_landlock_is_reported_and_the_program_runs() {
    let test = concat!(module_path!(), "::missing_landlock_is_reported_and_the_program_runs");
    if !run_without("landlock", test) {
        return;
    }
    assert_eq!(Kernel::current().landlock, 0);
    let running = start(json!({}));
    let confinement = running.host.list().remove(0).confinement.expect("it has a sandbox");
    let status = |rule| confinement.status(rule).map(RuleStatus::as_str);
    assert_eq!(status(SandboxRule::Read), Some("unavailable"));
    assert_eq!(status(SandboxRule::Net), Some("enforced"));
    assert_eq!(status(SandboxRule::Ipc), Some("partial"));
    assert_eq!(status(SandboxRule::Syscalls), Some("enforced"));
    super::assert_permitted(&running, json!({ "do": "read", "path": "/etc/passwd" }));
    super::assert_denied(&running, json!({ "do": "listen", "address": "127.0.0.1:0" }));
    running.end();
}

#[test]
fn missing_landlock_refuses_what_requires_it() {
    let test = concat!(module_path!(), "::missing_landlock_refuses_what_requires_it");
    if !run_without("landlock seccomp", test) {
        return;
    }
    let kernel = Kernel::current();
    assert_eq!((kernel.landlock, kernel.seccomp), (0, false));
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, json!({ "require": ["read"] })).install();
    let host = Host::builder().build().expect("a host");
    let message = refused(&host, folder).full_message();
    assert!(message.contains("read is unavailable (Landlock is not available"), "{message}");
    assert!(message.contains("needs Linux 5.13"), "{message}");
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, json!({})).install();
    let policy = ConfinementPolicy::default().with_required(true);
    let strict = Host::builder().confinement(policy).build().expect("a host");
    let message = refused(&strict, folder.clone()).full_message();
    assert!(message.contains("syscalls is unavailable"), "{message}");
    assert!(fixture.started().is_empty());
    let mut events = host.events();
    block_on(host.load(folder)).expect("it is enforced as far as possible");
    let event = hotbay_tests::event(&mut events, |event| event.name() == "confinement_incomplete");
    assert!(event.to_string().contains("read is unavailable"), "{event}");
}

#[test]
fn script_without_its_preset_is_explained() {
    if !can_confine(1) || !hotbay_tests::has_interpreter("python3") {
        return;
    }
    let fixture = ProcessFixture::new();
    let script = "#!/usr/bin/env python3\nprint(1)\n";
    let folder = program(&fixture, json!({})).bytes(script).file("plugin.py").install();
    let error = refused(&Host::builder().build().expect("a host"), folder);
    let message = error.full_message();
    assert!(message.contains("its sandbox may deny the interpreter of its `#!` line"), "{message}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`preset`")), "{error:?}");
}
