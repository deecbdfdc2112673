//! Typed contracts.

mod calls;
#[cfg(unix)]
mod processes;
mod tasks;
mod versions;
