//! Parses the `config` object into rules. Reports invalid configurations with the path of the
//! mistake.

use std::fmt::Display;

use regex::RegexBuilder;
use serde_json::{Map, Number, Value};

use crate::decimal::Decimal;
use crate::pointer::Pointer;
use crate::rule::{Condition, Rule, json_type};

/// Maximum size of a compiled pattern in bytes.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;

/// Maximum size in bytes of the tables that a search fills.
const MAX_PATTERN_CACHE_BYTES: usize = 1024 * 1024;

/// Parsed configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) rules: Vec<Rule>,
    pub(crate) strict: bool,
}

impl Settings {
    /// Parses a config with one rule, or with a list of `rules`.
    ///
    /// # Errors
    ///
    /// A message for people that names the invalid field.
    pub(crate) fn read(config: &Value) -> Result<Self, String> {
        let mut top = Fields::new("", config)?;
        let strict = top.flag("strict")?;
        let Some(list) = top.take("rules") else {
            return Ok(Self { rules: vec![rule(top)?], strict });
        };
        if top.unread.contains_key("rule") {
            return Err("`rule` and `rules` are mutually exclusive".into());
        }
        top.reject_unknown(&["rules", "strict"])?;
        let Value::Array(list) = list else {
            return Err(format!("`rules`: expected an array, found {}", type_of(&list)));
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
        let alternative = if fields.path.is_empty() { ", or a list `rules` instead" } else { "" };
        let expected = "`positive`, `regex` or `range`";
        return Err(format!("{} is missing: expected {expected}{alternative}", fields.at("rule")));
    };
    let (condition, allowed): (_, &[&str]) = match name.as_str() {
        "positive" => (Condition::Positive, &["rule", "field", "invert"]),
        "regex" => (regex(&mut fields)?, &["rule", "pattern", "field", "invert"]),
        "range" => (range(&mut fields)?, &["rule", "min", "max", "field", "invert"]),
        other => {
            return Err(format!(
                "{}: unknown rule `{other}`: expected `positive`, `regex` or `range`",
                fields.at("rule")
            ));
        }
    };
    let field = fields.text("field")?.unwrap_or_default();
    let field =
        Pointer::parse(&field).map_err(|message| format!("{}: {message}", fields.at("field")))?;
    let invert = fields.flag("invert")?;
    fields.reject_unknown(allowed)?;
    Ok(Rule { condition, field, invert })
}

fn regex(fields: &mut Fields) -> Result<Condition, String> {
    let Some(pattern) = fields.text("pattern")? else {
        return Err(format!("{} is missing: rule `regex` requires it", fields.at("pattern")));
    };
    RegexBuilder::new(&pattern)
        .size_limit(MAX_PATTERN_BYTES)
        .dfa_size_limit(MAX_PATTERN_CACHE_BYTES)
        .build()
        .map(Condition::Regex)
        .map_err(|error| {
            let at = fields.at("pattern");
            match error {
                regex::Error::CompiledTooBig(limit) => {
                    format!("{at}: pattern too large: it compiles to more than {limit} bytes")
                }
                // The text shows the pattern on several lines; the last one is the cause.
                other => format!("{at}: invalid regular expression `{pattern}`: {}", cause(&other)),
            }
        })
}

fn cause(error: &impl Display) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn range(fields: &mut Fields) -> Result<Condition, String> {
    let (min, max) = (fields.number("min")?, fields.number("max")?);
    let bound = |number: &Option<Number>| {
        let text = number.as_ref().map(Number::to_string);
        text.and_then(|text| Decimal::parse(&text).map(Decimal::into_owned))
    };
    match (&min, &max) {
        (None, None) => {
            Err(format!("{}: rule `range` requires `min`, `max` or both", fields.at("rule")))
        }
        (Some(low), Some(high)) if bound(&min) > bound(&max) => {
            Err(format!("{}: {low} is greater than `max` ({high})", fields.at("min")))
        }
        _ => Ok(Condition::Range { min: bound(&min), max: bound(&max) }),
    }
}

/// Members of an object that were not read yet, with the path of the object.
struct Fields {
    path: String,
    unread: Map<String, Value>,
}

impl Fields {
    fn new(path: &str, value: &Value) -> Result<Self, String> {
        match value {
            Value::Object(unread) => Ok(Self { path: path.to_owned(), unread: unread.clone() }),
            other => Err(format!("`{path}`: expected an object, found {}", type_of(other))),
        }
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { format!("`{key}`") } else { format!("`{}.{key}`", self.path) }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.unread.remove(key)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.type_error(key, "a string", &other)),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<Number>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(other) => Err(self.type_error(key, "a number", &other)),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.type_error(key, "true or false", &other)),
        }
    }

    fn type_error(&self, key: &str, expected: &str, found: &Value) -> String {
        format!("{}: expected {expected}, found {}", self.at(key), type_of(found))
    }

    /// Rejects members that were not read.
    fn reject_unknown(self, allowed: &[&str]) -> Result<(), String> {
        match self.unread.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!(
                "{} is unknown: expected one of `{}`",
                self.at(key),
                allowed.join("`, `")
            )),
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
        let message = Settings::read(&config).expect_err("invalid config");
        assert_eq!(message, expected, "of {config}");
    }

    #[test]
    fn single_rule_and_list_are_parsed() {
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
    fn missing_or_unknown_rule_is_reported() {
        let known = "expected `positive`, `regex` or `range`";
        check(json!({}), &format!("`rule` is missing: {known}, or a list `rules` instead"));
        check(json!({"rules": [{}]}), &format!("`rules[0].rule` is missing: {known}"));
        check(json!({"rule": "odd"}), &format!("`rule`: unknown rule `odd`: {known}"));
        check(
            json!({"rules": [{"rule": "positive"}, {"rule": ""}]}),
            &format!("`rules[1].rule`: unknown rule ``: {known}"),
        );
        check(
            json!({"rule": "positive", "rules": []}),
            "`rule` and `rules` are mutually exclusive",
        );
    }

    #[test]
    fn wrong_type_or_unknown_field_is_reported_with_path() {
        check(json!({"rules": {}}), "`rules`: expected an array, found an object");
        check(json!({"rules": [1]}), "`rules[0]`: expected an object, found a number");
        check(
            json!({"rule": "positive", "strict": 1}),
            "`strict`: expected true or false, found a number",
        );
        check(
            json!({"rules": [{"rule": "range", "min": "1"}]}),
            "`rules[0].min`: expected a number, found a string",
        );
        check(
            json!({"rule": "positive", "min": 1}),
            "`min` is unknown: expected one of `rule`, `field`, `invert`",
        );
        check(
            json!({"rules": [], "field": "/a"}),
            "`field` is unknown: expected one of `rules`, `strict`",
        );
        check(
            json!({"rules": [{"rule": "positive", "field": "price"}]}),
            "`rules[0].field`: invalid JSON pointer `price`: expected `/price`",
        );
    }

    #[test]
    fn invalid_pattern_is_reported_with_its_cause() {
        check(
            json!({"rules": [{"rule": "regex", "pattern": "a(b"}]}),
            "`rules[0].pattern`: invalid regular expression `a(b`: unclosed group",
        );
        check(json!({"rule": "regex"}), "`pattern` is missing: rule `regex` requires it");
        check(
            json!({"rule": "regex", "pattern": "(?:[a-z]{100}){1000}"}),
            "`pattern`: pattern too large: it compiles to more than 1048576 bytes",
        );
    }

    #[test]
    fn range_requires_ordered_bounds() {
        check(json!({"rule": "range"}), "`rule`: rule `range` requires `min`, `max` or both");
        check(
            json!({"rule": "range", "min": 9007199254740993_i64, "max": 9007199254740992_i64}),
            "`min`: 9007199254740993 is greater than `max` (9007199254740992)",
        );
    }
}
