//! Contracts without a host: what the macros generate, and calls through a transport in this
//! process.

#![forbid(unsafe_code)]

mod macros;
mod text;
mod values;
