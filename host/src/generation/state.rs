//! The states of a generation. `Display` completes "generation 7 is …".

use std::fmt;

/// The state of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It serves calls.
    Serving,
    /// It accepts no new calls, and some still run.
    Draining,
    /// No call runs; it is shutting down.
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
