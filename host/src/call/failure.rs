//! How a plugin failed to answer, whatever kind of plugin it is.

use hotbay_plugin::{Fault, PluginError};

use crate::error::Error;

/// How a plugin failed to answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It answered with an error of its own.
    Error(PluginError),
    /// It panicked.
    Panic(Fault),
    /// It returned a code that this version does not know.
    Code(i32),
    /// It could not be asked, or its answer not be had.
    Other(Error),
}
