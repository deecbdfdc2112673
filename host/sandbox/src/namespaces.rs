//! New namespaces of a process (see namespaces(7)), and why a machine may not permit them.
//!
//! A user namespace is always among them. An ordinary user needs it to create the others, and
//! a program of root has no privilege outside of it, nor inside.
//!
//! A PID namespace is not: it begins with the children of a process, so a process between the host
//! and the program would have to stay, and the host could neither reap nor signal the program.

use std::fmt;
use std::io;

/// Why a process cannot enter new namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoNamespaces {
    /// The system does not have them.
    Unsupported,
    /// `kernel.unprivileged_userns_clone` is 0.
    Disabled,
    /// `user.max_user_namespaces` is 0.
    NonePermitted,
    /// As many exist as the system permits.
    LimitReached,
    /// AppArmor denies them to this program.
    AppArmor,
    /// The system calls failed with this error number, or killed the process if it is 0.
    Failed(i32),
}

impl NoNamespaces {
    /// Returns whether a later attempt may succeed.
    pub(crate) fn is_transient(self) -> bool {
        match self {
            Self::LimitReached => true,
            Self::Failed(code) => [EAGAIN, ENOMEM].contains(&code),
            Self::Unsupported | Self::Disabled | Self::NonePermitted | Self::AppArmor => false,
        }
    }
}

impl fmt::Display for NoNamespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("this system does not have Linux namespaces"),
            Self::Disabled => f.write_str("`kernel.unprivileged_userns_clone` is 0"),
            Self::NonePermitted => f.write_str("`user.max_user_namespaces` is 0"),
            Self::LimitReached => {
                f.write_str("a limit is reached, such as `user.max_user_namespaces`")
            }
            Self::AppArmor => f.write_str(
                "AppArmor denies them, since `kernel.apparmor_restrict_unprivileged_userns` is 1",
            ),
            Self::Failed(0) => f.write_str("the system kills processes that create them"),
            Self::Failed(code) => {
                let error = io::Error::from_raw_os_error(*code);
                let usual = if *code == EPERM { ", as many containers do" } else { "" };
                write!(f, "the system denies them{usual}: {error}")
            }
        }
    }
}

// The numbers of these errors on Linux, which no other system reports.
const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Namespaces, probe};

#[cfg(not(target_os = "linux"))]
pub(crate) fn probe() -> Result<(), NoNamespaces> {
    Err(NoNamespaces::Unsupported)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use super::NoNamespaces;
    use crate::{Policy, enter};

    /// The namespaces of one start, with what the child writes to its files below `/proc`.
    #[derive(Debug)]
    pub(crate) struct Namespaces {
        flags: libc::c_int,
        uid_map: Vec<u8>,
        gid_map: Vec<u8>,
    }

    impl Namespaces {
        pub(crate) fn new(policy: &Policy) -> Self {
            let network = if policy.has_ports() { 0 } else { libc::CLONE_NEWNET };
            let (uid, gid) = enter::effective_ids();
            // Each id is itself inside, so files and sockets have the same owners.
            let map = |id: u32| format!("{id} {id} 1").into_bytes();
            Self {
                flags: libc::CLONE_NEWUSER | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network,
                uid_map: map(uid),
                gid_map: map(gid),
            }
        }

        /// Moves the calling process, which has one thread, into them, with the same ids and without
        /// privileges once it executes a program. Allocates nothing and takes no lock.
        pub(crate) fn enter(&self) -> io::Result<()> {
            enter::unshare(self.flags)?;
            // Otherwise, an ordinary user could leave a group by which files are denied to it.
            enter::write_file(c"/proc/self/setgroups", b"deny")?;
            enter::write_file(c"/proc/self/uid_map", &self.uid_map)?;
            enter::write_file(c"/proc/self/gid_map", &self.gid_map)?;
            enter::give_root_no_capabilities()
        }
    }

    /// Returns whether a process can enter all of these namespaces; starts one that tries.
    pub(crate) fn probe() -> Result<(), NoNamespaces> {
        let namespaces = Namespaces::new(&Policy::default());
        enter::try_in_child(|| namespaces.enter()).map_err(|code| {
            // Settings of `kernel` apply to ordinary users only.
            let is_root = enter::effective_ids().0 == 0;
            let applies = |name: &str| !is_root || name.starts_with("user/");
            cause(code, |name| {
                let name = Some(name).filter(|name| applies(name))?;
                std::fs::read_to_string(format!("/proc/sys/{name}")).ok()
            })
        })
    }

    /// Returns why it failed with this error number, given the values of settings of the kernel.
    fn cause(code: i32, setting: impl Fn(&str) -> Option<String>) -> NoNamespaces {
        let is = |name: &str, value: &str| setting(name).is_some_and(|text| text.trim() == value);
        match code {
            libc::EINVAL | libc::ENOSYS => NoNamespaces::Unsupported,
            libc::ENOSPC | libc::EUSERS if is("user/max_user_namespaces", "0") => {
                NoNamespaces::NonePermitted
            }
            libc::ENOSPC | libc::EUSERS => NoNamespaces::LimitReached,
            libc::EPERM | libc::EACCES
                if is("kernel/apparmor_restrict_unprivileged_userns", "1") =>
            {
                NoNamespaces::AppArmor
            }
            libc::EPERM if is("kernel/unprivileged_userns_clone", "0") => NoNamespaces::Disabled,
            code => NoNamespaces::Failed(code),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn setting_that_denies_namespaces_is_named() {
            let check = |code: i32, name: &str, value: &str, expect: &str| {
                let setting = |asked: &str| (asked == name).then(|| format!("{value}\n"));
                let text = cause(code, setting).to_string();
                assert!(text.contains(expect), "{text}");
            };
            let limit = "user/max_user_namespaces";
            check(libc::ENOSPC, limit, "0", "`user.max_user_namespaces` is 0");
            check(libc::ENOSPC, limit, "9", "a limit is reached");
            let clone = "kernel/unprivileged_userns_clone";
            check(libc::EPERM, clone, "0", "`kernel.unprivileged_userns_clone` is 0");
            check(libc::EPERM, clone, "1", "as many containers do: Operation not permitted");
            let app_armor = "kernel/apparmor_restrict_unprivileged_userns";
            check(libc::EACCES, app_armor, "1", "AppArmor denies them");
            check(libc::EINVAL, clone, "0", "does not have Linux namespaces");
            check(0, clone, "0", "kills processes that create them");
        }
    }
}
