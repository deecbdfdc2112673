//! Reads the values of an object by the table of its fields, and records each mistake with its
//! position. Knows no fields itself.

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;

use super::entries::{Entries, check_decimal};
use super::fields::{self, Field, Presence, Shape};
use super::name::nearest;
use super::rules::{self, Expected};
use super::tree::{Mistakes, Source, found, join, key_at};
use super::words::Kind;
use crate::error::{ManifestError, Problem};

/// An object with the table of its fields.
pub(crate) struct Fields<'t> {
    pub(crate) source: Source<'t>,
    pub(crate) object: &'t Object<'t>,
    pub(crate) table: &'static [Field],
    pub(crate) path: String,
    pub(crate) mistakes: &'t Mistakes,
}

impl<'t> Fields<'t> {
    /// Records unknown fields as mistakes.
    pub(crate) fn new(
        source: Source<'t>,
        object: &'t Object<'t>,
        table: &'static [Field],
        path: String,
        mistakes: &'t Mistakes,
    ) -> Self {
        for property in &object.properties {
            let key = property.name.as_str();
            if fields::is_ignored(key) || fields::find(table, key).is_some() {
                continue;
            }
            let known: Vec<_> = table.iter().map(|field| field.name).collect();
            let nearest = nearest(key, known.iter().copied());
            let problem = Problem::Unknown { nearest, known };
            mistakes.record(source.mistake(key_at(property), &join(&path, key), problem));
        }
        Self { source, object, table, path, mistakes }
    }

    /// Records fields of the other kind, and missing fields that `kind` requires.
    pub(crate) fn check_kind(&self, kind: Kind) {
        for field in self.table {
            let (Presence::OnlyFor(only) | Presence::RequiredFor(only)) = field.presence else {
                continue;
            };
            match self.object.get(field.name) {
                Some(property) if only != kind => {
                    let problem = Problem::OnlyFor { kind: only.as_str(), other: kind.as_str() };
                    let (at, path) = (key_at(property), join(&self.path, field.name));
                    self.mistakes.record(self.source.mistake(at, &path, problem));
                }
                None if only == kind && matches!(field.presence, Presence::RequiredFor(_)) => {
                    self.mistakes.record(self.missing(field));
                }
                _ => {}
            }
        }
    }

    pub(crate) fn field(&self, name: &str) -> &'static Field {
        fields::find(self.table, name).expect("every field that is read is in the table")
    }

    pub(crate) fn get(&self, name: &str) -> Option<FieldValue<'t>> {
        let field = self.field(name);
        let value = &self.object.get(name)?.value;
        Some(FieldValue { source: self.source, field, value, path: join(&self.path, name) })
    }

    pub(crate) fn required(&self, name: &str) -> Result<FieldValue<'t>, ManifestError> {
        self.get(name).ok_or_else(|| self.missing(self.field(name)))
    }

    pub(crate) fn missing(&self, field: &Field) -> ManifestError {
        let problem = Problem::Missing { expected: field.expected.to_owned() };
        self.source.mistake(self.object.range.start, &join(&self.path, field.name), problem)
    }

    pub(crate) fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&FieldValue<'t>) -> Result<T, ManifestError>,
    ) -> Result<Option<T>, ManifestError> {
        self.get(name).map(|value| read(&value)).transpose()
    }

    pub(crate) fn optional_string(&self, name: &str) -> Result<Option<String>, ManifestError> {
        self.optional(name, FieldValue::string)
    }

    pub(crate) fn strings(&self, name: &str) -> Result<Vec<String>, ManifestError> {
        let Some(value) = self.get(name) else {
            return Ok(Vec::new());
        };
        value.elements()?.iter().map(FieldValue::string).collect()
    }

    /// Returns one of the field's words, or the default.
    pub(crate) fn word<T: Default>(
        &self,
        name: &str,
        from_word: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ManifestError> {
        let Some(value) = self.get(name) else {
            return Ok(T::default());
        };
        value.parse_string(|text| from_word(text).ok_or(None))
    }
}

/// A value and its field.
pub(crate) struct FieldValue<'t> {
    pub(crate) source: Source<'t>,
    pub(crate) field: &'static Field,
    pub(crate) value: &'t Value<'t>,
    pub(crate) path: String,
}

impl<'t> FieldValue<'t> {
    pub(crate) fn error(&self, expected: Expected) -> ManifestError {
        self.error_with(&found(self.value), expected)
    }

    pub(crate) fn error_with(&self, found: &str, expected: Expected) -> ManifestError {
        let nearest = match (&self.field.shape, self.value) {
            (Shape::Words(words), Value::StringLit(text)) => {
                nearest(&text.value, words.iter().copied())
            }
            _ => None,
        };
        let expected = expected.unwrap_or_else(|| self.field.expected.to_owned());
        let problem = Problem::Value { found: found.to_owned(), expected, nearest };
        self.source.mistake(self.value.start(), &self.path, problem)
    }

    /// Applies a rule to the string.
    pub(crate) fn parse_string<T>(
        &self,
        rule: impl Fn(&str) -> Result<T, Expected>,
    ) -> Result<T, ManifestError> {
        let Value::StringLit(text) = self.value else {
            return Err(self.error(None));
        };
        rule(&text.value).map_err(|expected| self.error(expected))
    }

    pub(crate) fn string(&self) -> Result<String, ManifestError> {
        let Value::StringLit(text) = self.value else {
            return Err(self.error(Some("a string".to_owned())));
        };
        Ok(text.value.clone().into_owned())
    }

    pub(crate) fn number(&self) -> Result<u64, ManifestError> {
        let Value::NumberLit(number) = self.value else {
            return Err(self.error(None));
        };
        let number = number.value.parse().map_err(|_| self.error(None))?;
        rules::check_bounds(number, &self.field.shape).map_err(|expected| self.error(expected))
    }

    /// Returns the elements of a list of `sandbox`.
    pub(crate) fn entries(&self, entries: Entries) -> Result<serde_json::Value, ManifestError> {
        let one = |element: &FieldValue<'_>| {
            let json = element.source.json(element.value, &element.path)?;
            entries.check(&json).map_err(|expected| element.error(expected))?;
            Ok(json)
        };
        Ok(serde_json::Value::Array(self.elements()?.iter().map(one).collect::<Result<_, _>>()?))
    }

    /// Returns a number of processors or seconds.
    pub(crate) fn decimal(&self) -> Result<serde_json::Value, ManifestError> {
        let json = self.source.json(self.value, &self.path)?;
        check_decimal(&json).map_err(|expected| self.error(expected))?;
        Ok(json)
    }

    pub(crate) fn flag(&self) -> Result<serde_json::Value, ManifestError> {
        let Value::BooleanLit(flag) = self.value else {
            return Err(self.error(None));
        };
        Ok(flag.value.into())
    }

    pub(crate) fn object(&self) -> Result<&'t Object<'t>, ManifestError> {
        let Value::Object(object) = self.value else {
            return Err(self.error(None));
        };
        Ok(object)
    }

    /// Returns the values of the list, each with its own path.
    pub(crate) fn elements(&self) -> Result<Vec<FieldValue<'t>>, ManifestError> {
        let Value::Array(list) = self.value else {
            return Err(self.error(None));
        };
        let element =
            |(at, value)| FieldValue { value, path: format!("{}[{at}]", self.path), ..*self };
        Ok(list.elements.iter().enumerate().map(element).collect())
    }
}
