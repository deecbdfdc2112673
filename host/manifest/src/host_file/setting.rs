//! One value of the configuration with its place, and how its text is completed from outside.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// How the configuration reads the files and variables that its text refers to.
pub struct Environment<'o> {
    /// Returns the text of a file.
    pub read: &'o dyn Fn(&Path) -> io::Result<String>,
    /// Returns the value of a variable of the environment.
    pub variable: &'o dyn Fn(&str) -> Option<OsString>,
}

/// One value of the configuration.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Setting {
    /// The keys that lead to the value.
    pub path: Vec<String>,
    /// The value, with `${…}` replaced.
    pub value: Value,
    /// The place that sets it.
    pub origin: Origin,
    /// Whether it is never shown, since a part of it is from the environment or another file.
    pub is_secret: bool,
}

/// The place of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

/// Prints no secret.
impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Setting");
        shown.field("path", &self.path).field("origin", &self.origin);
        if !self.is_secret {
            shown.field("value", &self.value);
        }
        shown.finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}
