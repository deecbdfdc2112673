//! Confines a child process between fork and exec, by Landlock, seccomp and namespaces, and reports
//! which rules the kernel enforces. Executes no program and reads no manifest.
//!
//! [`Policy`] lists what a process may do, [`Kernel`] what this machine can enforce, and
//! [`Confinement::new`] compares both. [`Enforcement`] prepares the policy in the parent; the child
//! enters it by system calls that neither allocate nor lock.
//!
//! [`remove_folder`] removes what a process left.
//!
//! On systems other than Linux, every rule is reported as unavailable.

#![deny(unsafe_code)]

#[cfg(target_os = "linux")]
mod cgroup;
mod delegated;
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "system calls that no library makes without an allocation")]
mod enter;
#[cfg(target_os = "linux")]
mod filter;
mod granted_path;
mod group_usage;
mod kernel;
#[cfg(target_os = "linux")]
mod linux;
mod lookup;
mod namespaces;
#[cfg(target_os = "linux")]
mod number_filter;
#[cfg(not(target_os = "linux"))]
mod other;
mod path_check;
mod policy;
mod preset;
mod removal;
mod report;
#[cfg(target_os = "linux")]
mod ruleset;

pub use delegated::{Controllers, Delegated};
pub use granted_path::{GrantedPath, SharedFolders};
pub use group_usage::GroupUsage;
pub use kernel::Kernel;
#[cfg(target_os = "linux")]
pub use linux::Enforcement;
pub use namespaces::NoNamespaces;
#[cfg(not(target_os = "linux"))]
pub use other::Enforcement;
pub use path_check::{OmittedPath, PathChecks, PathError, Protected};
pub use policy::{Policy, TMP};
#[cfg(unix)]
pub use removal::make_private;
pub use removal::remove_folder;
pub use report::{Confinement, RuleReport, RuleStatus};
