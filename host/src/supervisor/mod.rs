//! The annexe: plugins in processes of their own, started, watched, called over HTTP on a local
//! socket, started again when they end, and always reaped. Decides nothing about loads.

mod child;
mod diagnose;
mod dialect;
mod environment;
mod folder;
mod guardian;
mod lines;
mod location;
mod marks;
#[allow(unsafe_code, reason = "what a child does between fork and exec")]
mod prepare;
mod random;
mod reaped;
mod restart;
mod run_to_end;

#[cfg(test)]
mod child_tests;
#[cfg(all(test, target_os = "linux"))]
mod guardian_tests;
#[cfg(test)]
mod run_to_end_tests;
