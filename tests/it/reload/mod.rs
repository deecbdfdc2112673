//! Reloads: which build answers, the handover of state, failed builds, and interrupted reloads.

#[cfg(unix)]
mod both_kinds_handover;
#[cfg(unix)]
mod both_kinds_rollback;
mod handover;
mod interrupted;
mod paused_calls;
mod reloads;
mod rollback;
