//! Parses strict JSON into a tree with positions: no comments, trailing commas or duplicate keys.
//! Knows no fields of a manifest.

use std::cell::RefCell;
use std::collections::HashMap;

use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::ParseError;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::IgnoredAny;

use crate::error::{ManifestError, Problem};

/// Maximum bytes of a manifest's text.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// Maximum number of nested objects and lists; JSON parsers are recursive.
pub(crate) const MAX_NESTING_DEPTH: usize = 64;

/// Maximum number of characters of a value or key that a message repeats.
const MAX_SHOWN_CHARS: usize = 40;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The options of jsonc-parser for JSON without extensions.
pub(crate) const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// A text and the name of its file, for errors with positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'t> {
    text: &'t str,
    file: &'t str,
}

/// The mistakes found in a text so far.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(RefCell<Vec<ManifestError>>);

impl Mistakes {
    pub(crate) fn record(&self, error: ManifestError) {
        self.0.borrow_mut().push(error);
    }

    /// Returns the value, or records the error.
    pub(crate) fn take<T>(&self, read: Result<T, ManifestError>) -> Option<T> {
        read.map_err(|error| self.record(error)).ok()
    }

    /// Returns the value, or all mistakes.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ManifestError> {
        match (ManifestError::join(self.0.into_inner()), value) {
            (None, Some(value)) => Ok(value),
            (Some(error), _) => Err(error),
            (None, None) => Err(ManifestError::new(
                "",
                None,
                "",
                Problem::NotJson { reason: "the text is empty".to_owned() },
            )),
        }
    }
}

impl<'t> Source<'t> {
    /// Returns a source without the byte order mark; `file` is only used in messages.
    pub(crate) fn new(text: &'t str, file: &'t str) -> Self {
        Self { text: without_mark(text), file }
    }

    /// Returns the error `problem` of the field `path`, at the byte `offset`.
    pub(crate) fn mistake(&self, offset: usize, path: &str, problem: Problem) -> ManifestError {
        ManifestError::new(self.file, Some(line_and_column(self.text, offset)), path, problem)
    }

    #[cfg(feature = "host-file")]
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// Returns line and column of a value.
    #[cfg(feature = "host-file")]
    pub(crate) fn position(&self, value: &Value<'_>) -> (usize, usize) {
        line_and_column(self.text, value.start())
    }

    /// Parses the text into a tree.
    pub(crate) fn tree(&self) -> Result<Value<'t>, ManifestError> {
        if self.text.len() > MAX_MANIFEST_BYTES {
            let (bytes, max_bytes) = (self.text.len(), MAX_MANIFEST_BYTES);
            let problem = Problem::TooLong { bytes, max_bytes };
            return Err(ManifestError::new(self.file, None, "", problem));
        }
        if let Some(offset) = too_deep(self.text) {
            let problem = Problem::TooDeep { max_depth: MAX_NESTING_DEPTH };
            return Err(self.mistake(offset, "", problem));
        }
        let parsed = parse_to_ast(self.text, &CollectOptions::default(), &STRICT)
            .map_err(|error| self.not_json(error.range().start, reason(&error)))?;
        let tree = parsed.value.ok_or_else(|| self.not_json(0, "the text is empty".to_owned()))?;
        // jsonc-parser accepts some text that is not JSON, such as raw control characters.
        if let Err(error) = serde_json::from_str::<IgnoredAny>(self.text) {
            return Err(self.not_json(offset_of(self.text, &error), strict_reason(&error)));
        }
        self.check_duplicates(&tree, "")?;
        Ok(tree)
    }

    fn not_json(&self, offset: usize, reason: String) -> ManifestError {
        self.mistake(offset, "", Problem::NotJson { reason })
    }

    fn check_duplicates(&self, value: &Value<'_>, path: &str) -> Result<(), ManifestError> {
        match value {
            Value::Object(object) => {
                let mut first_of = HashMap::with_capacity(object.properties.len());
                for property in &object.properties {
                    let path = join(path, property.name.as_str());
                    if let Some(first) = first_of.insert(property.name.as_str(), key_at(property)) {
                        let (first_line, _) = line_and_column(self.text, first);
                        let (second_line, _) = line_and_column(self.text, key_at(property));
                        let problem = Problem::Duplicate { first_line, second_line };
                        return Err(self.mistake(key_at(property), &path, problem));
                    }
                    self.check_duplicates(&property.value, &path)?;
                }
                Ok(())
            }
            Value::Array(list) => list.elements.iter().enumerate().try_for_each(|(at, element)| {
                self.check_duplicates(element, &format!("{path}[{at}]"))
            }),
            _ => Ok(()),
        }
    }

    /// Converts a value to `serde_json`; `path` is for the error of a number that is out of range.
    pub(crate) fn json(
        &self,
        value: &Value<'_>,
        path: &str,
    ) -> Result<serde_json::Value, ManifestError> {
        Ok(match value {
            Value::NullKeyword(_) => serde_json::Value::Null,
            Value::BooleanLit(word) => word.value.into(),
            Value::StringLit(text) => text.value.as_ref().into(),
            Value::NumberLit(number) => {
                let parsed = number.value.parse::<serde_json::Number>();
                let outside = |_| Problem::Value {
                    found: found(value),
                    expected: "a number that fits 64 bits".to_owned(),
                    nearest: None,
                };
                let offset = value.start();
                parsed.map_err(|error| self.mistake(offset, path, outside(error)))?.into()
            }
            Value::Array(list) => {
                let element = |(at, element)| self.json(element, &format!("{path}[{at}]"));
                let elements: Result<_, _> =
                    list.elements.iter().enumerate().map(element).collect();
                serde_json::Value::Array(elements?)
            }
            Value::Object(object) => serde_json::Value::Object(self.json_object(object, path)?),
        })
    }

    /// Converts an object to `serde_json`.
    pub(crate) fn json_object(
        &self,
        object: &Object<'_>,
        path: &str,
    ) -> Result<serde_json::Map<String, serde_json::Value>, ManifestError> {
        let property = |property: &ObjectProp<'_>| {
            let key = property.name.as_str();
            Ok((key.to_owned(), self.json(&property.value, &join(path, key))?))
        };
        object.properties.iter().map(property).collect()
    }
}

