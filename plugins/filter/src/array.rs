//! Runs rules over a JSON array while it is read: one pass, no copy but the answer.
//! Knows rules and text; how a refusal reaches the caller is not its business.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::rule::{Verdict, json_type};
use crate::settings::Settings;

/// After how many elements it looks again whether anybody waits for the answer.
const ELEMENTS_PER_LOOK: usize = 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    NotJson(serde_json::Error),
    NotAnArray { found: &'static str },
    WrongType { index: usize, rule: usize, wanted: &'static str, found: &'static str },
    Cancelled { index: usize },
}

/// The array of those elements of `input` that pass all rules, each byte for byte as it came.
pub(crate) fn keep_passing(
    settings: &Settings,
    input: &str,
    is_cancelled: impl Fn() -> bool,
) -> Result<String, Refusal> {
    let mut pass = Pass { settings, is_cancelled, out: String::from("["), refusal: None };
    let mut text = serde_json::Deserializer::from_str(input);
    let result = (&mut pass).deserialize(&mut text).and_then(|()| text.end());
    match (pass.refusal, result) {
        (Some(refusal), _) => Err(refusal),
        (None, Ok(())) => {
            pass.out.push(']');
            Ok(pass.out)
        }
        (None, Err(error)) => Err(not_an_array(input, error)),
    }
}

fn not_an_array(input: &str, error: serde_json::Error) -> Refusal {
    match serde_json::from_str::<&RawValue>(input) {
        Ok(value) => Refusal::NotAnArray { found: json_type(value.get()) },
        Err(_) if input.trim_ascii().is_empty() => Refusal::NotAnArray { found: "nothing" },
        Err(_) => Refusal::NotJson(error),
    }
}

struct Pass<'s, C> {
    settings: &'s Settings,
    is_cancelled: C,
    out: String,
    /// Set just before the reading is broken off.
    refusal: Option<Refusal>,
}

impl<C> Pass<'_, C> {
    fn keeps(&self, index: usize, element: &RawValue) -> Result<bool, Refusal> {
        for (number, rule) in self.settings.rules.iter().enumerate() {
            match rule.judge(element) {
                Verdict::Passes => {}
                Verdict::WrongType { wanted, found } if self.settings.strict => {
                    return Err(Refusal::WrongType { index, rule: number, wanted, found });
                }
                Verdict::Fails | Verdict::WrongType { .. } => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl<'de, C: Fn() -> bool> DeserializeSeed<'de> for &mut Pass<'_, C> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        text.deserialize_seq(self)
    }
}

impl<'de, C: Fn() -> bool> Visitor<'de> for &mut Pass<'_, C> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(element) = elements.next_element::<&RawValue>()? {
            let kept = if index % ELEMENTS_PER_LOOK == 0 && (self.is_cancelled)() {
                Err(Refusal::Cancelled { index })
            } else {
                self.keeps(index, element)
            };
            match kept {
                Ok(false) => {}
                Ok(true) => {
                    if self.out.len() > 1 {
                        self.out.push(',');
                    }
                    self.out.push_str(element.get());
                }
                Err(refusal) => {
                    self.refusal = Some(refusal);
                    return Err(A::Error::custom("broken off"));
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

    fn keep(config: &Value, input: &str) -> Result<String, Refusal> {
        keep_passing(&Settings::read(config).expect("the config is good"), input, || false)
    }

    #[test]
    fn elements_leave_as_they_came() {
        let input = " [ 0.10 ,\n1e400, {\"b\" : 1,  \"a\":2.0},\"\\u00fc\" , [ ], null ] ";
        let kept = keep(&json!({"rules": []}), input).unwrap();
        assert_eq!(kept, "[0.10,1e400,{\"b\" : 1,  \"a\":2.0},\"\\u00fc\",[ ],null]");
    }

    #[test]
    fn an_array_nested_beyond_any_stack_is_passed_on() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(keep(&json!({"rules": []}), &deep).unwrap(), deep);
        let positive = json!({"rule": "positive", "field": "/0/0/0"});
        assert_eq!(keep(&positive, &deep).unwrap(), "[]");
    }

    #[test]
    fn a_cancelled_call_stops_early() {
        let settings = Settings::read(&json!({"rule": "positive"})).unwrap();
        let input = format!("[1{}]", ",1".repeat(5_000));
        let looks = std::cell::Cell::new(0);
        let refusal = keep_passing(&settings, &input, || {
            looks.set(looks.get() + 1);
            looks.get() == 3
        });
        assert!(matches!(refusal, Err(Refusal::Cancelled { index: 2048 })), "{refusal:?}");
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
            (-9i64..9, 0i64..9).prop_map(|(min, room)| {
                json!({"rule": "range", "min": min, "max": min + room})
            }),
        ];
        (test, any::<bool>()).prop_map(|(mut rule, invert)| {
            rule["invert"] = Value::Bool(invert);
            rule
        })
    }

    fn elements(array: &str) -> Vec<&str> {
        let raw: Vec<&RawValue> = serde_json::from_str(array).expect("an array");
        raw.into_iter().map(RawValue::get).collect()
    }

    proptest! {
        #[test]
        fn the_output_is_a_subsequence_of_the_input(
            came in proptest::collection::vec(element(), 0..12),
            rules in proptest::collection::vec(config(), 0..3),
        ) {
            let input = format!("[{}]", came.join(" , "));
            let output = keep(&json!({"rules": rules}), &input).unwrap();
            let mut rest = came.iter();
            for kept in elements(&output) {
                prop_assert!(rest.any(|element| element == kept), "{kept} in {output}");
            }
            let again = keep(&json!({"rules": rules}), &output).unwrap();
            prop_assert_eq!(again, output);
        }

        #[test]
        fn a_rule_and_its_inverse_share_out_what_is_of_its_type(
            came in proptest::collection::vec(element(), 0..12),
            mut rule in config(),
        ) {
            let input = format!("[{}]", came.join(","));
            rule["invert"] = Value::Bool(false);
            let one = keep(&rule, &input).unwrap();
            rule["invert"] = Value::Bool(true);
            let other = keep(&rule, &input).unwrap();
            prop_assert!(elements(&one).len() + elements(&other).len() <= came.len());
        }

        #[test]
        fn any_text_is_kept_or_refused(text in any::<String>(), close in "[\\[\\]{}\",:0-9eEn.\\\\-]*") {
            let rules = json!({"rule": "positive", "field": "/0", "strict": true});
            let _ = keep(&rules, &text);
            let _ = keep(&rules, &format!("[{close}]"));
        }
    }
}
