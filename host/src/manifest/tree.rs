//! Text to a tree of JSON with places, strictly: no comments, trailing commas or double keys.
//! Knows no field of a manifest.

use std::cell::RefCell;
use std::collections::HashMap;

use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::ParseError;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::IgnoredAny;

use crate::error::manifest::{ManifestError, Problem};

/// Most bytes of a manifest's text.
pub(crate) const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// Most objects and lists inside one another; the readers of JSON are recursive.
pub(crate) const NESTING_DEPTH_MAX: usize = 64;

/// Most characters of a value or key that a message repeats.
const SHOWN_CHARS_MAX: usize = 40;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// What jsonc-parser calls JSON without any extension.
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

/// A text and the name of its file: makes mistakes that tell their place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'t> {
    text: &'t str,
    file: &'t str,
}

/// The mistakes that were found in a text so far.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(RefCell<Vec<ManifestError>>);

impl Mistakes {
    pub(crate) fn note(&self, error: ManifestError) {
        self.0.borrow_mut().push(error);
    }

    /// Returns the value, or notes why there is none.
    pub(crate) fn take<T>(&self, read: Result<T, ManifestError>) -> Option<T> {
        read.map_err(|error| self.note(error)).ok()
    }

    /// Returns the value if there was no mistake at all.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ManifestError> {
        match (ManifestError::join(self.0.into_inner()), value) {
            (None, Some(value)) => Ok(value),
            (Some(error), _) => Err(error),
            (None, None) => Err(ManifestError::new(
                "",
                None,
                "",
                Problem::NotJson { reason: "nothing was read".to_owned() },
            )),
        }
    }
}

impl<'t> Source<'t> {
    /// The text without its byte order mark; `file` is only a label.
    pub(crate) fn new(text: &'t str, file: &'t str) -> Self {
        Self { text: without_mark(text), file }
    }

    /// The mistake `problem` of the field `path`, at the byte `offset`.
    pub(crate) fn mistake(&self, offset: usize, path: &str, problem: Problem) -> ManifestError {
        ManifestError::new(self.file, Some(place(self.text, offset)), path, problem)
    }

    /// Reads the text into a tree.
    pub(crate) fn tree(&self) -> Result<Value<'t>, ManifestError> {
        if self.text.len() > MANIFEST_BYTES_MAX {
            let (bytes, bytes_max) = (self.text.len(), MANIFEST_BYTES_MAX);
            let problem = Problem::TooLong { bytes, bytes_max };
            return Err(ManifestError::new(self.file, None, "", problem));
        }
        if let Some(offset) = too_deep(self.text) {
            let problem = Problem::TooDeep { depth_max: NESTING_DEPTH_MAX };
            return Err(self.mistake(offset, "", problem));
        }
        let parsed = parse_to_ast(self.text, &CollectOptions::default(), &STRICT)
            .map_err(|error| self.not_json(error.range().start, reason(&error)))?;
        let tree = parsed.value.ok_or_else(|| self.not_json(0, "nothing is there".to_owned()))?;
        // jsonc-parser lets some texts pass that are not JSON, such as raw control characters.
        if let Err(error) = serde_json::from_str::<IgnoredAny>(self.text) {
            return Err(self.not_json(offset_of(self.text, &error), strict_reason(&error)));
        }
        self.refuse_doubles(&tree, "")?;
        Ok(tree)
    }

    fn not_json(&self, offset: usize, reason: String) -> ManifestError {
        self.mistake(offset, "", Problem::NotJson { reason })
    }

    fn refuse_doubles(&self, value: &Value<'_>, path: &str) -> Result<(), ManifestError> {
        match value {
            Value::Object(object) => {
                let mut first_of = HashMap::with_capacity(object.properties.len());
                for property in &object.properties {
                    let path = join(path, property.name.as_str());
                    if let Some(first) = first_of.insert(property.name.as_str(), key_at(property)) {
                        let (first_line, _) = place(self.text, first);
                        let (second_line, _) = place(self.text, key_at(property));
                        let problem = Problem::Duplicate { first_line, second_line };
                        return Err(self.mistake(key_at(property), &path, problem));
                    }
                    self.refuse_doubles(&property.value, &path)?;
                }
                Ok(())
            }
            Value::Array(list) => list.elements.iter().enumerate().try_for_each(|(at, element)| {
                self.refuse_doubles(element, &format!("{path}[{at}]"))
            }),
            _ => Ok(()),
        }
    }

    /// The same value as `serde_json` has it; `path` is told when a number is out of range.
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
                    wanted: "a number that fits 64 bits".to_owned(),
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

    /// The same object as `serde_json` has it.
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

/// Line and column of what the JSON pointer names in `text`, or of its nearest parent there.
///
/// `None` when `text` is no manifest that could be read.
pub(crate) fn position_of(text: &str, pointer: &str) -> Option<(usize, usize)> {
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
    Some(place(source.text, value.start()))
}

/// The text behind the byte order mark, if there is one.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Where a property's name starts.
pub(crate) fn key_at(property: &ObjectProp<'_>) -> usize {
    property.range.start
}

/// `path` with `key` behind it, as messages tell it.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$');
    if key.is_empty() || key.len() > SHOWN_CHARS_MAX || !key.chars().all(plain) {
        format!("{path}[{}]", quoted(key))
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A value in few characters, as messages tell what was found.
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

/// `text` in quotes, escaped and shortened.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Line and column, in characters and from 1, of the byte `offset`.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// Where the text first nests too deep; never recurses, so it never overflows the stack.
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
        if depth > NESTING_DEPTH_MAX {
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
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// The byte that `serde_json` complains about.
///
/// It tells a control character by the bytes before it, anything else by a column from 1.
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
