//! Validates a value against a JSON Schema of its plugin: the config, and the input of calls.
//! Fetches nothing. No schema overflows the stack, however it refers to itself, and no check
//! exceeds its budget of steps, time or memory.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

#[cfg(test)]
mod budget_tests;
mod expansion;
mod metered;
mod steps;
mod violations;

use crate::schema_error::{Exceeded, SchemaError, Violation};
use crate::tree::MAX_NESTING_DEPTH;
use expansion::{Costs, costs};
use metered::{Budget, Metered, MeteredJson, with_budget};
use steps::{Outline, outline, with_stack};
use violations::{bounded, describe, violation};

/// Maximum number of steps of a check; a step is an access to the value. A text of one megabyte
/// takes about two million steps with a usual schema.
const MAX_STEPS: u64 = 20_000_000;

/// Maximum length of a text whose violations are located: each takes some hundreds of bytes, and
/// the library finds all of them before it returns the first.
const MAX_DESCRIBED_BYTES: usize = 256 << 10;

/// Maximum number of backtracking steps of a pattern on one text.
const MAX_PATTERN_BACKTRACKS: usize = 100_000;

/// A compiled JSON Schema, which checks any number of values.
///
/// References recurse, and a schema of a few kilobytes can chain thousands of them. So a schema
/// that is not flat is processed on a thread with a sufficient stack, while the caller waits.
///
/// ```
/// use hotbay_manifest::{Checker, SchemaError};
/// use serde_json::json;
///
/// let schema = json!({ "properties": { "mode": { "enum": ["upper", "lower"] } } });
/// let checker = Checker::new(&schema, None)?;
/// checker.check(&json!({ "mode": "upper" }), None)?;
/// match checker.check(&json!({ "mode": "title" }), None) {
///     Err(SchemaError::Value(violations)) => assert_eq!(violations[0].pointer, "/mode"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), SchemaError>(())
/// ```
pub struct Checker {
    /// `None` if each check would exceed its budget. Only `drop` takes it.
    validator: Option<Validator<MeteredJson>>,
    outline: Outline,
    costs: Costs,
    schema: Arc<Value>,
}

impl Checker {
    /// Compiles a schema.
    ///
    /// # Errors
    ///
    /// Fails if the schema is invalid or nested too deep, or if `deadline` has passed. A schema
    /// whose checks would exceed their budget compiles; each check of it fails.
    pub fn new(schema: &Value, deadline: Option<Instant>) -> Result<Self, SchemaError> {
        let Some(outline) = outline(schema, MAX_NESTING_DEPTH) else {
            return Err(SchemaError::Schema(Violation::of_all(too_deep())));
        };
        let steps = outline.steps(0);
        let (validator, costs) = with_stack(steps, || {
            let costs = costs(schema)?;
            if costs.exceeded.is_some() {
                return Ok((None, costs));
            }
            check_deadline(deadline)?;
            Ok((Some(build(schema, costs)?), costs))
        })??;
        Ok(Self { validator, outline, costs, schema: Arc::new(schema.clone()) })
    }

    /// Returns the schema.
    pub fn schema(&self) -> &Arc<Value> {
        &self.schema
    }

    /// Checks a value. Stops at `deadline`.
    ///
    /// # Errors
    ///
    /// Fails with the violations, or if the check exceeded its budget.
    pub fn check(&self, value: &Value, deadline: Option<Instant>) -> Result<(), SchemaError> {
        self.check_value(value, true, deadline)
    }

    /// Checks a text, which must be JSON. Stops at `deadline`. If an object has a key twice, the
    /// last one counts.
    ///
    /// # Errors
    ///
    /// As of [`check`](Self::check), and if the text is not JSON.
    pub fn check_text(&self, text: &[u8], deadline: Option<Instant>) -> Result<(), SchemaError> {
        let violation_error = |message| Err(SchemaError::Value(vec![Violation::of_all(message)]));
        if text.is_empty() {
            return violation_error("it is empty; expected JSON".to_owned());
        }
        match serde_json::from_slice(text) {
            Ok(value) => self.check_value(&value, text.len() <= MAX_DESCRIBED_BYTES, deadline),
            Err(error) => violation_error(bounded(&format_args!("it is not JSON: {error}"))),
        }
    }

    fn check_value(
        &self,
        value: &Value,
        locate: bool,
        deadline: Option<Instant>,
    ) -> Result<(), SchemaError> {
        let Some(depth) = outline(value, MAX_NESTING_DEPTH).map(|outline| outline.depth) else {
            return Err(SchemaError::Value(vec![Violation::of_all(format!("it {}", too_deep()))]));
        };
        if let Some(exceeded) = self.costs.exceeded {
            return Err(SchemaError::Exceeded(exceeded));
        }
        let Some(validator) = &self.validator else { return Ok(()) };
        let costs = self.costs.access;
        with_stack(self.outline.steps(depth), || {
            let budget = Budget { steps: MAX_STEPS, deadline };
            let is_valid = with_budget(budget, costs, || validator.is_valid(Metered(value)));
            if is_valid.map_err(SchemaError::Exceeded)? {
                return Ok(());
            }
            if !locate {
                return Err(SchemaError::Value(Vec::new()));
            }
            let bytes = self.costs.repeated_bytes;
            Err(SchemaError::Value(describe(validator, value, depth, costs, bytes, deadline)))
        })?
    }
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker").field("outline", &self.outline).finish_non_exhaustive()
    }
}

