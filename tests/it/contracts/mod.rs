//! Typed contracts.

mod calls;
mod versions;
