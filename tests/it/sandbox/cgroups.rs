//! Limits by control groups, on machines where the tests can create them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotbay::HostEvent;
use hotbay::confinement::{ConfinementPolicy, RuleStatus};
use hotbay::manifest::SandboxRule;
use hotbay_tests::{event, unique, until};
use serde_json::json;

use super::{attempt, start_with};

/// A folder of control groups for a test. Removed when it is dropped.
struct Delegated {
    folder: PathBuf,
    controllers: String,
}

impl Delegated {
    /// Creates a folder; returns `None` and prints that a test is skipped if this is not possible.
    fn create() -> Option<Self> {
        let root = cgroup_root();
        let folder = root.map(|root| root.join(unique("sandbox")));
        let created = folder.filter(|folder| fs::create_dir(folder).is_ok());
        let Some(folder) = created else {
            eprintln!("skipped: no folder of control groups (version 2) can be created");
            return None;
        };
        let root = folder.parent().expect("it is below the root");
        for controller in ["cpu", "memory", "pids"] {
            // Those that the system does not have there are missing below.
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let controllers = fs::read_to_string(folder.join("cgroup.controllers"));
        Some(Self { folder, controllers: controllers.expect("a file of the kernel") })
    }

    fn has(&self, controller: &str) -> bool {
        let has = self.controllers.split_whitespace().any(|known| known == controller);
        if !has {
            eprintln!("skipped: no controller `{controller}`");
        }
        has
    }

    /// Returns the groups of launches.
    fn groups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).expect("the folder").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    fn policy(&self) -> ConfinementPolicy {
        ConfinementPolicy::default().with_cgroup(Some(self.folder.clone()))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Returns where version 2 is mounted.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let is_v2 = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
    mounts.lines().find(is_v2)?.split(' ').nth(1).map(|path| Path::new(path).to_owned())
}

#[test]
fn number_of_processes_is_limited_by_the_kernel() {
    let Some(delegated) = Delegated::create().filter(|delegated| delegated.has("pids")) else {
        return;
    };
    let sandbox = json!({ "limits": { "processes": 12 }, "require": ["processes"] });
    let host = |builder: hotbay::HostBuilder| builder.confinement(delegated.policy());
    let running = start_with(sandbox, |program| program, host);
    let confinement = running.host.list().remove(0).confinement.expect("it is confined");
    assert_eq!(confinement.status(SandboxRule::Processes), Some(&RuleStatus::Enforced));
    let started = attempt(&running, json!({ "do": "processes", "count": 100 }));
    let started: u32 = started.parse().expect("a number");
    // Its own threads count, too.
    assert!((1..12).contains(&started), "{started}");
    running.end();
    until("the groups are removed", || delegated.groups().is_empty().then_some(()));
}

#[test]
fn share_of_processor_time_is_limited_by_the_kernel() {
    let Some(delegated) = Delegated::create().filter(|delegated| delegated.has("cpu")) else {
        return;
    };
    let sandbox = json!({ "limits": { "cpu": 0.25 }, "require": ["cpu"] });
    let host = |builder: hotbay::HostBuilder| builder.confinement(delegated.policy());
    let running = start_with(sandbox, |program| program, host);
    // That of `capabilities` is removed meanwhile.
    let group = until("one group is left", || match &delegated.groups()[..] {
        [group] => Some(group.clone()),
        _ => None,
    });
    let pid = running.host.list().remove(0).pid.expect("a process");
    let read = |file: &str| fs::read_to_string(group.join(file)).expect("a file of the kernel");
    assert_eq!(read("cpu.max").trim(), "25000 100000");
    assert!(read("cgroup.procs").lines().any(|line| line == pid.to_string()));
    running.end();
    until("the groups are removed", || delegated.groups().is_empty().then_some(()));
}

#[test]
fn processor_time_of_a_call_is_that_of_the_group() {
    let Some(delegated) = Delegated::create() else { return };
    let sandbox = json!({ "limits": { "call_cpu_seconds": 0.25 } });
    let host = |builder: hotbay::HostBuilder| builder.confinement(delegated.policy());
    let running = start_with(sandbox, |program| program, host);
    // That of `capabilities` is removed meanwhile.
    until("one group is left", || (delegated.groups().len() == 1).then_some(()));
    attempt(&running, json!({ "do": "burn", "millis": 100 }));
    let usage = running.host.list().remove(0).process_usage.expect("a process runs");
    assert!(usage.cpu_time >= Duration::from_millis(100), "{usage:?}");
    let mut events = running.host.events();
    assert!(running.call(&json!({ "do": "spin" })).is_err());
    let exited = event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    let HostEvent::ChildExited { reason, .. } = exited else { panic!("{exited:?}") };
    assert!(reason.contains("exceeded its limit `call_cpu_seconds`"), "{reason}");
    running.end();
    until("the groups are removed", || delegated.groups().is_empty().then_some(()));
}

#[test]
fn memory_of_all_processes_is_limited_by_the_kernel() {
    let Some(delegated) = Delegated::create().filter(|delegated| delegated.has("memory")) else {
        return;
    };
    let sandbox = json!({ "limits": { "memory_bytes": 96 << 20 }, "require": ["memory_bytes"] });
    let host = |builder: hotbay::HostBuilder| builder.confinement(delegated.policy());
    let running = start_with(sandbox, |program| program, host);
    assert_eq!(attempt(&running, json!({ "do": "memory", "mebibytes": 48 })), "permitted");
    let usage = running.host.list().remove(0).process_usage.expect("a process runs");
    assert!(usage.peak_memory_bytes >= 48 << 20, "{usage:?}");
    let mut events = running.host.events();
    let action = json!({ "do": "processes", "count": 6, "mebibytes": 32 });
    assert!(running.call(&action).is_err());
    let exited = event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    let HostEvent::ChildExited { reason, .. } = exited else { panic!("{exited:?}") };
    assert!(reason.contains("exceeded its limit `memory_bytes`"), "{reason}");
    running.end();
    until("the groups are removed", || delegated.groups().is_empty().then_some(()));
}
