//! What plugins log, as `tracing` events of the host. Knows no plugins.

mod callsites;
mod rate_limiter;
mod record;

pub(crate) use callsites::HOST_TARGET;
pub(crate) use rate_limiter::{LineDecision, RateLimiter};
pub(crate) use record::Line;
