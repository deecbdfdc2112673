//! Typed contracts.

mod calls;
mod mistakes;
mod tasks;
mod versions;
