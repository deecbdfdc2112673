//! JSON pointers (RFC 6901) into text: finds a member without reading the rest into values,
//! so that what is found is still the text that came.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The way from an element to one of its members; the empty one leads to the element itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pointer {
    steps: Vec<String>,
}

impl Pointer {
    /// Reads a pointer such as `/price` or `/tags/0`; otherwise says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Some(steps) = text.strip_prefix('/') else {
            return Err(format!("`{text}` is no JSON pointer; write `/{text}`"));
        };
        let steps = steps.split('/').map(|step| unescape(step, text)).collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    /// The member of `element` that it leads to, if there is one.
    ///
    /// Of several members with the same name, the last one counts.
    pub(crate) fn find<'a>(&self, element: &'a RawValue) -> Option<&'a RawValue> {
        self.steps.iter().try_fold(element, |inside, name| {
            let mut text = serde_json::Deserializer::from_str(inside.get());
            // Numbers and strings have no members; they end here as errors.
            Step { name }.deserialize(&mut text).ok().flatten()
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps
            .iter()
            .try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

fn unescape(step: &str, pointer: &str) -> Result<String, String> {
    let mut pieces = step.split('~');
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (sign, rest) = match piece.as_bytes().first() {
            Some(b'0') => ('~', &piece[1..]),
            Some(b'1') => ('/', &piece[1..]),
            _ => return Err(format!("`{pointer}` holds a bare `~`; write `~0` for `~`")),
        };
        name.push(sign);
        name.push_str(rest);
    }
    Ok(name)
}

/// One step from an object or array to a member.
struct Step<'p> {
    name: &'p str,
}

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Self::Value, D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_wanted) = members.next_key_seed(NameIs(self.name))? {
            if is_wanted {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut left = index(self.name);
        let mut found = None;
        while let Some(member) = members.next_element()? {
            if left == Some(0) {
                found = Some(member);
            }
            left = left.and_then(|left| left.checked_sub(1));
        }
        Ok(found)
    }
}

/// An index has no leading zeros and no sign; `-`, the element after the last, is never there.
fn index(name: &str) -> Option<usize> {
    let is_plain = name == "0" || !name.starts_with(['0', '+']);
    is_plain.then(|| name.parse().ok()).flatten()
}

/// Compares a name in place of building it.
struct NameIs<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for NameIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<bool, D::Error> {
        text.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[track_caller]
    fn check(pointer: &str, element: &str, expected: Option<&str>) {
        let element: &RawValue = serde_json::from_str(element).unwrap();
        let pointer = Pointer::parse(pointer).unwrap();
        assert_eq!(pointer.find(element).map(RawValue::get), expected, "`{pointer}`");
    }

    #[test]
    fn a_pointer_leads_to_the_text_that_came() {
        let element = r#"{"a": {"b": [1.10, {"c":1e400}]}, "": 1, "~/": 2, "a/b": 3, "ü": "x"}"#;
        check("", "7", Some("7"));
        check("/a/b/0", element, Some("1.10"));
        check("/a/b/1/c", element, Some("1e400"));
        check("/", element, Some("1"));
        check("/~0~1", element, Some("2"));
        check("/a~1b", element, Some("3"));
        check("/ü", element, Some("\"x\""));
        check("/a", r#"{"\u0061": 1}"#, Some("1"));
    }

    #[test]
    fn what_is_not_there_is_none() {
        for pointer in ["/b", "/a/x", "/a/2", "/a/-", "/a/00", "/a/+1", "/a/-1", "/a/0/0"] {
            check(pointer, r#"{"a": [1, 2]}"#, None);
        }
        check("/a", "1e400", None);
        check("/a", "\"a\"", None);
        check("/a", "null", None);
        check("/18446744073709551616", "[1]", None);
    }

    #[test]
    fn of_members_with_one_name_the_last_counts() {
        check("/a", r#"{"a": 1, "b": 2, "a": 3}"#, Some("3"));
    }

    #[test]
    fn a_mistake_in_a_pointer_is_named() {
        let message = |pointer| Pointer::parse(pointer).unwrap_err();
        assert_eq!(message("price"), "`price` is no JSON pointer; write `/price`");
        assert_eq!(message("/a~"), "`/a~` holds a bare `~`; write `~0` for `~`");
        assert_eq!(message("/~2"), "`/~2` holds a bare `~`; write `~0` for `~`");
    }

    proptest! {
        #[test]
        fn a_pointer_finds_what_serde_json_finds(pointer in "(/([ab]|0|1|~0|~1|ü)?){0,4}") {
            let text = r#"{"a":[{"b":1,"ü":[2]},3],"b":{"":{"~":4},"/":5,"0":6},"":[7]}"#;
            let value: Value = serde_json::from_str(text).unwrap();
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            let parsed = Pointer::parse(&pointer).unwrap();
            let found = parsed.find(raw).map(|found| serde_json::from_str(found.get()).unwrap());
            prop_assert_eq!(found.as_ref(), value.pointer(&pointer));
            prop_assert_eq!(parsed.to_string(), pointer);
        }
    }
}
