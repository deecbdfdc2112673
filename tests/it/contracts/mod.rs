//! Typed contracts.

#[cfg(unix)]
mod bad_tasks;
mod calls;
mod mistakes;
#[cfg(unix)]
mod processes;
#[cfg(unix)]
mod program_services;
mod services;
mod tasks;
mod versions;
