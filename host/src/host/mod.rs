//! The host: owns and connects the parts.

mod builder;
mod builder_trust;
#[cfg(feature = "config-file")]
mod config_changes;
#[cfg(feature = "config-file")]
mod config_file;
mod discovery;
mod factories;
#[expect(clippy::module_inception, reason = "the file of the type `Host`")]
mod host;
mod inner;
mod load_all;
mod parallel;
mod providers;
mod registry;
mod reload;
mod reload_request;
mod service;
mod services;
mod watching;

pub use builder::HostBuilder;
#[cfg(feature = "config-file")]
pub use config_changes::ConfigChanges;
#[cfg(feature = "config-file")]
pub use config_file::{ConfigFile, ConfigValue};
pub use discovery::{Discovered, Discovery};
pub use factories::Serves;
pub use host::Host;
pub use inner::{RetainedLibrary, UnloadReport};
pub(crate) use load_all::survey;
pub use load_all::{LoadReport, LoadedPlugin, RefusedPlugin};
pub use reload_request::Reloaded;
