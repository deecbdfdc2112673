//! Hosts with test settings, and loads and reloads with an expected result.

use std::error::Error as _;
use std::path::Path;

use hotbay::{Error, GenerationId, Host, HostLimits, PluginHandle, Quarantine, Reloaded};

use crate::{Plugins, block_on};

/// Builds a host with default settings that searches these folders.
///
/// # Panics
///
/// Panics if the host does not build.
pub fn host(plugins: &Plugins) -> Host {
    let builder = Host::builder().plugin_dir(plugins.dir());
    builder.build().expect("a host without compiled-in plugins builds")
}

/// Returns the default host limits with one change.
pub fn limits(change: impl FnOnce(&mut HostLimits)) -> HostLimits {
    let mut limits = HostLimits::default();
    change(&mut limits);
    limits
}

/// Returns the default quarantine policy with one change.
pub fn quarantine(change: impl FnOnce(&mut Quarantine)) -> Quarantine {
    let mut quarantine = Quarantine::default();
    change(&mut quarantine);
    quarantine
}

/// Loads a plugin.
///
/// # Panics
///
/// Panics if the load fails.
#[track_caller]
pub fn loaded(host: &Host, folder: impl AsRef<Path>) -> PluginHandle {
    match block_on(host.load(folder)) {
        Ok(handle) => handle,
        Err(error) => panic!("load failed: {}", error.full_message()),
    }
}

/// Loads a plugin that must be refused, and returns the error.
///
/// # Panics
///
/// Panics if the load succeeds.
#[track_caller]
pub fn refused(host: &Host, folder: impl AsRef<Path>) -> Error {
    match block_on(host.load(folder)) {
        Ok(handle) => panic!("`{}` was loaded", handle.name()),
        Err(error) => error,
    }
}

/// Reloads a plugin that must be replaced, and returns the new generation.
///
/// # Panics
///
/// Panics if it is not replaced.
#[track_caller]
pub fn reloaded(host: &Host, name: &str) -> GenerationId {
    match block_on(host.reload(name)) {
        Ok(Reloaded::Promoted(generation)) => generation,
        Ok(other) => panic!("`{name}` was not replaced: {other:?}"),
        Err(error) => panic!("reload of `{name}` failed: {}", error.full_message()),
    }
}

/// Reloads a plugin whose reload must fail, and returns the error.
///
/// # Panics
///
/// Panics if the reload succeeds.
#[track_caller]
pub fn rolled_back(host: &Host, name: &str) -> Error {
    match block_on(host.reload(name)) {
        Ok(reloaded) => panic!("`{name}` was reloaded: {reloaded:?}"),
        Err(error) => error,
    }
}

/// Returns the number of lines of an error with its causes, each starting on a new line.
pub fn lines_of(error: &Error) -> usize {
    let mut lines = error.to_string().lines().count();
    let mut source = error.source();
    while let Some(cause) = source {
        lines += cause.to_string().lines().count();
        source = cause.source();
    }
    lines
}
