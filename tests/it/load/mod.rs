//! Loads: what is accepted and refused, the order of starts, names and folders, and plugins of the
//! program.

#[cfg(unix)]
mod both_kinds;
mod concurrent;
mod config_file;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod dependencies;
mod disk_permissions;
mod folder_names;
mod lifecycle;
mod manifests;
mod options;
mod order;
#[cfg(target_os = "linux")]
mod private_copies;
mod refusals;
mod runtime_plugins;
mod signatures;
