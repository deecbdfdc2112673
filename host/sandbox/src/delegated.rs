//! A folder of control groups that the system's administrator delegated to the host.

use std::fs;
use std::path::{Path, PathBuf};

use hotbay_manifest::SandboxRule;

/// A delegated folder of control groups (version 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegated {
    /// The folder.
    pub folder: PathBuf,
    /// What the groups below it can limit.
    pub controllers: Controllers,
}

impl Delegated {
    /// Enables the controllers of `folder` for groups below it, unless they are.
    pub fn enable(folder: PathBuf) -> Self {
        let enable = |name: &str| {
            fs::write(folder.join("cgroup.subtree_control"), format!("+{name}")).is_ok()
        };
        let controllers = Controllers::of(&folder, enable);
        Self { folder, controllers }
    }

    /// Returns what [`enable`](Self::enable) would try to enable, without a change.
    pub fn inspect(folder: PathBuf) -> Self {
        let can_enable = is_writable(&folder);
        let controllers = Controllers::of(&folder, |_| can_enable);
        Self { folder, controllers }
    }
}

/// Returns whether this user may enable controllers for groups below a folder.
#[cfg(target_os = "linux")]
fn is_writable(folder: &Path) -> bool {
    let file = folder.join("cgroup.subtree_control");
    let path = if file.exists() { &file } else { folder };
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn is_writable(_: &Path) -> bool {
    false
}

/// The controllers that a delegated folder has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Controllers {
    /// Limits the share of processor time.
    pub cpu: bool,
    /// Limits memory.
    pub memory: bool,
    /// Limits the number of processes.
    pub pids: bool,
}

impl Controllers {
    fn of(folder: &Path, enable: impl Fn(&str) -> bool) -> Self {
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
        let has = |names: &str, name: &str| names.split_whitespace().any(|known| known == name);
        let is_usable = |name: &str| has(&enabled, name) || (has(&available, name) && enable(name));
        Self { cpu: is_usable("cpu"), memory: is_usable("memory"), pids: is_usable("pids") }
    }

    /// Returns whether one of them enforces the limit `rule`.
    pub(crate) fn enforces(self, rule: SandboxRule) -> bool {
        match rule {
            SandboxRule::Cpu => self.cpu,
            SandboxRule::MemoryBytes => self.memory,
            SandboxRule::Processes => self.pids,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn controllers_are_enabled_only_if_that_is_asked_and_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        fs::write(file("cgroup.controllers"), "cpuset cpu pids\n").expect("written");
        let expected = Controllers { cpu: true, memory: false, pids: true };
        assert_eq!(Delegated::inspect(folder.path().into()).controllers, expected);
        assert!(!file("cgroup.subtree_control").exists());
        assert_eq!(Delegated::enable(folder.path().into()).controllers, expected);
        // The last of them; the kernel would add it to the others.
        let enabled = || fs::read_to_string(file("cgroup.subtree_control")).expect("written");
        assert_eq!(enabled(), "+pids");
        fs::write(file("cgroup.subtree_control"), "cpu pids\n").expect("written");
        assert_eq!(Delegated::enable(folder.path().into()).controllers, expected);
        assert_eq!(enabled(), "cpu pids\n");
    }
}
