//! Typed contracts.

#[cfg(unix)]
mod async_plugins;
#[cfg(unix)]
mod bad_tasks;
mod calls;
#[cfg(unix)]
mod data_processor;
#[cfg(unix)]
mod interrupted;
#[cfg(unix)]
mod isolated;
#[cfg(unix)]
mod mapped;
mod mistakes;
#[cfg(unix)]
mod panicking_drops;
#[cfg(unix)]
mod processes;
#[cfg(unix)]
mod program_services;
#[cfg(unix)]
mod program_streams;
#[cfg(unix)]
mod providers;
#[cfg(unix)]
mod runtimes;
#[cfg(unix)]
mod sdk;
#[cfg(unix)]
mod sdk_services;
mod services;
mod streams;
mod tasks;
mod versions;
