//! Typed contracts.

#[cfg(unix)]
mod bad_tasks;
mod calls;
mod mistakes;
#[cfg(unix)]
mod processes;
#[cfg(unix)]
mod program_services;
#[cfg(unix)]
mod program_streams;
mod services;
mod streams;
mod tasks;
mod versions;
