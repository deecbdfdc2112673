//! Parses TOML into the tree that the reader of manifests reads. Knows no fields.

use std::borrow::Cow;

use jsonc_parser::ast::{
    Array, BooleanLit, NumberLit, Object, ObjectProp, ObjectPropName, StringLit, Value,
};
use jsonc_parser::common::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::error::{ManifestError, Problem};
use crate::tree::{MAX_MANIFEST_BYTES, Mistakes, Source};

/// A parsed text.
pub(super) struct Document<'t> {
    table: Spanned<DeTable<'t>>,
    /// The numbers of the text as JSON, in the order of the tree: TOML has more forms.
    numbers: Vec<String>,
}

impl<'t> Document<'t> {
    /// Parses a text. Records each mistake in its syntax.
    pub(super) fn parse(text: &'t str, source: &Source<'t>, mistakes: &Mistakes) -> Self {
        if text.len() > MAX_MANIFEST_BYTES {
            let (bytes, max_bytes) = (text.len(), MAX_MANIFEST_BYTES);
            let problem = Problem::TooLong { bytes, max_bytes };
            mistakes.record(source.mistake(0, "", problem));
            return Self { table: Spanned::new(0..0, DeTable::new()), numbers: Vec::new() };
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            mistakes.record(not_toml(source, &error));
        }
        let mut numbers = Vec::new();
        collect_in_table(table.get_ref(), &mut numbers);
        Self { table, numbers }
    }

    /// Returns the tree.
    pub(super) fn tree(&self) -> Object<'_> {
        let mut numbers = self.numbers.iter();
        convert_table(self.table.get_ref(), range(&self.table), &mut numbers)
    }
}

fn not_toml(source: &Source<'_>, error: &toml::de::Error) -> ManifestError {
    let offset = error.span().map_or(0, |span| span.start);
    let reason = error.message().lines().next().unwrap_or_default().to_owned();
    source.mistake(offset, "", Problem::NotToml { reason })
}

fn collect_in_table(table: &DeTable<'_>, numbers: &mut Vec<String>) {
    table.iter().for_each(|(_, value)| collect(value.get_ref(), numbers));
}

fn collect(value: &DeValue<'_>, numbers: &mut Vec<String>) {
    match value {
        DeValue::Integer(number) => {
            // What does not fit is not a number of the field.
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            numbers.push(parsed.map_or_else(|_| number.to_string(), |number| number.to_string()));
        }
        DeValue::Float(number) => numbers.push(number.as_str().trim_start_matches('+').to_owned()),
        DeValue::Array(list) => list.iter().for_each(|value| collect(value.get_ref(), numbers)),
        DeValue::Table(table) => collect_in_table(table, numbers),
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

fn convert_table<'d>(
    table: &'d DeTable<'_>,
    range: Range,
    numbers: &mut std::slice::Iter<'d, String>,
) -> Object<'d> {
    let property = |(key, value): (&'d Spanned<Cow<'_, str>>, &'d Spanned<DeValue<'_>>)| {
        let at = self::range(key);
        let name = StringLit { range: at, value: Cow::Borrowed(&**key.get_ref()) };
        let value = convert(value, numbers);
        ObjectProp { range: at, name: ObjectPropName::String(name), value }
    };
    Object { range, properties: table.iter().map(property).collect() }
}

fn convert<'d>(
    value: &'d Spanned<DeValue<'_>>,
    numbers: &mut std::slice::Iter<'d, String>,
) -> Value<'d> {
    let range = range(value);
    match value.get_ref() {
        DeValue::String(text) => {
            Value::StringLit(StringLit { range, value: Cow::Borrowed(&**text) })
        }
        DeValue::Boolean(value) => Value::BooleanLit(BooleanLit { range, value: *value }),
        DeValue::Datetime(time) => {
            Value::StringLit(StringLit { range, value: Cow::Owned(time.to_string()) })
        }
        DeValue::Integer(_) | DeValue::Float(_) => {
            let value = numbers.next().map_or("", String::as_str);
            Value::NumberLit(NumberLit { range, value })
        }
        DeValue::Array(list) => Value::Array(convert_list(list, range, numbers)),
        DeValue::Table(table) => Value::Object(convert_table(table, range, numbers)),
    }
}

fn convert_list<'d>(
    list: &'d DeArray<'_>,
    range: Range,
    numbers: &mut std::slice::Iter<'d, String>,
) -> Array<'d> {
    Array { range, elements: list.iter().map(|value| convert(value, numbers)).collect() }
}

fn range<T>(spanned: &Spanned<T>) -> Range {
    let span = spanned.span();
    Range { start: span.start, end: span.end }
}
