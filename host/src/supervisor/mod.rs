//! The annexe: plugins in processes of their own, started, watched, called over HTTP on a local
//! socket, started again when they end, and always reaped. Decides nothing about loads.

mod child;
mod diagnose;
mod dialect;
mod environment;
mod guardian;
mod lines;
mod location;
#[allow(unsafe_code, reason = "what a child does between fork and exec")]
mod prepare;
mod restart;
