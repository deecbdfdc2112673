//! Why the bytes of a file are no library that this host would open.
//! Speaks of "the file"; who reports it knows its path.

use std::{error, fmt};

/// What is wrong with a library, as far as its bytes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeError {
    /// There is nothing in it.
    Empty,
    /// It is something else altogether.
    NotALibrary { looks_like: &'static str, advice: &'static str },
    /// It is machine code, but not a shared library.
    WrongKind { found: &'static str },
    /// It is for another operating system, processor, word size or byte order.
    WrongPlatform { found: String, wanted: String },
    /// Part of it lies behind the file's end.
    Truncated { what: String, end: u64, length: u64 },
    /// Its tables contradict themselves; the loader would crash on them or refuse them.
    Malformed { what: String },
    /// It shares Rust's standard library with whatever else links it.
    SharedStd { library: String },
    /// It exports no stamp, so it is no plugin.
    NoStamp,
    /// There is a stamp, but it cannot be read.
    BadStamp { why: String },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHARED: &str = "wanted a shared library built with `crate-type = [\"cdylib\"]`";
        match self {
            Self::Empty => write!(f, "the file is empty; half-written? {SHARED}"),
            Self::NotALibrary { looks_like, advice } => {
                write!(f, "the file looks like {looks_like}; {SHARED}{advice}")
            }
            Self::WrongKind { found } => write!(f, "the file is {found}; {SHARED}"),
            Self::WrongPlatform { found, wanted } => write!(
                f,
                "the file is {found}, this host is {wanted}; build it for the host's target"
            ),
            Self::Truncated { what, end, length } => {
                write!(f, "{what} ends at byte {end}, the file at {length}: half-written?")
            }
            Self::Malformed { what } => {
                write!(f, "the file is damaged: {what}; half-written? build or copy it again")
            }
            Self::SharedStd { library } => write!(
                f,
                "it needs `{library}` at run time and would share it with other plugins; build it \
                 with `crate-type = [\"cdylib\"]` and without `-C prefer-dynamic`"
            ),
            Self::NoStamp => f.write_str(
                "it exports no plugin stamp; put `export_plugin!(YourType);` into the crate, whose \
                 feature `export` must be on (`[features] default = [\"export\"]`)",
            ),
            Self::BadStamp { why } => write!(
                f,
                "its plugin stamp {why}; build the plugin again with a `hotbay-plugin` that this \
                 host knows"
            ),
        }
    }
}

impl error::Error for ProbeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_say_what_to_do() {
        let cases = [
            (ProbeError::NoStamp, "export_plugin!(YourType);"),
            (ProbeError::NoStamp, "[features] default = [\"export\"]"),
            (ProbeError::SharedStd { library: "libstd-1.so".into() }, "`libstd-1.so`"),
            (
                ProbeError::Truncated { what: "segment 2".into(), end: 9, length: 5 },
                "half-written?",
            ),
            (ProbeError::WrongKind { found: "a program" }, "cdylib"),
        ];
        for (error, wanted) in cases {
            let told = error.to_string();
            assert!(told.contains(wanted) && told.lines().count() == 1, "{told}");
        }
    }
}
