//! The ways in which a call can fail in a plugin, for all kinds of plugins.

use hotbay_plugin::{Fault, PluginError};

use crate::error::Error;

/// The reason a call failed in the plugin.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It returned an error.
    Error(PluginError),
    /// It panicked.
    Panic(Fault),
    /// It returned a code that this version does not know.
    Code(i32),
    /// The call could not be made, or its result could not be received.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    Other(Error),
}
