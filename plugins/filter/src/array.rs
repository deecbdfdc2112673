//! Applies rules to a JSON array while parsing it, in one pass without copying elements.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::rule::{Evaluation, json_type};
use crate::settings::Settings;

/// Number of elements between two checks for cancellation.
const ELEMENTS_PER_CANCEL_CHECK: usize = 1024;

/// The reason an array could not be filtered.
#[derive(Debug)]
pub(crate) enum FilterError {
    NotJson(serde_json::Error),
    NotAnArray { found: &'static str },
    WrongType { index: usize, rule: usize, expected: &'static str, found: &'static str },
    Cancelled { index: usize },
}

/// Returns the array of the elements of `input` that pass all rules, each with its original bytes.
pub(crate) fn keep_passing(
    settings: &Settings,
    input: &str,
    is_cancelled: impl Fn() -> bool,
) -> Result<String, FilterError> {
    let mut filter = ArrayFilter { settings, is_cancelled, out: String::from("["), error: None };
    let mut text = serde_json::Deserializer::from_str(input);
    let result = (&mut filter).deserialize(&mut text).and_then(|()| text.end());
    match (filter.error, result) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => {
            filter.out.push(']');
            Ok(filter.out)
        }
        (None, Err(error)) => Err(not_an_array(input, error)),
    }
}

fn not_an_array(input: &str, error: serde_json::Error) -> FilterError {
    match serde_json::from_str::<&RawValue>(input) {
        Ok(value) => FilterError::NotAnArray { found: json_type(value.get()) },
        Err(_) if input.trim_ascii().is_empty() => FilterError::NotAnArray { found: "nothing" },
        Err(_) => FilterError::NotJson(error),
    }
}

struct ArrayFilter<'s, C> {
    settings: &'s Settings,
    is_cancelled: C,
    out: String,
    /// Set before parsing is aborted.
    error: Option<FilterError>,
}

impl<C> ArrayFilter<'_, C> {
    fn keeps(&self, index: usize, element: &RawValue) -> Result<bool, FilterError> {
        for (number, rule) in self.settings.rules.iter().enumerate() {
            match rule.evaluate(element) {
                Evaluation::Passes => {}
                Evaluation::WrongType { expected, found } if self.settings.strict => {
                    return Err(FilterError::WrongType { index, rule: number, expected, found });
                }
                Evaluation::Fails | Evaluation::WrongType { .. } => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl<'de, C: Fn() -> bool> DeserializeSeed<'de> for &mut ArrayFilter<'_, C> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_seq(self)
    }
}

impl<'de, C: Fn() -> bool> Visitor<'de> for &mut ArrayFilter<'_, C> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(element) = elements.next_element::<&RawValue>()? {
            let result = if index % ELEMENTS_PER_CANCEL_CHECK == 0 && (self.is_cancelled)() {
                Err(FilterError::Cancelled { index })
            } else {
                self.keeps(index, element)
            };
            match result {
                Ok(false) => {}
                Ok(true) => {
                    if self.out.len() > 1 {
                        self.out.push(',');
                    }
                    self.out.push_str(element.get());
                }
                Err(error) => {
                    self.error = Some(error);
                    return Err(A::Error::custom("aborted"));
                }
            }
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn keep(config: &Value, input: &str) -> Result<String, FilterError> {
        keep_passing(&Settings::read(config).expect("valid config"), input, || false)
    }

    #[test]
    fn elements_keep_their_bytes() {
        let input = " [ 0.10 ,\n1e400, {\"b\" : 1,  \"a\":2.0},\"\\u00fc\" , [ ], null ] ";
        let kept = keep(&json!({"rules": []}), input).unwrap();
        assert_eq!(kept, "[0.10,1e400,{\"b\" : 1,  \"a\":2.0},\"\\u00fc\",[ ],null]");
    }

    #[test]
    fn deeply_nested_array_is_kept() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(keep(&json!({"rules": []}), &deep).unwrap(), deep);
        let positive = json!({"rule": "positive", "field": "/0/0/0"});
        assert_eq!(keep(&positive, &deep).unwrap(), "[]");
    }

    #[test]
    fn cancelled_call_stops_early() {
        let settings = Settings::read(&json!({"rule": "positive"})).unwrap();
        let input = format!("[1{}]", ",1".repeat(5_000));
        let checks = std::cell::Cell::new(0);
        let error = keep_passing(&settings, &input, || {
            checks.set(checks.get() + 1);
            checks.get() == 3
        });
        assert!(matches!(error, Err(FilterError::Cancelled { index: 2048 })), "{error:?}");
    }

    fn element() -> impl Strategy<Value = String> {
        prop_oneof![
            "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,5})?([eE][-+]?[0-9]{1,4})?",
            any::<String>().prop_map(|text| Value::from(text).to_string()),
            "-?[1-9]".prop_map(|price| format!("{{ \"price\":{price}, \"a\":[] }}")),
            Just("null".to_owned()),
        ]
    }

    fn config() -> impl Strategy<Value = Value> {
        let test = prop_oneof![
            Just(json!({"rule": "positive"})),
            Just(json!({"rule": "positive", "field": "/price"})),
            Just(json!({"rule": "regex", "pattern": "\\pL"})),
            (-9i64..9, 0i64..9).prop_map(|(min, width)| {
                json!({"rule": "range", "min": min, "max": min + width})
            }),
        ];
        (test, any::<bool>()).prop_map(|(mut rule, invert)| {
            rule["invert"] = Value::Bool(invert);
            rule
        })
    }

    fn elements(array: &str) -> Vec<&str> {
        let raw: Vec<&RawValue> = serde_json::from_str(array).expect("array");
        raw.into_iter().map(RawValue::get).collect()
    }

    proptest! {
        #[test]
        fn output_is_a_subsequence_of_the_input(
            inputs in proptest::collection::vec(element(), 0..12),
            rules in proptest::collection::vec(config(), 0..3),
        ) {
            let input = format!("[{}]", inputs.join(" , "));
            let output = keep(&json!({"rules": rules}), &input).unwrap();
            let mut remaining = inputs.iter();
            for kept in elements(&output) {
                prop_assert!(remaining.any(|element| element == kept), "{kept} in {output}");
            }
            let second_run = keep(&json!({"rules": rules}), &output).unwrap();
            prop_assert_eq!(second_run, output);
        }

        #[test]
        fn element_passes_a_rule_or_its_inverse_but_not_both(
            inputs in proptest::collection::vec(element(), 0..12),
            mut rule in config(),
        ) {
            let input = format!("[{}]", inputs.join(","));
            rule["invert"] = Value::Bool(false);
            let passed = keep(&rule, &input).unwrap();
            rule["invert"] = Value::Bool(true);
            let inverted = keep(&rule, &input).unwrap();
            prop_assert!(elements(&passed).len() + elements(&inverted).len() <= inputs.len());
        }

        #[test]
        fn any_text_is_handled(text in any::<String>(), close in "[\\[\\]{}\",:0-9eEn.\\\\-]*") {
            let rules = json!({"rule": "positive", "field": "/0", "strict": true});
            let _ = keep(&rules, &text);
            let _ = keep(&rules, &format!("[{close}]"));
        }
    }
}
