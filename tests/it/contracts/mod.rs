//! Typed contracts.

mod calls;
mod mistakes;
#[cfg(unix)]
mod processes;
mod streams;
mod tasks;
mod versions;
