//! A value against a JSON Schema of its plugin's own: the config, and the input of calls.
//! Fetches nothing. No schema overflows the stack, however it refers to itself, and no check
//! takes more steps, time or memory than its budget.

use std::fmt;
use std::time::Instant;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::expansion::{Costs, costs};
use super::metered::{Budget, Metered, MeteredJson, within};
use super::steps::{Outline, outline, with_stack};
use super::tree::NESTING_DEPTH_MAX;
use super::violations::{bounded, describe, violation};
use crate::error::manifest::{Exceeded, SchemaError, Violation};

/// Most steps of a check: a step is an access to the value. A text of a megabyte against a usual
/// schema takes about two million.
const STEPS_MAX: u64 = 20_000_000;

/// Longest text whose violations are looked for: each takes some hundreds of bytes, and all are
/// found before the first is told.
const DESCRIBED_BYTES_MAX: usize = 256 << 10;

/// Most steps back that a pattern may cost on one text.
const PATTERN_BACKTRACKS_MAX: usize = 100_000;

/// A JSON Schema that was read once, to check any number of values.
///
/// Following a reference recurses, and a schema of a few kilobytes can make thousands of them
/// follow one another; so whatever is not flat is done on a thread of its own whose stack suits
/// it, while the caller waits.
pub(crate) struct Checker {
    /// None where each check would exceed its budget; taken by the drop alone.
    validator: Option<Validator<MeteredJson>>,
    outline: Outline,
    costs: Costs,
}

impl Checker {
    /// Reads a schema. After `deadline` it is not begun any more.
    pub(crate) fn new(schema: &Value, deadline: Option<Instant>) -> Result<Self, SchemaError> {
        let Some(outline) = outline(schema, NESTING_DEPTH_MAX) else {
            return Err(SchemaError::Schema(Violation::of_all(too_deep())));
        };
        let steps = outline.steps(0);
        let (validator, costs) = with_stack(steps, || {
            let costs = costs(schema)?;
            if costs.exceeded.is_some() {
                return Ok((None, costs));
            }
            in_time(deadline)?;
            Ok((Some(build(schema, costs)?), costs))
        })??;
        Ok(Self { validator, outline, costs })
    }

    /// Checks a value, until `deadline` at the latest.
    pub(crate) fn check(
        &self,
        value: &Value,
        deadline: Option<Instant>,
    ) -> Result<(), SchemaError> {
        self.check_and_tell(value, true, deadline)
    }

    /// Checks a text that has to be JSON, until `deadline` at the latest. Of a key that an object
    /// has twice, the last counts.
    pub(crate) fn check_text(
        &self,
        text: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), SchemaError> {
        let fault = |message| Err(SchemaError::Value(vec![Violation::of_all(message)]));
        if text.is_empty() {
            return fault("it is empty; wanted JSON".to_owned());
        }
        match serde_json::from_slice(text) {
            Ok(value) => self.check_and_tell(&value, text.len() <= DESCRIBED_BYTES_MAX, deadline),
            Err(error) => fault(bounded(&format_args!("it is not JSON: {error}"))),
        }
    }