/// Returns line and column of the value at a JSON pointer in `text`, or of its nearest parent.
///
/// Returns `None` if `text` is not valid JSON.
pub fn position_of(text: &str, pointer: &str) -> Option<(usize, usize)> {
    let source = Source::new(text, "");
    let tree = source.tree().ok()?;
    let mut value = &tree;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let next = match value {
            Value::Object(object) => object.get(&step).map(|property| &property.value),
            Value::Array(list) => step.parse().ok().and_then(|at: usize| list.elements.get(at)),
            _ => None,
        };
        let Some(next) = next else { break };
        value = next;
    }
    Some(line_and_column(source.text, value.start()))
}

/// Returns the text after the byte order mark, if any.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Returns the offset of a property's name.
pub(crate) fn key_at(property: &ObjectProp<'_>) -> usize {
    property.range.start
}

/// Appends `key` to `path`, for messages.
pub(crate) fn join(path: &str, key: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$');
    if key.is_empty() || key.len() > MAX_SHOWN_CHARS || !key.chars().all(is_plain) {
        format!("{path}[{}]", quoted(key))
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Formats a value in few characters, for messages.
pub(crate) fn found(value: &Value<'_>) -> String {
    match value {
        Value::NullKeyword(_) => "null".to_owned(),
        Value::BooleanLit(word) => word.value.to_string(),
        Value::StringLit(text) => quoted(&text.value),
        Value::NumberLit(number) => shortened(number.value),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Returns `text` in quotes, escaped and shortened.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns line and column of the byte `offset`, in characters and from 1.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// Returns where the text first nests too deep. Does not recurse, so it cannot overflow the stack.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING_DEPTH {
            return Some(offset);
        }
    }
    None
}

fn reason(error: &ParseError) -> String {
    let mut kind = error.kind().to_string();
    if let Some(first) = kind.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    kind
}

fn strict_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let line_and_column = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&line_and_column).unwrap_or(&text).to_owned()
}

/// Returns the offset of an error of `serde_json`.
///
/// It reports a control character by the bytes before it, anything else by a column from 1.
fn offset_of(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let line_start: usize = lines.map(str::len).sum();
    let after = (line_start + error.column()).min(text.len());
    let at_control = text.as_bytes().get(after).is_some_and(u8::is_ascii_control);
    let mut offset = if at_control { after } else { after.saturating_sub(1) };
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}
