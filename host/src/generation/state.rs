//! The states of a generation, nothing else. Each completes "generation 7 is …".

use std::fmt;

/// What a generation is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It answers calls.
    Serving,
    /// It answers no new calls, and some still run.
    Draining,
    /// No call runs; it is being stopped.
    Retired,
    /// Its library is unmapped.
    Closed,
    /// Its library stays mapped, for this reason.
    Kept(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("serving"),
            Self::Draining => f.write_str("draining"),
            Self::Retired => f.write_str("retired"),
            Self::Closed => f.write_str("closed"),
            Self::Kept(reason) => write!(f, "kept ({reason})"),
        }
    }
}
