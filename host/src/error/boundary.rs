//! Errors while a library is probed, opened, checked or closed.

use std::error::Error as StdError;
use std::{error, fmt};

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
    /// Its contracts contradict their text.
    Contracts(String),
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
            Self::Header(_) | Self::Contracts(_) => "rebuild the plugin",
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
            Self::Contracts(message) => {
                write!(f, "invalid contracts: {}", escaped(message, Lines::One))
            }
        }
    }
}

impl StdError for BoundaryError {}

/// A defect in the bytes of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeError {
    /// The file is empty.
    Empty,
    /// It is not a library.
    NotALibrary { looks_like: &'static str, hint: Option<&'static str> },
    /// It is machine code, but not a shared library.
    WrongKind { found: &'static str },
    /// It is for another operating system, processor, word size or byte order.
    WrongPlatform { found: String, expected: String },
    /// A part of it extends beyond the end of the file.
    Truncated { what: String, end: u64, length: u64 },
    /// Its tables contradict each other; the loader would crash or reject them.
    Malformed { what: String },
    /// It links Rust's standard library dynamically.
    SharedStd { library: String },
    /// It exports no stamp, so it is not a plugin.
    NoStamp,
    /// Its stamp is invalid.
    BadStamp { why: String },
    /// The text of its contracts is invalid.
    BadContracts { why: String },
}

impl ProbeError {
    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotALibrary { hint, .. } => return hint.map(str::to_owned),
            Self::WrongPlatform { .. } => "build it for the host's target",
            Self::Empty | Self::Truncated { .. } | Self::Malformed { .. } => {
                "build or copy the file again; it may be incomplete"
            }
            Self::SharedStd { .. } => {
                "build it with `crate-type = [\"cdylib\"]` and without `-C prefer-dynamic`"
            }
            Self::NoStamp => {
                "put `export_plugin!(YourType);` in the crate and enable its feature `export` \
                 (`[features] default = [\"export\"]`)"
            }
            Self::BadStamp { .. } | Self::BadContracts { .. } => {
                "rebuild the plugin with a `hotbay-plugin` that this host supports"
            }
            Self::WrongKind { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EXPECTED: &str = "expected a shared library built with `crate-type = [\"cdylib\"]`";
        match self {
            Self::Empty => write!(f, "the file is empty; {EXPECTED}"),
            Self::NotALibrary { looks_like, .. } => {
                write!(f, "the file looks like {looks_like}; {EXPECTED}")
            }
            Self::WrongKind { found } => write!(f, "the file is {found}; {EXPECTED}"),
            Self::WrongPlatform { found, expected } => {
                write!(f, "the file is {found}; expected {expected}")
            }
            Self::Truncated { what, end, length } => {
                write!(f, "{what} ends at byte {end}, but the file has only {length} bytes")
            }
            Self::Malformed { what } => write!(f, "the file is damaged: {what}"),
            Self::SharedStd { library } => write!(
                f,
                "the library needs `{library}` at run time and would share it with other plugins"
            ),
            Self::NoStamp => f.write_str("the library exports no plugin stamp"),
            Self::BadStamp { why } => write!(f, "invalid plugin stamp: it {why}"),
            Self::BadContracts { why } => write!(f, "invalid text of its contracts: {why}"),
        }
    }
}

impl error::Error for ProbeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_with_hint() {
        let cases = [
            (ProbeError::NoStamp, "export_plugin!(YourType);"),
            (ProbeError::NoStamp, "[features] default = [\"export\"]"),
            (ProbeError::SharedStd { library: "libstd-1.so".into() }, "`libstd-1.so`"),
            (
                ProbeError::Truncated { what: "segment 2".into(), end: 9, length: 5 },
                "may be incomplete",
            ),
            (ProbeError::WrongKind { found: "a program" }, "cdylib"),
        ];
        for (error, expected) in cases {
            let text = format!("{error}; {}", error.hint().unwrap_or_default());
            assert!(text.contains(expected) && text.lines().count() == 1, "{text}");
        }
    }
}
