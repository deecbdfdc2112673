//! A plugin's config against its own JSON Schema. Fetches nothing, and no schema overflows the
//! stack, however it refers to itself.

use std::fmt;

use jsonschema::PatternOptions;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::Location;
use serde_json::Value;

use super::tree::NESTING_DEPTH_MAX;
use crate::error::manifest::{ConfigRefused, ConfigViolation};

/// Most violations of a config that are reported at once.
const VIOLATIONS_MAX: usize = 3;

/// Most characters of a violation's message; values are repeated in it.
const MESSAGE_CHARS_MAX: usize = 200;

/// Most steps back that a pattern may cost on one text.
const PATTERN_BACKTRACKS_MAX: usize = 100_000;

/// Stack of a check, besides what its steps need.
const STACK_BYTES_MIN: usize = 2 << 20;

/// Stack of a step into a schema: several times what the costliest keyword was seen to need,
/// `unevaluatedProperties` without optimisation.
const STACK_BYTES_PER_STEP: usize = 8 << 10;

/// Steps that any thread's stack has room for: most schemas are flat, and a thread costs more
/// than their check.
const STEPS_AT_HOME: usize = 16;

/// Most steps that a schema may lead into itself; their stack is reserved, not touched.
const STEPS_MAX: usize = 32_768;

/// Checks `config` against `schema`.
///
/// Blocks until done, for any but a flat schema on a thread of its own whose stack suits it:
/// following a reference recurses, and a schema of a few kilobytes can make thousands of them
/// follow one another.
pub(crate) fn check_config(schema: &Value, config: &Value) -> Result<(), ConfigRefused> {
    let schema_fault = |message: String| {
        ConfigRefused::Schema(ConfigViolation { pointer: String::new(), message })
    };
    let too_deep = format!("nests deeper than {NESTING_DEPTH_MAX} levels; make it flatter");
    let Some(outline) = outline(schema, NESTING_DEPTH_MAX) else {
        return Err(schema_fault(too_deep));
    };
    let Some(config_outline) = self::outline(config, NESTING_DEPTH_MAX) else {
        let violation = ConfigViolation { pointer: String::new(), message: too_deep };
        return Err(ConfigRefused::Config(vec![violation]));
    };
    let steps = (outline.depth + outline.reference_depths) * (config_outline.depth + 1);
    if steps > STEPS_MAX {
        let message = format!(
            "refers to itself in up to {steps} steps for this config; wanted at most {STEPS_MAX}, \
             so use fewer references"
        );
        return Err(schema_fault(message));
    }
    let panicked = || Err(schema_fault("made the checker panic".to_owned()));
    if outline.reference_depths == 0 && steps <= STEPS_AT_HOME {
        let check = std::panic::AssertUnwindSafe(|| check(schema, config));
        return std::panic::catch_unwind(check).unwrap_or_else(|_| panicked());
    }
    let stack_bytes = STACK_BYTES_MIN + steps * STACK_BYTES_PER_STEP;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("hotbay-schema".to_owned());
        let check = thread.stack_size(stack_bytes).spawn_scoped(scope, || check(schema, config));
        let check =
            check.map_err(|error| schema_fault(format!("no thread to check it: {error}")))?;
        check.join().unwrap_or_else(|_| panicked())
    })
}

fn check(schema: &Value, config: &Value) -> Result<(), ConfigRefused> {
    let patterns = PatternOptions::fancy_regex().backtrack_limit(PATTERN_BACKTRACKS_MAX);
    let options = jsonschema::options().offline().with_pattern_options(patterns);
    let validator = options
        .build(schema)
        .map_err(|error| ConfigRefused::Schema(violation(error.instance_path(), &error)))?;
    let mut violations = Vec::new();
    for error in validator.iter_errors(config) {
        let mut violation = violation(error.instance_path(), &error);
        // The place of the field itself says more than that of the object it is in.
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind()
            && let Some(field) = unexpected.first()
        {
            violation.pointer.push('/');
            violation.pointer.push_str(&field.replace('~', "~0").replace('/', "~1"));
        }
        // One mistake may be found by way of several keywords.
        if !violations.contains(&violation) {
            violations.push(violation);
        }
        if violations.len() == VIOLATIONS_MAX {
            break;
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(ConfigRefused::Config(violations)) }
}

fn violation(place: &Location, message: &impl fmt::Display) -> ConfigViolation {
    let mut message = message.to_string();
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
        message.truncate(end);
        message.push('…');
    }
    ConfigViolation { pointer: place.as_str().to_owned(), message }
}

/// What bounds the steps of a check: without a reference, they are no more than the depth; each
/// reference is followed at most once for each level of the config.
#[derive(Default)]
struct Outline {
    depth: usize,
    reference_depths: usize,
}

/// `None` when `value` nests deeper than `levels`.
fn outline(value: &Value, levels: usize) -> Option<Outline> {
    let mut whole = Outline::default();
    let mut add = |key: &str, child: &Value| {
        let child = outline(child, levels.checked_sub(1)?)?;
        whole.depth = whole.depth.max(child.depth + 1);
        whole.reference_depths += child.reference_depths;
        if matches!(key, "$ref" | "$dynamicRef" | "$recursiveRef") {
            whole.reference_depths += NESTING_DEPTH_MAX + 1 - levels;
        }
        Some(())
    };
    match value {
        Value::Object(object) => object.iter().try_for_each(|(key, child)| add(key, child))?,
        Value::Array(list) => list.iter().try_for_each(|child| add("", child))?,
        _ => {}
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn check(schema: &Value, config: &Value, expect: &str) {
        let told = check_config(schema, config).map_err(|refused| refused.to_string());
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
        check(&schema, &json!({}), "`config`: \"mode\" is a required property");
        check(
            &schema,
            &json!({ "mode": "loud", "sizes": [0, "1", null] }),
            "`config/mode`: \"loud\" is not one of \"upper\" or \"lower\"; `config/sizes/0`: 0 is \
             less than the minimum of 1; `config/sizes/1`: \"1\" is not of type \"integer\"",
        );
    }

    #[test]
    fn a_wrong_schema_is_not_the_fault_of_the_config() {
        check(
            &json!({ "properties": { "mode": { "type": "word" } } }),
            &json!({}),
            "`config_schema/properties/mode/type`: \"word\" is not valid under any of the schemas \
             listed in the 'anyOf' keyword; correct the schema",
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
            let refused = check_config(&schema, &json!({})).unwrap_err();
            assert!(matches!(refused, ConfigRefused::Schema(_)), "{schema}: {refused}");
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
        assert!(check_config(&never, &json!({ "a": {} })).is_err());
        check(
            &json!({ "properties": { "a": { "pattern": "^(a|aa|(?=a)a)+$" } } }),
            &json!({ "a": "a".repeat(4000) + "b" }),
            "`config/a`: Error executing regex: Max limit for backtracking count exceeded",
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
            "`config_schema`: refers to itself in up to 60004 steps for this config; wanted at \
             most 32768, so use fewer references; correct the schema",
        );
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let deep = (0..NESTING_DEPTH_MAX).fold(json!({}), |inner, _| json!({ "not": inner }));
        let too_deep = json!({ "not": deep });
        let expect = "nests deeper than 64 levels; make it flatter";
        check(&deep, &json!({}), "");
        check(&too_deep, &json!({}), &format!("`config_schema`: {expect}; correct the schema"));
        check(&json!({}), &too_deep, &format!("`config`: {expect}"));
    }
}
