//! Values with their paths, so that every mistake can be told with its place.

use serde_json::{Map, Value};

use super::{NAME_BYTES_MAX, TYPES_MAX, WrongCapabilities};

/// How much of a wrong text, or of a key in a path, is shown.
const SHOWN_CHARS_MAX: usize = 40;

/// A value and where it stands; `None` is a field that is missing.
pub(super) struct Field<'v> {
    path: String,
    value: Option<&'v Value>,
}

impl<'v> Field<'v> {
    pub(super) fn root(value: &'v Value) -> Self {
        Self { path: String::new(), value: Some(value) }
    }

    /// The value, unless it is missing or `null`: Go writes an empty list as `null`.
    pub(super) fn given(&self) -> Option<&'v Value> {
        self.value.filter(|value| !value.is_null())
    }

    /// The field `name` of an object; missing if this is none.
    pub(super) fn field(&self, name: &str) -> Field<'v> {
        let plain = |char: char| char.is_alphanumeric() || "-_/.".contains(char);
        let name_shown = match name.chars().count() {
            1..=SHOWN_CHARS_MAX if name.chars().all(plain) => name.to_owned(),
            _ => quoted(name, SHOWN_CHARS_MAX),
        };
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{name_shown}", self.path);
        Field { path, value: self.value.and_then(|value| value.get(name)) }
    }

    /// A mistake: `found` begins with a verb.
    pub(super) fn wrong(&self, found: &str, wanted: &str) -> WrongCapabilities {
        let (path, found, wanted) = (self.path.clone(), found.to_owned(), wanted.to_owned());
        WrongCapabilities { path, found, wanted }
    }

    /// The mistake that this is something else.
    pub(super) fn unlike(&self, wanted: &str) -> WrongCapabilities {
        let found = match self.value {
            None => "is missing".to_owned(),
            Some(Value::Array(_)) => "is a list".to_owned(),
            Some(Value::Object(_)) => "is an object".to_owned(),
            Some(Value::String(text)) => format!("is {}", quoted(text, SHOWN_CHARS_MAX)),
            Some(other) => format!("is {other}"),
        };
        self.wrong(&found, wanted)
    }

    pub(super) fn object(&self, wanted: &str) -> Result<&'v Map<String, Value>, WrongCapabilities> {
        self.value.and_then(Value::as_object).ok_or_else(|| self.unlike(wanted))
    }

    pub(super) fn text(&self, wanted: &str) -> Result<&'v str, WrongCapabilities> {
        self.value.and_then(Value::as_str).ok_or_else(|| self.unlike(wanted))
    }

    /// A name: not empty, not longer than a name may be.
    pub(super) fn name(&self, wanted: &str) -> Result<String, WrongCapabilities> {
        let text = self.text(wanted)?;
        if text.trim().is_empty() {
            return Err(self.unlike(wanted));
        }
        self.check_length(text)?;
        Ok(text.to_owned())
    }

    /// A name, if one is given.
    pub(super) fn name_if_given(&self, wanted: &str) -> Result<Option<String>, WrongCapabilities> {
        self.given().map(|_| self.name(wanted)).transpose()
    }

    /// Every element of a list; none where it is missing or `null`.
    pub(super) fn elements(&self, wanted: &str) -> Result<Vec<Field<'v>>, WrongCapabilities> {
        let Some(value) = self.given() else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.unlike(wanted))?;
        if list.len() > TYPES_MAX {
            let found = format!("has {} entries", list.len());
            return Err(self.wrong(&found, &format!("at most {TYPES_MAX}")));
        }
        let element =
            |(at, value)| Field { path: format!("{}[{at}]", self.path), value: Some(value) };
        Ok(list.iter().enumerate().map(element).collect())
    }

    /// Every name of a list; none where it is missing or `null`.
    pub(super) fn names(&self, wanted: &str) -> Result<Vec<String>, WrongCapabilities> {
        let each = "a name, a text that is not empty";
        self.elements(wanted)?.iter().map(|element| element.name(each)).collect()
    }

    /// Refuses a key or a text that is longer than a name may be.
    pub(super) fn check_length(&self, name: &str) -> Result<(), WrongCapabilities> {
        if name.len() <= NAME_BYTES_MAX {
            return Ok(());
        }
        let found = format!("has a name of {} bytes", name.len());
        Err(self.wrong(&found, &format!("at most {NAME_BYTES_MAX}")))
    }
}

/// The first `chars_max` characters of `text`, with everything escaped that cannot be seen.
pub(super) fn quoted(text: &str, chars_max: usize) -> String {
    let mut left = text.chars();
    let mut shown: String = left.by_ref().take(chars_max).collect();
    if left.next().is_some() {
        shown.push('…');
    }
    format!("{shown:?}")
}
