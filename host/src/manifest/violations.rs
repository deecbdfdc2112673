//! What is wrong with a value that does not fit its schema, in few words and bounded memory.
//! Decides nothing: the value was refused before.

use std::fmt::{self, Write as _};
use std::time::Instant;

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::Location;
use serde_json::Value;

use super::metered::{AccessCosts, Budget, Metered, MeteredJson, within};
use crate::error::manifest::Violation;

/// Most violations of a value that are reported at once.
const VIOLATIONS_MAX: usize = 3;

/// Most characters of a violation's message, and of its place; values are repeated in them.
pub(super) const MESSAGE_CHARS_MAX: usize = 200;

/// Most steps of looking for the violations of a value.
const DESCRIBING_STEPS_MAX: u64 = 2_000_000;

/// Memory for violations that a step stands for, so that all take about 64 MB at most; and what
/// one takes besides its place and what it repeats of the schema, the latter for each level of
/// the value, since it has the way through the schema too.
const BYTES_PER_STEP: usize = 32;
const BYTES_PER_VIOLATION: usize = 1024;
const BYTES_PER_LEVEL: usize = 128;

/// The first violations of a value that nests so deep, or that they were not found within the
/// budget. Each may repeat so many bytes of the schema.
pub(super) fn describe(
    validator: &Validator<MeteredJson>,
    value: &Value,
    depth: usize,
    costs: AccessCosts,
    repeated_bytes: usize,
    deadline: Option<Instant>,
) -> Vec<Violation> {
    let bytes = BYTES_PER_VIOLATION + BYTES_PER_LEVEL * depth + repeated_bytes;
    let bytes = bytes + pointer_bytes(value);
    let costs = AccessCosts { steps_per_error: (bytes / BYTES_PER_STEP) as u64, ..costs };
    let budget = Budget { steps: DESCRIBING_STEPS_MAX, deadline };
    let described = within(budget, costs, || violations(validator, value));
    described.unwrap_or_else(|exceeded| {
        let message = format!("it does not fit, and the place was not found: {exceeded}");
        vec![Violation::of_all(message)]
    })
}

/// The first violations of a value that does not fit, in the order of the schema.
fn violations(validator: &Validator<MeteredJson>, value: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    for error in validator.iter_errors(Metered(value)) {
        let mut violation = violation(error.instance_path(), &error);
        // The place of the field itself says more than that of the object it is in.
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind()
            && let Some(field) = unexpected.first()
        {
            let field = bounded(&field.replace('~', "~0").replace('/', "~1"));
            violation.pointer.push('/');
            violation.pointer.push_str(&field);
        }
        // One mistake may be found by way of several keywords.
        if !violations.contains(&violation) {
            violations.push(violation);
        }
        if violations.len() == VIOLATIONS_MAX {
            break;
        }
    }
    if violations.is_empty() {
        violations.push(Violation::of_all("it does not fit the schema".to_owned()));
    }
    violations
}

pub(super) fn violation(place: &Location, message: &impl fmt::Display) -> Violation {
    Violation { pointer: bounded(&place.as_str()), message: bounded(message) }
}

/// Bytes of the longest JSON pointer into a value.
fn pointer_bytes(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| 1 + key.len() + pointer_bytes(value)).max().unwrap_or(0)
        }
        Value::Array(list) => 10 + list.iter().map(pointer_bytes).max().unwrap_or(0),
        _ => 0,
    }
}

/// The beginning of what may be as long as the value that it is about.
pub(super) fn bounded(text: &impl fmt::Display) -> String {
    struct Beginning {
        text: String,
        chars_left: usize,
    }
    impl fmt::Write for Beginning {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            for char in more.chars() {
                let Some(left) = self.chars_left.checked_sub(1) else {
                    self.text.push('…');
                    return Err(fmt::Error);
                };
                self.chars_left = left;
                self.text.push(char);
            }
            Ok(())
        }
    }
    let mut beginning = Beginning { text: String::new(), chars_left: MESSAGE_CHARS_MAX };
    // Stopped on purpose where it is too long.
    let _ = write!(beginning, "{text}");
    beginning.text
}
