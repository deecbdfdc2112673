//! Hosts as tests want them, and loads whose outcome is known. Decides nothing about plugins.

use std::error::Error as _;
use std::path::Path;

use hotbay::{Error, GenerationId, Host, HostLimits, PluginHandle, Quarantine, Reloaded};

use crate::{Plugins, block_on};

/// A host that looks for plugins in these folders, with its defaults.
///
/// # Panics
///
/// When the host does not start.
pub fn host(plugins: &Plugins) -> Host {
    let builder = Host::builder().plugin_dir(plugins.dir());
    builder.build().expect("a host with nothing compiled in")
}

/// The limits of a host, but for what is changed.
pub fn limits(change: impl FnOnce(&mut HostLimits)) -> HostLimits {
    let mut limits = HostLimits::default();
    change(&mut limits);
    limits
}

/// When plugins are quarantined, but for what is changed.
pub fn quarantine(change: impl FnOnce(&mut Quarantine)) -> Quarantine {
    let mut quarantine = Quarantine::default();
    change(&mut quarantine);
    quarantine
}

/// Loads what is to load.
///
/// # Panics
///
/// When it is refused.
#[track_caller]
pub fn loaded(host: &Host, folder: impl AsRef<Path>) -> PluginHandle {
    match block_on(host.load(folder)) {
        Ok(handle) => handle,
        Err(error) => panic!("it was refused: {}", error.full_message()),
    }
}

/// Loads what is to be refused.
///
/// # Panics
///
/// When it is loaded.
#[track_caller]
pub fn refused(host: &Host, folder: impl AsRef<Path>) -> Error {
    match block_on(host.load(folder)) {
        Ok(handle) => panic!("`{}` was loaded", handle.name()),
        Err(error) => error,
    }
}

/// Reloads what is to be replaced; answers with the generation that serves now.
///
/// # Panics
///
/// When it is not replaced.
#[track_caller]
pub fn reloaded(host: &Host, name: &str) -> GenerationId {
    match block_on(host.reload(name)) {
        Ok(Reloaded::Promoted(generation)) => generation,
        Ok(other) => panic!("`{name}` was not replaced: {other:?}"),
        Err(error) => panic!("`{name}` was not reloaded: {}", error.full_message()),
    }
}

/// Reloads what is to stay as it is.
///
/// # Panics
///
/// When it is replaced.
#[track_caller]
pub fn rolled_back(host: &Host, name: &str) -> Error {
    match block_on(host.reload(name)) {
        Ok(reloaded) => panic!("`{name}` was reloaded: {reloaded:?}"),
        Err(error) => error,
    }
}

/// How many lines an error takes with all its causes, each from a new line on.
pub fn lines_of(error: &Error) -> usize {
    let mut lines = error.to_string().lines().count();
    let mut source = error.source();
    while let Some(cause) = source {
        lines += cause.to_string().lines().count();
        source = cause.source();
    }
    lines
}
