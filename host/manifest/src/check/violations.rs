//! Describes the violations of an invalid value, in short messages and bounded memory. Does not
//! decide about the value: it was rejected before.

use std::fmt::{self, Write as _};
use std::time::Instant;

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::Location;
use serde_json::Value;

use super::metered::{AccessCosts, Budget, Metered, MeteredJson, with_budget};
use crate::schema_error::Violation;

/// Maximum number of violations of a value that are reported.
const MAX_VIOLATIONS: usize = 3;

/// Maximum number of characters of a violation's message and of its pointer, which repeat values.
pub(super) const MAX_MESSAGE_CHARS: usize = 200;

/// Maximum number of steps for finding the violations of a value.
const MAX_DESCRIBING_STEPS: u64 = 2_000_000;

/// Memory for violations per step; all violations together take at most about 64 MB. The next two
/// are the memory of one violation, without its pointer and the quoted part of the schema, and its
/// memory per level of the value, since a violation also contains its path through the schema.
const BYTES_PER_STEP: usize = 32;
const BYTES_PER_VIOLATION: usize = 1024;
const BYTES_PER_LEVEL: usize = 128;

/// Returns the first violations of a value of this depth, or the violation that they were not
/// found within the budget. Each may repeat `repeated_bytes` of the schema.
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
    let budget = Budget { steps: MAX_DESCRIBING_STEPS, deadline };
    let described = with_budget(budget, costs, || violations(validator, value));
    described.unwrap_or_else(|exceeded| {
        let message =
            format!("it does not match the schema, and the violation was not located: {exceeded}");
        vec![Violation::of_all(message)]
    })
}

/// Returns the first violations of an invalid value, in the order of the schema.
fn violations(validator: &Validator<MeteredJson>, value: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    for error in validator.iter_errors(Metered(value)) {
        let mut violation = violation(error.instance_path(), &error);
        // The pointer of the field itself is more precise than that of its object.
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind()
            && let Some(field) = unexpected.first()
        {
            let field = bounded(&field.replace('~', "~0").replace('/', "~1"));
            violation.pointer.push('/');
            violation.pointer.push_str(&field);
        }
        // Several keywords may find the same mistake.
        if !violations.contains(&violation) {
            violations.push(violation);
        }
        if violations.len() == MAX_VIOLATIONS {
            break;
        }
    }
    if violations.is_empty() {
        violations.push(Violation::of_all("it does not match the schema".to_owned()));
    }
    violations
}

pub(super) fn violation(location: &Location, message: &impl fmt::Display) -> Violation {
    Violation { pointer: bounded(&location.as_str()), message: bounded(message) }
}

/// Returns the bytes of the longest JSON pointer into a value.
fn pointer_bytes(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| 1 + key.len() + pointer_bytes(value)).max().unwrap_or(0)
        }
        Value::Array(list) => 10 + list.iter().map(pointer_bytes).max().unwrap_or(0),
        _ => 0,
    }
}

/// Formats the beginning of a text that may be as long as the value that it is about.
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
    let mut beginning = Beginning { text: String::new(), chars_left: MAX_MESSAGE_CHARS };
    // The error only means that the text was cut.
    let _ = write!(beginning, "{text}");
    beginning.text
}
