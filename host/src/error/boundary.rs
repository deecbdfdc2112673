//! What goes wrong while a library is opened, checked or closed.

use std::error::Error as StdError;
use std::fmt;

use hotbay_plugin::text::{Lines, MESSAGE_BYTES_MAX, escaped, start_of};

/// What glibc says where files must not be executed.
const NOT_EXECUTABLE: &str = "failed to map segment";

/// Why a library could not be used.
#[derive(Debug)]
pub(crate) enum BoundaryError {
    /// The system's loader refused it.
    Open(String),
    /// Another file was mapped than the one that was verified.
    Mixed { mapped: String, verified: String },
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
    /// Adds where a library that the loader did not find was looked for.
    pub(crate) fn with_unresolved(self, unresolved: &[(String, String)]) -> Self {
        match self {
            Self::Open(message) => {
                let is_named = |(name, _): &&(String, String)| message.contains(name.as_str());
                let Some((_, sentence)) = unresolved.iter().find(is_named) else {
                    return Self::Open(message);
                };
                let sentence = escaped(start_of(sentence, MESSAGE_BYTES_MAX), Lines::One);
                Self::Open(format!("{message}; {sentence}"))
            }
            other => other,
        }
    }

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
            Self::Mixed { mapped, verified } => write!(
                f,
                "the system's loader mapped {mapped} for it, and not `{verified}`, which was verified"
            ),
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
