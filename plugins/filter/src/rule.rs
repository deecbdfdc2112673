//! Evaluates one rule for one element. `settings` only creates valid rules.

use std::borrow::Cow;

use regex::Regex;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::decimal::Decimal;
use crate::pointer::Pointer;

/// One rule of a filter.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) condition: Condition,
    pub(crate) field: Pointer,
    pub(crate) invert: bool,
}

/// The condition that a rule checks.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// A number greater than zero.
    Positive,
    /// A string in which the pattern is found.
    Regex(Regex),
    /// A number from `min` to `max`, both included.
    Range { min: Option<Decimal<'static>>, max: Option<Decimal<'static>> },
}

/// Result of a rule for one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Evaluation {
    Passes,
    Fails,
    /// The rule does not apply to values of this type, inverted or not.
    WrongType {
        expected: &'static str,
        found: &'static str,
    },
}

impl Rule {
    /// Evaluates the rule for one element.
    pub(crate) fn evaluate(&self, element: &RawValue) -> Evaluation {
        let Some(value) = self.field.find(element) else {
            return Evaluation::WrongType {
                expected: self.condition.expected_type(),
                found: "nothing",
            };
        };
        match self.condition.passes(value.get()) {
            Some(passes) if passes != self.invert => Evaluation::Passes,
            Some(_) => Evaluation::Fails,
            None => Evaluation::WrongType {
                expected: self.condition.expected_type(),
                found: json_type(value.get()),
            },
        }
    }
}

impl Condition {
    /// Returns the name in the config.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Regex(_) => "regex",
            Self::Range { .. } => "range",
        }
    }

    const fn expected_type(&self) -> &'static str {
        match self {
            Self::Positive | Self::Range { .. } => "a number",
            Self::Regex(_) => "a string",
        }
    }

    /// Returns whether the value meets the condition, or `None` if it has the wrong type.
    fn passes(&self, value: &str) -> Option<bool> {
        match self {
            Self::Positive => Some(Decimal::parse(value)?.is_positive()),
            Self::Regex(pattern) => Some(pattern.is_match(&string(value)?)),
            Self::Range { min, max } => {
                let number = Decimal::parse(value)?;
                let from_min = min.as_ref().is_none_or(|min| *min <= number);
                let to_max = max.as_ref().is_none_or(|max| number <= *max);
                Some(from_min && to_max)
            }
        }
    }
}

/// Returns the type of a JSON text, with its article.
pub(crate) fn json_type(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') if string(text).is_none() => "a string that is not Unicode",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) => "a number",
        None => "nothing",
    }
}

/// Parses a JSON string; returns `None` for other types and for unpaired surrogates.
fn string(text: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(text).ok().map(|Borrowed(string)| string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(condition: &Condition, passing: &[&str], failing: &[&str], wrong: &[&str]) {
        let evaluate = |invert, element: &str| {
            let rule = Rule { condition: condition.clone(), field: Pointer::default(), invert };
            rule.evaluate(serde_json::from_str(element).unwrap())
        };
        for element in passing {
            assert_eq!(evaluate(false, element), Evaluation::Passes, "{element}");
            assert_eq!(evaluate(true, element), Evaluation::Fails, "{element}, inverted");
        }
        for element in failing {
            assert_eq!(evaluate(false, element), Evaluation::Fails, "{element}");
            assert_eq!(evaluate(true, element), Evaluation::Passes, "{element}, inverted");
        }
        for element in wrong {
            let expected = Evaluation::WrongType {
                expected: condition.expected_type(),
                found: json_type(element),
            };
            assert_eq!(evaluate(false, element), expected, "{element}");
            assert_eq!(evaluate(true, element), expected, "{element}, inverted");
        }
    }

    fn bound(text: &'static str) -> Option<Decimal<'static>> {
        Decimal::parse(text)
    }

    #[test]
    fn positive_accepts_numbers_greater_than_zero() {
        check(
            &Condition::Positive,
            &["1", "0.10", "1e400", "1e-400", "18446744073709551616"],
            &["0", "-0", "-0.0", "-1", "-1e400", "0e9"],
            &["\"1\"", "true", "null", "[1]", "{}"],
        );
    }

    #[test]
    fn regex_searches_decoded_strings() {
        check(
            &Condition::Regex(Regex::new("^ü.\\p{Greek}?$").unwrap()),
            &["\"üb\"", r#""\u00fcb""#, r#""üb\u03b1""#, r#""ü\\""#],
            &["\"\"", "\"aüb\"", r#""ü\n""#],
            &["1", "null", r#""\ud800""#, "[\"üb\"]"],
        );
    }

    #[test]
    fn range_includes_both_bounds() {
        check(
            &Condition::Range { min: bound("-1.5"), max: bound("9007199254740992") },
            &["-1.5", "-1.50", "0", "9007199254740992", "9.007199254740992e15"],
            &["-1.51", "9007199254740993", "1e400", "-1e400"],
            &["\"0\"", "[]"],
        );
        check(
            &Condition::Range { min: bound("0.1"), max: None },
            &["0.1", "1e999"],
            &["0.09"],
            &[],
        );
        check(&Condition::Range { min: None, max: bound("0.1") }, &["-1e999"], &["0.11"], &[]);
    }
}
