//! JSON values with their paths, so that every error names its location.

use serde_json::{Map, Value};

use super::{CapabilitiesError, MAX_NAME_BYTES, MAX_TYPES};

/// Characters shown of an invalid text, or of a key in a path.
const MAX_SHOWN_CHARS: usize = 40;

/// A value and its path; `None` stands for a missing field.
pub(super) struct Field<'v> {
    path: String,
    value: Option<&'v Value>,
}

impl<'v> Field<'v> {
    pub(super) fn root(value: &'v Value) -> Self {
        Self { path: String::new(), value: Some(value) }
    }

    /// Returns the value, unless it is missing or `null`: Go encodes an empty list as `null`.
    pub(super) fn given(&self) -> Option<&'v Value> {
        self.value.filter(|value| !value.is_null())
    }

    /// Returns the field `name` of an object; missing if this is not an object.
    pub(super) fn field(&self, name: &str) -> Field<'v> {
        let plain = |char: char| char.is_alphanumeric() || "-_/.".contains(char);
        let name_shown = match name.chars().count() {
            1..=MAX_SHOWN_CHARS if name.chars().all(plain) => name.to_owned(),
            _ => quoted(name, MAX_SHOWN_CHARS),
        };
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{name_shown}", self.path);
        Field { path, value: self.value.and_then(|value| value.get(name)) }
    }

    /// Returns an error with this path; `found` begins with a verb.
    pub(super) fn wrong(&self, found: &str, expected: &str) -> CapabilitiesError {
        let (path, found, expected) = (self.path.clone(), found.to_owned(), expected.to_owned());
        CapabilitiesError { path, found, expected, hint: None }
    }

    /// Returns the error that the value has another type.
    pub(super) fn wrong_type(&self, expected: &str) -> CapabilitiesError {
        let found = match self.value {
            None => "is missing".to_owned(),
            Some(Value::Array(_)) => "is a list".to_owned(),
            Some(Value::Object(_)) => "is an object".to_owned(),
            Some(Value::String(text)) => format!("is {}", quoted(text, MAX_SHOWN_CHARS)),
            Some(other) => format!("is {other}"),
        };
        self.wrong(&found, expected)
    }

    pub(super) fn object(
        &self,
        expected: &str,
    ) -> Result<&'v Map<String, Value>, CapabilitiesError> {
        self.value.and_then(Value::as_object).ok_or_else(|| self.wrong_type(expected))
    }

    pub(super) fn text(&self, expected: &str) -> Result<&'v str, CapabilitiesError> {
        self.value.and_then(Value::as_str).ok_or_else(|| self.wrong_type(expected))
    }

    /// Returns a name that is not empty and not too long.
    pub(super) fn name(&self, expected: &str) -> Result<String, CapabilitiesError> {
        let text = self.text(expected)?;
        if text.trim().is_empty() {
            return Err(self.wrong_type(expected));
        }
        self.check_length(text)?;
        Ok(text.to_owned())
    }

    /// Returns a name, or `None` if the field is missing.
    pub(super) fn name_if_given(
        &self,
        expected: &str,
    ) -> Result<Option<String>, CapabilitiesError> {
        self.given().map(|_| self.name(expected)).transpose()
    }

    /// Returns the elements of a list; empty if it is missing or `null`.
    pub(super) fn elements(&self, expected: &str) -> Result<Vec<Field<'v>>, CapabilitiesError> {
        let Some(value) = self.given() else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.wrong_type(expected))?;
        if list.len() > MAX_TYPES {
            let found = format!("has {} entries", list.len());
            return Err(self.wrong(&found, &format!("at most {MAX_TYPES}")));
        }
        let element =
            |(at, value)| Field { path: format!("{}[{at}]", self.path), value: Some(value) };
        Ok(list.iter().enumerate().map(element).collect())
    }

    /// Returns the names in a list; empty if it is missing or `null`.
    pub(super) fn names(&self, expected: &str) -> Result<Vec<String>, CapabilitiesError> {
        let each = "a name, a non-empty string";
        self.elements(expected)?.iter().map(|element| element.name(each)).collect()
    }

    /// Rejects a key or a text that is too long for a name.
    pub(super) fn check_length(&self, name: &str) -> Result<(), CapabilitiesError> {
        if name.len() <= MAX_NAME_BYTES {
            return Ok(());
        }
        let found = format!("has a name of {} bytes", name.len());
        Err(self.wrong(&found, &format!("at most {MAX_NAME_BYTES}")))
    }
}

/// Returns the first `max_chars` characters of `text`, quoted, with invisible ones escaped.
pub(super) fn quoted(text: &str, max_chars: usize) -> String {
    let mut left = text.chars();
    let mut shown: String = left.by_ref().take(max_chars).collect();
    if left.next().is_some() {
        shown.push('…');
    }
    format!("{shown:?}")
}
