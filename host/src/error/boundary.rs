//! Errors while a library is opened, checked or closed.

use std::error::Error as StdError;
use std::fmt;

use hotbay_plugin::text::{Lines, MAX_MESSAGE_BYTES, escaped, start_of};

/// The message of glibc if the file system forbids execution.
const NOT_EXECUTABLE: &str = "failed to map segment";

/// The reason a library could not be used.
#[derive(Debug)]
pub(crate) enum BoundaryError {
    /// The dynamic loader rejected it.
    Open(String),
    /// The loader mapped another file than the verified one.
    Mixed { mapped: String, verified: String },
    /// It exports no root module.
    NoRoot,
    /// Its root module was built with an incompatible abi_stable.
    Header(String),
    /// Its root module has another layout: a summary, and the full report.
    Layout { summary: String, report: String },
    /// Its root module failed.
    Root(String),
}

impl BoundaryError {
    /// Adds the searched directories of a library that the loader did not find.
    pub(crate) fn with_unresolved(self, unresolved: &[(String, String)]) -> Self {
        match self {
            Self::Open(message) => {
                let is_named = |(name, _): &&(String, String)| message.contains(name.as_str());
                let Some((_, note)) = unresolved.iter().find(is_named) else {
                    return Self::Open(message);
                };
                let note = escaped(start_of(note, MAX_MESSAGE_BYTES), Lines::One);
                Self::Open(format!("{message}; {note}"))
            }
            other => other,
        }
    }

    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Open(message) if message.contains(NOT_EXECUTABLE) => {
                "if the folder for private copies is mounted noexec, set another one with \
                 `staging_dir` or `TMPDIR`"
            }
            Self::NoRoot => "export the plugin with `export_plugin!`",
            Self::Header(_) => "rebuild the plugin",
            Self::Layout { .. } => {
                "rebuild it with the published hotbay-plugin, or run `hotbay inspect --verbose`"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Returns the full report of abi_stable.
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
            Self::Open(message) => write!(f, "the dynamic loader rejected the library: {message}"),
            Self::Mixed { mapped, verified } => write!(
                f,
                "the dynamic loader mapped {mapped} instead of the verified file `{verified}`"
            ),
            Self::NoRoot => f.write_str("the library has a stamp but no root module"),
            Self::Header(message) => {
                write!(f, "the root module was built with a different abi_stable: {message}")
            }
            Self::Layout { summary, .. } => {
                write!(
                    f,
                    "the root module has a different layout under the same version: {summary}"
                )
            }
            Self::Root(message) => write!(f, "the root module failed: {message}"),
        }
    }
}

impl StdError for BoundaryError {}
