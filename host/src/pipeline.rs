//! Plugins in a row: each one's reply is the next one's request. Looks plugins up at each run,
//! and looks at cancellation before each step; never runs a step after one that failed.

use crate::id::PluginName;

/// Plugins in a row.
#[derive(Clone, Debug)]
pub struct Pipeline {
    _steps: Vec<PluginName>,
}
