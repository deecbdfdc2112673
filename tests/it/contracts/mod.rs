//! Typed contracts.

mod calls;
mod mistakes;
#[cfg(unix)]
mod processes;
mod tasks;
mod versions;
