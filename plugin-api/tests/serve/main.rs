//! A plugin as a program, driven over its socket as any host would.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod calls;
mod ends;
mod program;
mod protocol;
mod starts;
mod way_back;
