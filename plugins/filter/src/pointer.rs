//! Resolves JSON pointers (RFC 6901) in text, without parsing the rest into values, so that the
//! result is the original text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A path from an element to one of its members. The empty path is the element itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pointer {
    steps: Vec<String>,
}

impl Pointer {
    /// Parses a pointer such as `/price` or `/tags/0`.
    ///
    /// # Errors
    ///
    /// A message for people if the pointer is invalid.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Some(steps) = text.strip_prefix('/') else {
            return Err(format!("invalid JSON pointer `{text}`: expected `/{text}`"));
        };
        let steps = steps.split('/').map(|step| unescape(step, text)).collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    /// Returns the member of `element` at this path, if it exists.
    ///
    /// Of several members with the same name, returns the last one.
    pub(crate) fn find<'a>(&self, element: &'a RawValue) -> Option<&'a RawValue> {
        self.steps.iter().try_fold(element, |value, name| {
            let mut text = serde_json::Deserializer::from_str(value.get());
            // Fails for numbers and strings, which have no members.
            FindMember { name }.deserialize(&mut text).ok().flatten()
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
        let (character, rest) = match piece.as_bytes().first() {
            Some(b'0') => ('~', &piece[1..]),
            Some(b'1') => ('/', &piece[1..]),
            _ => {
                return Err(format!(
                    "invalid JSON pointer `{pointer}`: expected `~0` or `~1`, found a bare `~`"
                ));
            }
        };
        name.push(character);
        name.push_str(rest);
    }
    Ok(name)
}

/// Finds a member of an object or array.
struct FindMember<'p> {
    name: &'p str,
}

impl<'de> DeserializeSeed<'de> for FindMember<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Self::Value, D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FindMember<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_match) = members.next_key_seed(NameMatcher(self.name))? {
            if is_match {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut remaining = index(self.name);
        let mut found = None;
        while let Some(member) = members.next_element()? {
            if remaining == Some(0) {
                found = Some(member);
            }
            remaining = remaining.and_then(|remaining| remaining.checked_sub(1));
        }
        Ok(found)
    }
}

/// Parses an index, which has no sign and no leading zeros. `-`, the element after the last, never
/// exists.
fn index(name: &str) -> Option<usize> {
    let is_plain = name == "0" || !name.starts_with(['0', '+']);
    is_plain.then(|| name.parse().ok()).flatten()
}

/// Compares a name without allocating it.
struct NameMatcher<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for NameMatcher<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<bool, D::Error> {
        text.deserialize_str(self)
    }
}

impl Visitor<'_> for NameMatcher<'_> {
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
    fn pointer_finds_the_original_text() {
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
    fn missing_member_is_none() {
        for pointer in ["/b", "/a/x", "/a/2", "/a/-", "/a/00", "/a/+1", "/a/-1", "/a/0/0"] {
            check(pointer, r#"{"a": [1, 2]}"#, None);
        }
        check("/a", "1e400", None);
        check("/a", "\"a\"", None);
        check("/a", "null", None);
        check("/18446744073709551616", "[1]", None);
    }

    #[test]
    fn last_of_duplicate_members_is_found() {
        check("/a", r#"{"a": 1, "b": 2, "a": 3}"#, Some("3"));
    }

    #[test]
    fn invalid_pointer_is_reported() {
        let message = |pointer| Pointer::parse(pointer).unwrap_err();
        assert_eq!(message("price"), "invalid JSON pointer `price`: expected `/price`");
        let bare = "expected `~0` or `~1`, found a bare `~`";
        assert_eq!(message("/a~"), format!("invalid JSON pointer `/a~`: {bare}"));
        assert_eq!(message("/~2"), format!("invalid JSON pointer `/~2`: {bare}"));
    }

    proptest! {
        #[test]
        fn pointer_agrees_with_serde_json(pointer in "(/([ab]|0|1|~0|~1|ü)?){0,4}") {
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
