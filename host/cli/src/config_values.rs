//! What `hotbay config check` finds, and what a configuration sets.

use hotbay::{ConfigFile, ConfigValue};
use serde_json::{Value, json};

use crate::args::Options;
use crate::output::{print_hint, print_message};

/// A mistake that the file alone does not show, or a note.
pub(crate) struct Finding {
    pub(crate) place: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Finding {
    pub(crate) fn print(&self, word: &str) {
        print_message(&format!("{word}: {}: {}", self.place, self.message));
        self.hint.iter().for_each(|hint| print_hint(hint));
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "place": self.place, "message": self.message, "hint": self.hint })
    }
}

/// Returns whether the configuration sets a flag to `true`.
pub(crate) fn is_set(options: &Options, path: &str) -> bool {
    let mut values = options.config_file.iter().flat_map(ConfigFile::values);
    values.any(|value| value.path == path && value.value == Some(Value::Bool(true)))
}

/// Returns whether the file sets a value, other than `false`.
pub(crate) fn has(file: &ConfigFile, path: &str) -> bool {
    file.values().any(|value| value.path == path && value.value != Some(false.into()))
}

/// Returns whether a value is at a path, or below it.
pub(crate) fn is_below(value: &ConfigValue, path: &str) -> bool {
    let rest = value.path.strip_prefix(path);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the place of the first value at or below a path.
pub(crate) fn place_of(file: &ConfigFile, path: &str) -> String {
    let origin = file.values().find(|value| is_below(value, path)).and_then(|value| value.origin);
    match origin {
        Some(origin) => format!("{}:{}:{}", origin.file.display(), origin.line, origin.column),
        None => file.path().display().to_string(),
    }
}
