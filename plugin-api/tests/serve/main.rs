//! Tests a plugin as a program over its socket, as a host calls it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod calls;
mod concurrency;
mod frames;
mod host_services;
mod program;
mod protocol;
mod shutdown;
mod startup;