    fn check_and_tell(
        &self,
        value: &Value,
        wants_places: bool,
        deadline: Option<Instant>,
    ) -> Result<(), SchemaError> {
        let Some(depth) = outline(value, NESTING_DEPTH_MAX).map(|outline| outline.depth) else {
            return Err(SchemaError::Value(vec![Violation::of_all(too_deep())]));
        };
        if let Some(exceeded) = self.costs.exceeded {
            return Err(SchemaError::Exceeded(exceeded));
        }
        let Some(validator) = &self.validator else { return Ok(()) };
        let costs = self.costs.access;
        with_stack(self.outline.steps(depth), || {
            let budget = Budget { steps: STEPS_MAX, deadline };
            let fits = within(budget, costs, || validator.is_valid(Metered(value)));
            if fits.map_err(SchemaError::Exceeded)? {
                return Ok(());
            }
            if !wants_places {
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
    /// A chain of references is a chain of boxes, which recurses as well.
    fn drop(&mut self) {
        let mut validator = self.validator.take();
        if with_stack(self.outline.steps(0), || drop(validator.take())).is_err() {
            std::mem::forget(validator);
        }
    }
}

/// Checks a value that is looked at once.
#[cfg(test)]
pub(super) fn check_once(schema: &Value, value: &Value) -> Result<(), SchemaError> {
    Checker::new(schema, None)?.check(value, None)
}

/// Whether there is time left.
fn in_time(deadline: Option<Instant>) -> Result<(), SchemaError> {
    match deadline {
        Some(deadline) if deadline <= Instant::now() => {
            Err(SchemaError::Exceeded(Exceeded::Deadline))
        }
        _ => Ok(()),
    }
}

fn build(schema: &Value, costs: Costs) -> Result<Validator<MeteredJson>, SchemaError> {
    let patterns = PatternOptions::fancy_regex()
        .backtrack_limit(PATTERN_BACKTRACKS_MAX)
        .size_limit(costs.pattern_bytes_max)
        .dfa_size_limit(costs.pattern_bytes_max);
    let options = jsonschema::options_for::<MeteredJson>().offline().with_pattern_options(patterns);
    options
        .build(schema)
        .map_err(|error| SchemaError::Schema(violation(error.instance_path(), &error)))
}

fn too_deep() -> String {
    format!("nests deeper than {NESTING_DEPTH_MAX} levels; make it flatter")
}

#[cfg(test)]
mod tests {
    use super::super::steps::STEPS_AT_HOME;
    use super::super::violations::MESSAGE_CHARS_MAX;
    use super::*;
    use serde_json::{Map, json};
    use std::thread;

    fn check(schema: &Value, value: &Value, expect: &str) {
        let told = check_once(schema, value).map_err(|refused| refused.to_string());
        assert_eq!(told.err().unwrap_or_default(), expect);
    }

    #[test]
    fn the_first_three_violations_are_told_with_their_places() {
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
    fn a_wrong_schema_is_not_the_fault_of_the_config() {
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
            let refused = check_once(&schema, &json!({})).unwrap_err();
            assert!(matches!(refused, SchemaError::Schema(_)), "{schema}: {refused}");
        }
    }

    #[test]
    fn a_schema_that_never_ends_does_not_end_the_host() {
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
    fn a_long_chain_of_references_does_not_overflow_the_stack() {
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
            "the schema refers to itself in up to 60004 steps for this value; wanted at \
             most 32768, so use fewer references",
        );
    }

    #[test]
    fn a_checker_ends_where_the_stack_is_small() {
        let link = |i: usize| json!({ "$ref": format!("#/$defs/d{}", i + 1) });
        let mut links: Map<_, _> = (0..4_000).map(|i| (format!("d{i}"), link(i))).collect();
        links.insert("d4000".to_owned(), json!({ "type": "object" }));
        let chain = json!({ "$ref": "#/$defs/d0", "$defs": links });
        // As many steps as are made on any stack, of the costliest keyword.
        let flat = (0..8).fold(
            json!({}),
            |inner, _| json!({ "allOf": [inner], "unevaluatedProperties": { "type": "integer" } }),
        );
        assert_eq!(outline(&flat, 64).unwrap().steps(1), STEPS_AT_HOME);
        let small = thread::Builder::new().stack_size(128 << 10);
        let work = move || {
            let chain = Checker::new(&chain, None).unwrap();
            assert!(
                chain.check(&json!({}), None).is_ok() && chain.check(&json!([]), None).is_err()
            );
            drop(chain);
            let flat = Checker::new(&flat, None).unwrap();
            assert!(flat.check_text(br#"{ "a": 1 }"#, None).is_ok());
            assert!(flat.check_text(br#"{ "a": "1" }"#, None).is_err());
        };
        small.spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn a_text_is_refused_with_its_first_mistakes_and_never_at_length() {
        let schema = json!({
            "type": "object",
            "properties": { "n": { "type": "integer" }, "of": { "items": { "maxLength": 2 } } },
            "additionalProperties": false,
        });
        let checker = Checker::new(&schema, None).unwrap();
        let check = |text: &str, expect: &str| {
            let told = checker.check_text(text.as_bytes(), None).map_err(|unfit| unfit.to_string());
            assert_eq!(told.err().unwrap_or_default(), expect);
        };
        check(r#" { "n": 1, "of": ["a", "b"] } "#, "");
        check("", "it is empty; wanted JSON");
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
            format!("`/n`: \"{}…", "é".repeat(MESSAGE_CHARS_MAX - 1))
        });
        let long = format!(r#"{{ "{}": 1 }}"#, "k".repeat(9000));
        let told = checker.check_text(long.as_bytes(), None).unwrap_err().to_string();
        assert!(told.chars().count() < 3 * MESSAGE_CHARS_MAX, "{told}");
        let wrong = format!("[{}0]", "0,".repeat(DESCRIBED_BYTES_MAX));
        check(&wrong, "it does not match, and is too long to find the place");
        assert!(checker.check_text(b"{ \"n\": 1, \"of\": [\"\xff\"] }", None).is_err());
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let checker = Checker::new(&json!({ "items": { "$ref": "#" } }), None).unwrap();
        assert!(checker.check_text(deep(64).as_bytes(), None).is_ok());
        let told = |text: &str| checker.check_text(text.as_bytes(), None).unwrap_err().to_string();
        assert_eq!(told(&deep(66)), "nests deeper than 64 levels; make it flatter");
        let expect = "it is not JSON: recursion limit exceeded at line 1 column 128";
        assert_eq!(told(&deep(1_000_000)), expect);
        assert_eq!(told(&"{\"a\":".repeat(1_000_000)), expect.replace("128", "636"));
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let deep = (0..NESTING_DEPTH_MAX).fold(json!({}), |inner, _| json!({ "not": inner }));
        let too_deep = json!({ "not": deep });
        let expect = "nests deeper than 64 levels; make it flatter";
        check(&deep, &json!({}), "");
        check(&too_deep, &json!({}), &format!("the schema {expect}"));
        check(&json!({}), &too_deep, expect);
    }
}
