//! Typed contracts.

mod calls;
mod tasks;
mod versions;
