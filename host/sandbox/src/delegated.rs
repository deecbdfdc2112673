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
    /// Enables the controllers of `folder` for groups below it.
    pub fn new(folder: PathBuf) -> Self {
        let controllers = Controllers::of(&folder);
        Self { folder, controllers }
    }
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
    fn of(folder: &Path) -> Self {
        let available = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        let enable = |name: &str| {
            available.split_whitespace().any(|known| known == name)
                && fs::write(folder.join("cgroup.subtree_control"), format!("+{name}")).is_ok()
        };
        Self { cpu: enable("cpu"), memory: enable("memory"), pids: enable("pids") }
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