impl Drop for Checker {
    /// Drops the validator with a sufficient stack: a chain of references is a chain of boxes.
    fn drop(&mut self) {
        let mut validator = self.validator.take();
        if with_stack(self.outline.steps(0), || drop(validator.take())).is_err() {
            std::mem::forget(validator);
        }
    }
}

/// Checks one value against a schema.
#[cfg(test)]
pub(super) fn check_once(schema: &Value, value: &Value) -> Result<(), SchemaError> {
    Checker::new(schema, None)?.check(value, None)
}

/// Fails if the deadline passed.
fn check_deadline(deadline: Option<Instant>) -> Result<(), SchemaError> {
    match deadline {
        Some(deadline) if deadline <= Instant::now() => {
            Err(SchemaError::Exceeded(Exceeded::Deadline))
        }
        _ => Ok(()),
    }
}

fn build(schema: &Value, costs: Costs) -> Result<Validator<MeteredJson>, SchemaError> {
    let patterns = PatternOptions::fancy_regex()
        .backtrack_limit(MAX_PATTERN_BACKTRACKS)
        .size_limit(costs.max_pattern_bytes)
        .dfa_size_limit(costs.max_pattern_bytes);
    let options = jsonschema::options_for::<MeteredJson>().offline().with_pattern_options(patterns);
    options
        .build(schema)
        .map_err(|error| SchemaError::Schema(violation(error.instance_path(), &error)))
}

fn too_deep() -> String {
    format!("is nested deeper than {MAX_NESTING_DEPTH} levels")
}

#[cfg(test)]
mod tests {
    use super::steps::MAX_STEPS_ON_CALLER_STACK;
    use super::violations::MAX_MESSAGE_CHARS;
    use super::*;
    use serde_json::{Map, json};
    use std::thread;

    fn check(schema: &Value, value: &Value, expect: &str) {
        let message = check_once(schema, value).map_err(|error| error.to_string());
        assert_eq!(message.err().unwrap_or_default(), expect);
    }

    #[test]
    fn first_three_violations_are_reported_with_pointers() {
        let schema = json!({
            "properties": {
                "mode": { "enum": ["upper", "lower"] },
                "sizes": { "items": { "type": "integer", "minimum": 1 } },
            },
            "required": ["mode"],
        });
        check(&schema, &json!({ "mode": "upper", "sizes": [1, 2] }), "");
        check(&schema, &json!({}), "\"mode\" is a required property");
        check(
            &schema,
            &json!({ "mode": "loud", "sizes": [0, "1", null] }),
            "`/mode`: \"loud\" is not one of \"upper\" or \"lower\"; `/sizes/0`: 0 is \
             less than the minimum of 1; `/sizes/1`: \"1\" is not of type \"integer\"",
        );
    }

