//! What the running kernel can enforce.

use std::sync::OnceLock;

use crate::{NoNamespaces, Policy, namespaces};

/// What a kernel can enforce. A separate value, so that reports can be tested for any kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kernel {
    /// The version of the Landlock ABI; 0 if Landlock is missing or not enabled.
    pub landlock: u32,
    /// Whether filters of system calls can be installed.
    pub seccomp: bool,
    /// Whether processes can enter new namespaces.
    pub namespaces: Result<(), NoNamespaces>,
}

impl Kernel {
    /// Returns a kernel with these abilities, and without namespaces.
    pub const fn new(landlock: u32, seccomp: bool) -> Self {
        Self { landlock, seccomp, namespaces: Err(NoNamespaces::Unsupported) }
    }

    /// Returns the same kernel, with or without namespaces.
    #[must_use]
    pub const fn with_namespaces(self, namespaces: Result<(), NoNamespaces>) -> Self {
        Self { namespaces, ..self }
    }

    /// Returns what the running kernel can enforce for this process. It is queried once, and again
    /// after a failure that may not last. A child process tries whether it can enter namespaces, and
    /// exits.
    pub fn current() -> Self {
        static NAMESPACES: OnceLock<Result<(), NoNamespaces>> = OnceLock::new();
        let namespaces = NAMESPACES.get().copied().unwrap_or_else(|| {
            let probed = namespaces::probe();
            if probed.is_err_and(NoNamespaces::is_transient) {
                probed
            } else {
                *NAMESPACES.get_or_init(|| probed)
            }
        });
        Self::without_child().with_namespaces(namespaces)
    }

    /// Returns what the running kernel can enforce of `policy`. Starts no child process unless the
    /// policy has namespaces, since some systems report attempts to create them.
    pub fn of_policy(policy: &Policy) -> Self {
        if policy.namespaces { Self::current() } else { Self::without_child() }
    }

    fn without_child() -> Self {
        static CURRENT: OnceLock<Kernel> = OnceLock::new();
        *CURRENT.get_or_init(query)
    }

    /// Returns the first version of Linux with this version of the Landlock ABI.
    pub const fn linux_of_landlock(abi: u32) -> &'static str {
        match abi {
            0 | 1 => "5.13",
            2 => "5.19",
            3 => "6.2",
            4 => "6.7",
            5 => "6.10",
            6 => "6.12",
            7 => "6.15",
            8 => "7.0",
            9 => "7.1",
            _ => "7.2",
        }
    }
}

#[cfg(target_os = "linux")]
fn query() -> Kernel {
    let seccomp = crate::filter::is_known_architecture() && crate::enter::has_seccomp();
    Kernel::new(crate::enter::landlock_abi(), seccomp)
}

#[cfg(not(target_os = "linux"))]
fn query() -> Kernel {
    Kernel::new(0, false)
}
