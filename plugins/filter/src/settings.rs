//! From the `config` object to rules, or to a message that points at what is wrong in it.
//! Knows no elements; whatever it accepts can be run without errors of configuration.

use std::fmt::Display;

use regex::RegexBuilder;
use serde_json::{Map, Number, Value};

use crate::decimal::Decimal;
use crate::pointer::Pointer;
use crate::rule::{Rule, Test, json_type};

/// Most bytes that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes of the tables that a pattern fills while it searches.
const PATTERN_CACHE_BYTES_MAX: usize = 1024 * 1024;

/// What a config says.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) rules: Vec<Rule>,
    pub(crate) strict: bool,
}

impl Settings {
    /// Reads a config of either shape: one rule, or a list of `rules`.
    pub(crate) fn read(config: &Value) -> Result<Self, String> {
        let mut top = Fields::new("", config)?;
        let strict = top.flag("strict")?;
        let Some(list) = top.take("rules") else {
            return Ok(Self { rules: vec![rule(top)?], strict });
        };
        if top.rest.contains_key("rule") {
            return Err("`rule` and `rules` exclude each other; move the rule into the list".into());
        }
        top.end(&["rules", "strict"])?;
        let Value::Array(list) = list else {
            return Err(format!("`rules`: wanted an array, found {}", type_of(&list)));
        };
        let rules = list
            .iter()
            .enumerate()
            .map(|(index, config)| rule(Fields::new(&format!("rules[{index}]"), config)?))
            .collect::<Result<_, _>>()?;
        Ok(Self { rules, strict })
    }
}

fn rule(mut fields: Fields) -> Result<Rule, String> {
    let Some(name) = fields.text("rule")? else {
        let hint = if fields.path.is_empty() { " (or `rules`, a list of them)" } else { "" };
        let known = "`positive`, `regex` or `range`";
        return Err(format!("{} is missing: wanted {known}{hint}", fields.at("rule")));
    };
    let (test, known): (_, &[&str]) = match name.as_str() {
        "positive" => (Test::Positive, &["rule", "field", "invert"]),
        "regex" => (regex(&mut fields)?, &["rule", "pattern", "field", "invert"]),
        "range" => (range(&mut fields)?, &["rule", "min", "max", "field", "invert"]),
        other => {
            return Err(format!(
                "{}: there is no rule `{other}`; wanted `positive`, `regex` or `range`",
                fields.at("rule")
            ));
        }
    };
    let field = fields.text("field")?.unwrap_or_default();
    let field = Pointer::parse(&field).map_err(|why| format!("{}: {why}", fields.at("field")))?;
    let invert = fields.flag("invert")?;
    fields.end(known)?;
    Ok(Rule { test, field, invert })
}

fn regex(fields: &mut Fields) -> Result<Test, String> {
    let Some(pattern) = fields.text("pattern")? else {
        return Err(format!("{} is missing: `regex` wants one", fields.at("pattern")));
    };
    RegexBuilder::new(&pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_CACHE_BYTES_MAX)
        .build()
        .map(Test::Regex)
        .map_err(|error| {
            let at = fields.at("pattern");
            match error {
                regex::Error::CompiledTooBig(limit) => {
                    format!("{at}: compiles to more than {limit} bytes; make repetitions shorter")
                }
                // The whole text draws the pattern over several lines; the cause is the last.
                other => format!("{at}: `{pattern}` is no regular expression: {}", cause(&other)),
            }
        })
}

fn cause(error: &impl Display) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn range(fields: &mut Fields) -> Result<Test, String> {
    let (min, max) = (fields.number("min")?, fields.number("max")?);
    let bound = |number: &Option<Number>| {
        let text = number.as_ref().map(Number::to_string);
        text.and_then(|text| Decimal::parse(&text).map(Decimal::into_owned))
    };
    match (&min, &max) {
        (None, None) => Err(format!("{}: `range` wants `min`, `max` or both", fields.at("rule"))),
        (Some(low), Some(high)) if bound(&min) > bound(&max) => {
            Err(format!("{}: {low} is above `max`, which is {high}", fields.at("min")))
        }
        _ => Ok(Test::Range { min: bound(&min), max: bound(&max) }),
    }
}

