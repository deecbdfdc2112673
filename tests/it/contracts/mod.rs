//! Typed contracts.

mod calls;
mod mistakes;
#[cfg(unix)]
mod processes;
#[cfg(unix)]
mod program_streams;
mod streams;
mod tasks;
mod versions;
