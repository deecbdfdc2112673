//! What goes wrong while a library is opened, checked or closed.

use std::error::Error as StdError;
use std::fmt;

/// What glibc says where files must not be executed.
const NOT_EXECUTABLE: &str = "failed to map segment";

/// Why a library could not be used.
#[derive(Debug)]
pub(crate) enum BoundaryError {
    /// The system's loader refused it.
    Open(String),
    /// It has no root module.
    NoRoot,
    /// Its root module was made by an abi_stable that ours does not understand.
    Header(String),
    /// Its root module does not look like ours; short, and the long report.
    Layout { summary: String, report: String },
    /// Its root module did not answer.
    Root(String),
}

impl BoundaryError {
    /// What abi_stable has to say at length.
    pub(crate) fn report(&self) -> Option<&str> {
        match self {
            Self::Layout { report, .. } => Some(report),
            _ => None,
        }
    }
}

impl fmt::Display for BoundaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(message) => {
                write!(f, "the system's loader refused it: {message}")?;
                if message.contains(NOT_EXECUTABLE) {
                    f.write_str(
                        "; is the folder for private copies mounted noexec? name another one by \
                         `staging_dir` or TMPDIR",
                    )?;
                }
                Ok(())
            }
            Self::NoRoot => f.write_str(
                "it has a stamp but no root module; wanted both from one `export_plugin!`",
            ),
            Self::Header(message) => {
                write!(f, "its root module is of another abi_stable: {message}; rebuild the plugin")
            }
            Self::Layout { summary, .. } => write!(
                f,
                "its root module is laid out differently under the same version: {summary}; \
                 rebuild it against the published hotbay-plugin, or see `hotbay inspect --verbose`"
            ),
            Self::Root(message) => write!(f, "its root module did not answer: {message}"),
        }
    }
}

impl StdError for BoundaryError {}
