//! A policy, prepared for one start.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use seccompiler::BpfProgram;

use crate::enter;
use crate::{Kernel, Policy, filter, ruleset};

/// A policy as the kernel takes it, for one start of a process.
#[derive(Debug)]
pub struct Enforcement {
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
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
        let ruleset = match kernel.landlock {
            0 => None,
            _ => ruleset::create(policy, folder)?,
        };
        let filters = if kernel.seccomp { filter::compile(policy)? } else { Vec::new() };
        Ok(Self { ruleset, filters })
    }

    /// Confines the calling thread, forever: for a child between fork and exec, which has one
    /// thread. Allocates nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// Fails if a system call fails; the thread must not continue then.
    pub fn enter(&self) -> io::Result<()> {
        enter::set_no_new_privileges()?;
        if let Some(ruleset) = &self.ruleset {
            enter::restrict_by_landlock(ruleset.as_raw_fd())?;
        }
        self.filters.iter().try_for_each(|filter| enter::install_filter(filter))
    }
}
