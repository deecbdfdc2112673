//! The errors of a check against a JSON Schema.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// The reason a value does not match a JSON Schema of its plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaError {
    /// The schema is invalid, refers to another document, or recurses too deep for this value.
    Schema(Violation),
    /// The first violations, in the order of the schema; empty if they were not located.
    Value(Vec<Violation>),
    /// The check exceeded its budget.
    Exceeded(Exceeded),
    /// No thread for the check could be started.
    NoThread(String),
    /// This build has no schema checker.
    Unsupported,
}

/// Which part of its budget a check exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// This number of steps.
    Steps(u64),
    /// This number of evaluations of subschemas at one location of a value.
    Expansions(usize),
    /// This number of subschemas, each counted as often as references lead to it.
    Subschemas(usize),
    /// This time.
    Time(Duration),
    /// The deadline of the caller.
    Deadline,
}

impl Exceeded {
    fn hint(self) -> &'static str {
        match self {
            Self::Expansions(_) => "refer to each subschema once",
            Self::Subschemas(_) => "use fewer resources (`$id`)",
            Self::Steps(_) | Self::Time(_) | Self::Deadline => {
                "use a smaller value, or a schema with fewer alternatives"
            }
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "the check exceeded its budget of {steps} steps"),
            Self::Expansions(evaluations) => write!(
                f,
                "the check would exceed its budget of {evaluations} evaluations of subschemas at \
                 one location of the value: the references of the schema multiply"
            ),
            Self::Subschemas(subschemas) => write!(
                f,
                "the check would exceed its budget of {subschemas} subschemas: the resources \
                 (`$id`) of the schema refer to each other in too many ways"
            ),
            Self::Time(time) => write!(f, "the check exceeded its budget of {time:?}"),
            Self::Deadline => f.write_str("the check did not finish before its deadline"),
        }
    }
}

/// A violation at one location of a value or schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The JSON pointer, such as `/mode`; empty for the whole value.
    pub pointer: String,
    /// The found and the expected value.
    pub message: String,
}

impl Violation {
    /// Returns a violation of the whole value.
    #[cfg(feature = "schema")]
    pub(crate) fn of_all(message: String) -> Self {
        Self { pointer: String::new(), message }
    }
}

impl SchemaError {
    /// Returns the hint of the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Schema(_) => Some("fix the schema".to_owned()),
            Self::Exceeded(exceeded) => Some(exceeded.hint().to_owned()),
            Self::Unsupported => Some("enable the feature `schema` of `hotbay`".to_owned()),
            Self::Value(_) | Self::NoThread(_) => None,
        }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema(violation) if violation.pointer.is_empty() => {
                write!(f, "the schema {}", violation.message)
            }
            Self::Schema(violation) => write!(f, "the schema at {violation}"),
            Self::Value(violations) if violations.is_empty() => f.write_str(
                "it does not match the schema; the violation cannot be located because the value is too large",
            ),
            Self::Value(violations) => {
                for (index, violation) in violations.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "; " })?;
                    violation.fmt(f)?;
                }
                Ok(())
            }
            Self::Exceeded(exceeded) => exceeded.fmt(f),
            Self::Unsupported => f.write_str("this host was built without schema validation"),
            Self::NoThread(error) => write!(f, "cannot start a thread for the check: {error}"),
        }
    }
}

impl Error for SchemaError {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "`{}`: {}", self.pointer, self.message)
    }
}
