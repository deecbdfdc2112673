//! What a rule says of one element. Rules are made by `settings`, which leaves no bad ones.

use std::borrow::Cow;

use regex::Regex;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::decimal::Decimal;
use crate::pointer::Pointer;

/// One rule of a filter.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) test: Test,
    pub(crate) field: Pointer,
    pub(crate) invert: bool,
}

/// What is asked of the value that the rule looks at.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    /// A number greater than zero.
    Positive,
    /// A string in which the pattern is found.
    Regex(Regex),
    /// A number from `min` to `max`, both included.
    Range { min: Option<Decimal<'static>>, max: Option<Decimal<'static>> },
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Verdict {
    Passes,
    Fails,
    /// The rule cannot be asked of such a value, inverted or not.
    WrongType {
        wanted: &'static str,
        found: &'static str,
    },
}

impl Rule {
    /// Looks at one element.
    pub(crate) fn judge(&self, element: &RawValue) -> Verdict {
        let Some(value) = self.field.find(element) else {
            return Verdict::WrongType { wanted: self.test.wants(), found: "nothing" };
        };
        match self.test.passes(value.get()) {
            Some(passes) if passes != self.invert => Verdict::Passes,
            Some(_) => Verdict::Fails,
            None => Verdict::WrongType { wanted: self.test.wants(), found: json_type(value.get()) },
        }
    }
}

impl Test {
    /// Its name in the config.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Regex(_) => "regex",
            Self::Range { .. } => "range",
        }
    }

    const fn wants(&self) -> &'static str {
        match self {
            Self::Positive | Self::Range { .. } => "a number",
            Self::Regex(_) => "a string",
        }
    }

    /// None where the value is of a type that it cannot be asked of.
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

/// The type of a JSON text with its article, told by how it starts.
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

/// The string that a JSON text spells; none for other types and for halves of surrogate pairs.
fn string(text: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(text).ok().map(|Borrowed(string)| string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(test: &Test, passing: &[&str], failing: &[&str], wrong: &[&str]) {
        let judge = |invert, element: &str| {
            let rule = Rule { test: test.clone(), field: Pointer::default(), invert };
            rule.judge(serde_json::from_str(element).unwrap())
        };
        for element in passing {
            assert_eq!(judge(false, element), Verdict::Passes, "{element}");
            assert_eq!(judge(true, element), Verdict::Fails, "{element}, inverted");
        }
        for element in failing {
            assert_eq!(judge(false, element), Verdict::Fails, "{element}");
            assert_eq!(judge(true, element), Verdict::Passes, "{element}, inverted");
        }
        for element in wrong {
            let expected = Verdict::WrongType { wanted: test.wants(), found: json_type(element) };
            assert_eq!(judge(false, element), expected, "{element}");
            assert_eq!(judge(true, element), expected, "{element}, inverted");
        }
    }

    fn bound(text: &'static str) -> Option<Decimal<'static>> {
        Decimal::parse(text)
    }

    #[test]
    fn positive_is_greater_than_zero() {
        check(
            &Test::Positive,
            &["1", "0.10", "1e400", "1e-400", "18446744073709551616"],
            &["0", "-0", "-0.0", "-1", "-1e400", "0e9"],
            &["\"1\"", "true", "null", "[1]", "{}"],
        );
    }

    #[test]
    fn regex_is_searched_for_in_decoded_strings() {
        check(
            &Test::Regex(Regex::new("^ü.\\p{Greek}?$").unwrap()),
            &["\"üb\"", r#""\u00fcb""#, r#""üb\u03b1""#, r#""ü\\""#],
            &["\"\"", "\"aüb\"", r#""ü\n""#],
            &["1", "null", r#""\ud800""#, "[\"üb\"]"],
        );
    }

    #[test]
    fn range_takes_both_its_ends() {
        check(
            &Test::Range { min: bound("-1.5"), max: bound("9007199254740992") },
            &["-1.5", "-1.50", "0", "9007199254740992", "9.007199254740992e15"],
            &["-1.51", "9007199254740993", "1e400", "-1e400"],
            &["\"0\"", "[]"],
        );
        check(&Test::Range { min: bound("0.1"), max: None }, &["0.1", "1e999"], &["0.09"], &[]);
        check(&Test::Range { min: None, max: bound("0.1") }, &["-1e999"], &["0.11"], &[]);
    }
}