/// The members of one object that were not read yet, and where the object stands.
struct Fields {
    path: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn new(path: &str, value: &Value) -> Result<Self, String> {
        match value {
            Value::Object(rest) => Ok(Self { path: path.to_owned(), rest: rest.clone() }),
            other => Err(format!("`{path}`: wanted an object, found {}", type_of(other))),
        }
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { format!("`{key}`") } else { format!("`{}.{key}`", self.path) }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.rest.remove(key)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wanted(key, "a string", &other)),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<Number>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(other) => Err(self.wanted(key, "a number", &other)),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.wanted(key, "true or false", &other)),
        }
    }

    fn wanted(&self, key: &str, wanted: &str, found: &Value) -> String {
        format!("{}: wanted {wanted}, found {}", self.at(key), type_of(found))
    }

    /// Whatever was not read is a mistake.
    fn end(self, known: &[&str]) -> Result<(), String> {
        match self.rest.keys().next() {
            None => Ok(()),
            Some(key) => {
                Err(format!("{} is unknown here; known are `{}`", self.at(key), known.join("`, `")))
            }
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    json_type(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(config: Value, expected: &str) {
        let message = Settings::read(&config).expect_err("the config is wrong");
        assert_eq!(message, expected, "of {config}");
    }

    #[test]
    fn both_shapes_are_read() {
        let one = json!({"rule": "range", "min": 1, "field": "/a", "invert": true, "strict": true});
        let one = Settings::read(&one).unwrap();
        assert!(one.strict && one.rules.len() == 1 && one.rules[0].invert);
        let list = json!({"rules": [{"rule": "positive"}, {"rule": "regex", "pattern": "x"}]});
        let list = Settings::read(&list).unwrap();
        assert!(!list.strict && list.rules.len() == 2);
        assert!(Settings::read(&json!({"rules": []})).unwrap().rules.is_empty());
        let equal = json!({"rule": "range", "min": 0.5, "max": 0.5});
        assert!(Settings::read(&equal).is_ok());
    }

    #[test]
    fn a_missing_or_unknown_rule_is_named() {
        let known = "wanted `positive`, `regex` or `range`";
        check(json!({}), &format!("`rule` is missing: {known} (or `rules`, a list of them)"));
        check(json!({"rules": [{}]}), &format!("`rules[0].rule` is missing: {known}"));
        check(json!({"rule": "odd"}), &format!("`rule`: there is no rule `odd`; {known}"));
        check(
            json!({"rules": [{"rule": "positive"}, {"rule": ""}]}),
            &format!("`rules[1].rule`: there is no rule ``; {known}"),
        );
        check(
            json!({"rule": "positive", "rules": []}),
            "`rule` and `rules` exclude each other; move the rule into the list",
        );
    }

    #[test]
    fn a_wrong_type_or_field_is_pointed_at() {
        check(json!({"rules": {}}), "`rules`: wanted an array, found an object");
        check(json!({"rules": [1]}), "`rules[0]`: wanted an object, found a number");
        check(
            json!({"rule": "positive", "strict": 1}),
            "`strict`: wanted true or false, found a number",
        );
        check(
            json!({"rules": [{"rule": "range", "min": "1"}]}),
            "`rules[0].min`: wanted a number, found a string",
        );
        check(
            json!({"rule": "positive", "min": 1}),
            "`min` is unknown here; known are `rule`, `field`, `invert`",
        );
        check(
            json!({"rules": [], "field": "/a"}),
            "`field` is unknown here; known are `rules`, `strict`",
        );
        check(
            json!({"rules": [{"rule": "positive", "field": "price"}]}),
            "`rules[0].field`: `price` is no JSON pointer; write `/price`",
        );
    }

    #[test]
    fn a_bad_pattern_is_told_with_its_cause() {
        check(
            json!({"rules": [{"rule": "regex", "pattern": "a(b"}]}),
            "`rules[0].pattern`: `a(b` is no regular expression: unclosed group",
        );
        check(json!({"rule": "regex"}), "`pattern` is missing: `regex` wants one");
        check(
            json!({"rule": "regex", "pattern": "(?:[a-z]{100}){1000}"}),
            "`pattern`: compiles to more than 1048576 bytes; make repetitions shorter",
        );
    }

    #[test]
    fn a_range_must_have_a_bound_and_room() {
        check(json!({"rule": "range"}), "`rule`: `range` wants `min`, `max` or both");
        check(
            json!({"rule": "range", "min": 9007199254740993_i64, "max": 9007199254740992_i64}),
            "`min`: 9007199254740993 is above `max`, which is 9007199254740992",
        );
    }
}
