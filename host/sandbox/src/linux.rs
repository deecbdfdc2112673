//! A policy, prepared for one start.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use hotbay_manifest::SandboxRule;
use seccompiler::BpfProgram;

use crate::cgroup::Cgroup;
use crate::enter;
use crate::namespaces::{self, Namespaces};
use crate::ruleset::Rules;
use crate::{Controllers, Kernel, NoNamespaces, OmittedPath, Policy, filter, ruleset};

/// The error number of a child that could not enter its namespaces; `exec` never fails with it.
const NAMESPACES_FAILED: i32 = libc::EUSERS;

/// A policy as the kernel takes it, for one start of a process.
#[derive(Debug)]
pub struct Enforcement {
    cgroup: Option<Cgroup>,
    namespaces: Option<Namespaces>,
    /// Whether it listens on ports that need a capability.
    has_low_ports: bool,
    rules: Rules,
    filter: Option<BpfProgram>,
}

impl Enforcement {
    /// Prepares as much of a policy as `kernel` can enforce. `folder` is the private folder of the
    /// launch; the process can change it, and the paths that begin with `{tmp}` are in its folder
    /// `tmp`. Accesses the disk.
    ///
    /// # Errors
    ///
    /// Fails if the kernel rejects what it should know.
    pub fn new(policy: &Policy, kernel: Kernel, folder: Option<&Path>) -> io::Result<Self> {
        let rules = match kernel.landlock {
            0 => Rules::default(),
            _ => ruleset::create(policy, folder)?,
        };
        let filter = kernel.seccomp.then(|| filter::compile(policy)).transpose()?;
        let is_limited = |(rule, limit): (_, Option<u64>)| {
            let group = policy.cgroup.as_ref();
            // Each group counts processor time, whatever its controllers.
            let uses = |controllers: Controllers| {
                controllers.enforces(rule) || rule == SandboxRule::CallCpuSeconds
            };
            limit.is_some() && group.is_some_and(|group| uses(group.controllers))
        };
        let delegated = policy.cgroup.as_ref();
        let delegated = delegated.filter(|_| policy.limits.entries().into_iter().any(is_limited));
        let cgroup = delegated.map(|delegated| Cgroup::create(delegated, &policy.limits));
        let cgroup = cgroup.transpose().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot create its control group: {error}"))
        })?;
        let has_namespaces = policy.namespaces && kernel.namespaces.is_ok();
        let namespaces = has_namespaces.then(|| Namespaces::new(policy));
        let has_low_ports = policy.listen.iter().any(|rule| (1..1024).contains(&rule.port));
        Ok(Self { cgroup, namespaces, has_low_ports, rules, filter })
    }

    /// Returns the paths of the policy that exist, but grant nothing.
    pub fn omitted(&self) -> &[OmittedPath] {
        &self.rules.omitted
    }

    /// Returns whether the kernel killed a process because all together used too much memory.
    pub fn ran_out_of_memory(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory)
    }

    /// Returns why a child did not start, if `error` is that of namespaces which it could not enter,
    /// though the kernel had permitted them before. Another child tries it again. Blocks.
    pub fn explain_namespaces(error: &io::Error) -> Option<NoNamespaces> {
        if error.raw_os_error() != Some(NAMESPACES_FAILED) {
            return None;
        }
        Some(namespaces::probe().err().unwrap_or(NoNamespaces::LimitReached))
    }

    /// Returns the folder of its control group, if it has one.
    pub fn group(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(|group| group.folder.as_path())
    }

    /// Confines the calling thread, forever: for a child between fork and exec, which has one
    /// thread. Allocates nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// Fails if a system call fails; the thread must not continue then.
    pub fn enter(&self) -> io::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            enter::join_group(cgroup.members.as_raw_fd())?;
        }
        // First: the ruleset denies its files below `/proc`, and the filter denies its calls.
        if let Some(namespaces) = &self.namespaces {
            let failed = |_| io::Error::from_raw_os_error(NAMESPACES_FAILED);
            namespaces.enter().map_err(failed)?;
        }
        enter::set_no_new_privileges()?;
        enter::drop_capabilities(self.has_low_ports)?;
        if let Some(ruleset) = &self.rules.descriptor {
            enter::restrict_by_landlock(ruleset.as_raw_fd())?;
        }
        self.filter.as_deref().map_or(Ok(()), enter::install_filter)
    }
}
