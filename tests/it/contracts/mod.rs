//! Typed contracts.

#[cfg(unix)]
mod bad_tasks;
mod calls;
mod mistakes;
#[cfg(unix)]
mod processes;
mod services;
mod tasks;
mod versions;
