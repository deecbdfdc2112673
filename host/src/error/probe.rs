//! Errors of the bytes of a library. The caller adds the path.

use std::{error, fmt};

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
            Self::BadStamp { .. } => {
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