    #[test]
    fn invalid_schema_is_reported_as_schema_error() {
        check(
            &json!({ "properties": { "mode": { "type": "word" } } }),
            &json!({}),
            "the schema at `/properties/mode/type`: \"word\" is not valid under any of the schemas \
             listed in the 'anyOf' keyword",
        );
        for schema in [
            json!({ "$ref": "https://example.com/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "$ref": "other.json" }),
            json!({ "$schema": "https://example.com/draft" }),
            json!({ "properties": { "a": { "pattern": "(" } } }),
            json!({ "$ref": "#/gone" }),
            json!({ "type": 1 }),
        ] {
            let error = check_once(&schema, &json!({})).unwrap_err();
            assert!(matches!(error, SchemaError::Schema(_)), "{schema}: {error}");
        }
    }

    #[test]
    fn recursive_schemas_are_checked_without_overflow() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "allOf": [{ "$ref": "#" }] }),
            json!({ "anyOf": [{ "$ref": "#/$defs/a" }], "$defs": {
                "a": { "if": { "$ref": "#/$defs/b" } }, "b": { "oneOf": [{ "$ref": "#/$defs/a" }] },
            } }),
            json!({ "$dynamicRef": "#a", "$dynamicAnchor": "a" }),
        ] {
            check(&schema, &json!({ "a": {} }), "");
        }
        let never = json!({ "not": { "$ref": "#" }, "unevaluatedProperties": false });
        assert!(check_once(&never, &json!({ "a": {} })).is_err());
        check(
            &json!({ "properties": { "a": { "pattern": "^(a|aa|(?=a)a)+$" } } }),
            &json!({ "a": "a".repeat(4000) + "b" }),
            "`/a`: Error executing regex: Max limit for backtracking count exceeded",
        );
    }

    #[test]
    fn long_chain_of_references_does_not_overflow_stack() {
        let chain = |length: usize| {
            let link = |i: usize| json!({ "$ref": format!("#/$defs/d{}", i + 1) });
            let mut links: Map<_, _> = (0..length).map(|i| (format!("d{i}"), link(i))).collect();
            links.insert(format!("d{length}"), json!({ "type": "object" }));
            json!({ "$ref": "#/$defs/d0", "$defs": links })
        };
        check(&chain(8_000), &json!({}), "");
        check(
            &chain(20_000),
            &json!({}),
            "the schema refers to itself in up to 60004 steps for this value; the limit is 32768",
        );
    }

    #[test]
    fn checker_works_on_small_stack() {
        let link = |i: usize| json!({ "$ref": format!("#/$defs/d{}", i + 1) });
        let mut links: Map<_, _> = (0..4_000).map(|i| (format!("d{i}"), link(i))).collect();
        links.insert("d4000".to_owned(), json!({ "type": "object" }));
        let chain = json!({ "$ref": "#/$defs/d0", "$defs": links });
        // The maximum number of steps on any stack, of the costliest keyword.
        let flat = (0..8).fold(
            json!({}),
            |inner, _| json!({ "allOf": [inner], "unevaluatedProperties": { "type": "integer" } }),
        );
        assert_eq!(outline(&flat, 64).unwrap().steps(1), MAX_STEPS_ON_CALLER_STACK);
        let small = thread::Builder::new().stack_size(128 << 10);
        let job = move || {
            let chain = Checker::new(&chain, None).unwrap();
            assert!(
                chain.check(&json!({}), None).is_ok() && chain.check(&json!([]), None).is_err()
            );
            drop(chain);
            let flat = Checker::new(&flat, None).unwrap();
            assert!(flat.check_text(br#"{ "a": 1 }"#, None).is_ok());
            assert!(flat.check_text(br#"{ "a": "1" }"#, None).is_err());
        };
        small.spawn(job).unwrap().join().unwrap();
    }

    #[test]
    fn invalid_text_is_rejected_with_bounded_message() {
        let schema = json!({
            "type": "object",
            "properties": { "n": { "type": "integer" }, "of": { "items": { "maxLength": 2 } } },
            "additionalProperties": false,
        });
        let checker = Checker::new(&schema, None).unwrap();
        let check = |text: &str, expect: &str| {
            let message =
                checker.check_text(text.as_bytes(), None).map_err(|error| error.to_string());
            assert_eq!(message.err().unwrap_or_default(), expect);
        };
        check(r#" { "n": 1, "of": ["a", "b"] } "#, "");
        check("", "it is empty; expected JSON");
        check("n = 1", "it is not JSON: expected ident at line 1 column 2");
        check("{} {}", "it is not JSON: trailing characters at line 1 column 4");
        check("[]", "[] is not of type \"object\"");
        check(r#"{ "n": "1" }"#, "`/n`: \"1\" is not of type \"integer\"");
        check(r#"{ "n": 1, "n": "2" }"#, "`/n`: \"2\" is not of type \"integer\"");
        check(
            r#"{ "of": ["abc"], "to~/": 1 }"#,
            "`/of/0`: \"abc\" is longer than 2 characters; `/to~0~1`: Additional properties are \
             not allowed ('to~/' was unexpected)",
        );
        check(&format!(r#"{{ "n": "{}" }}"#, "é".repeat(9000)), &{
            format!("`/n`: \"{}…", "é".repeat(MAX_MESSAGE_CHARS - 1))
        });
        let long = format!(r#"{{ "{}": 1 }}"#, "k".repeat(9000));
        let message = checker.check_text(long.as_bytes(), None).unwrap_err().to_string();
        assert!(message.chars().count() < 3 * MAX_MESSAGE_CHARS, "{message}");
        let wrong = format!("[{}0]", "0,".repeat(MAX_DESCRIBED_BYTES));
        check(
            &wrong,
            "it does not match the schema; the violation cannot be located because the value is too large",
        );
        assert!(checker.check_text(b"{ \"n\": 1, \"of\": [\"\xff\"] }", None).is_err());
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let checker = Checker::new(&json!({ "items": { "$ref": "#" } }), None).unwrap();
        assert!(checker.check_text(deep(64).as_bytes(), None).is_ok());
        let message =
            |text: &str| checker.check_text(text.as_bytes(), None).unwrap_err().to_string();
        assert_eq!(message(&deep(66)), "it is nested deeper than 64 levels");
        let expect = "it is not JSON: recursion limit exceeded at line 1 column 128";
        assert_eq!(message(&deep(1_000_000)), expect);
        assert_eq!(message(&"{\"a\":".repeat(1_000_000)), expect.replace("128", "636"));
    }

    #[test]
    fn too_deep_schema_and_value_are_rejected() {
        let deep = (0..MAX_NESTING_DEPTH).fold(json!({}), |inner, _| json!({ "not": inner }));
        let too_deep = json!({ "not": deep });
        let expect = "is nested deeper than 64 levels";
        check(&deep, &json!({}), "");
        check(&too_deep, &json!({}), &format!("the schema {expect}"));
        check(&json!({}), &too_deep, &format!("it {expect}"));
    }
}
