//! Reads the text of one file by the table of fields, into its single values with their places.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use jsonc_parser::ast::{Object, Value};
use serde_json::{Value as Json, json};

use super::fields::HOST_FILE;
use super::interpolate::{Interpolated, Reference, interpolate};
use super::keys::{date, name_pattern, public_key};
use super::setting::{Environment, Origin, Setting};
use super::tree::Document;
use crate::error::{ManifestError, Problem};
use crate::fields::{Field, HostShape, Shape};
use crate::reader::{FieldValue, Fields};
use crate::rules::{self, Expected};
use crate::tree::{Mistakes, Source, join, key_at, quoted};

/// The values of one file, and the files that it includes.
pub(super) struct ParsedFile {
    pub(super) settings: Vec<Setting>,
    pub(super) includes: Vec<Include>,
}

/// A file that another one includes.
pub(super) struct Include {
    pub(super) path: PathBuf,
    pub(super) origin: Origin,
    /// The place as the fields of the including file have it.
    pub(super) field: String,
}

/// Parses the text of `file`.
pub(super) fn parse(
    text: &str,
    file: &Path,
    environment: &Environment<'_>,
) -> Result<ParsedFile, ManifestError> {
    let shown = file.display().to_string();
    let source = Source::new(text, &shown);
    let mistakes = Mistakes::default();
    let document = Document::parse(source.text(), &source, &mistakes);
    // What follows a mistake in the syntax may be read wrongly.
    mistakes.finish(Some(()))?;
    let mistakes = Mistakes::default();
    let tree = document.tree();
    let reader = Reader { source, file, environment, mistakes: &mistakes };
    let mut found = ParsedFile { settings: Vec::new(), includes: Vec::new() };
    reader.object(&tree, HOST_FILE, &[], &mut found.settings);
    found.settings.retain(|setting| {
        if setting.path != ["include"] {
            return true;
        }
        let paths = setting.value.as_array().into_iter().flatten().filter_map(Json::as_str);
        found.includes.extend(paths.enumerate().map(|(at, path)| Include {
            path: path.into(),
            origin: setting.origin.clone(),
            field: format!("include[{at}]"),
        }));
        false
    });
    mistakes.finish(Some(found))
}

/// Returns whether a path leads to bounds of sandboxes, or to a section in them.
pub(super) fn is_in_sandbox(path: &[String]) -> bool {
    let keys: Vec<_> = path.iter().take(3).map(String::as_str).collect();
    matches!(keys[..], ["sandbox", ..] | ["plugins", _, "sandbox"])
}

/// Returns the error of a file that cannot be included.
pub(super) fn not_included(include: &Include, expected: String) -> ManifestError {
    let Origin { file, line, column, .. } = &include.origin;
    let found = quoted(&include.path.display().to_string());
    let problem = Problem::Value { found, expected, nearest: None };
    let file = file.display().to_string();
    ManifestError::new(&file, Some((*line, *column)), &include.field, problem)
}

struct Reader<'r> {
    source: Source<'r>,
    file: &'r Path,
    environment: &'r Environment<'r>,
    mistakes: &'r Mistakes,
}

impl<'r> Reader<'r> {
    /// Returns the folder of the file, which its paths are relative to.
    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    fn object(
        &self,
        object: &'r Object<'r>,
        table: &'static [Field],
        parents: &[String],
        settings: &mut Vec<Setting>,
    ) {
        let path = parents.iter().fold(String::new(), |path, key| join(&path, key));
        let fields = Fields::new(self.source, object, table, path, self.mistakes);
        for field in table {
            let Some(value) = fields.get(field.name) else { continue };
            let path = [parents, &[field.name.to_owned()]].concat();
            self.value(&value, &path, settings);
        }
    }

    fn value(&self, value: &FieldValue<'r>, path: &[String], settings: &mut Vec<Setting>) {
        match &value.field.shape {
            Shape::Object(table) => {
                let Some(object) = self.mistakes.take(value.object()) else { return };
                self.object(object, table, path, settings);
                // An empty section confines a program, or grants no ports.
                if is_in_sandbox(path) && object.properties.is_empty() {
                    settings.push(self.setting(path, json!({}), value.value, false));
                }
            }
            Shape::FreeObject => {
                if self.mistakes.take(value.object()).is_some() {
                    self.config(value.value, path, &value.path, settings);
                }
            }
            Shape::Host(HostShape::Providers) => self.providers(value, path, settings),
            Shape::Host(HostShape::ObjectsByPlugin(table) | HostShape::Keys(table)) => {
                let (name, entries) = match value.field.shape {
                    Shape::Host(HostShape::Keys(_)) => {
                        ("a key's name", "a table with `public_key`")
                    }
                    _ => ("a plugin's name", "a table with the settings of the plugin"),
                };
                let Some(object) = self.mistakes.take(value.object()) else { return };
                for property in &object.properties {
                    let key = property.name.as_str();
                    let at = key_at(property);
                    let path = [path, &[key.to_owned()]].concat();
                    if rules::name(key).is_err() {
                        let expected = form_of_name(name);
                        let problem =
                            Problem::Value { found: quoted(key), expected, nearest: None };
                        self.mistakes.record(self.source.mistake(at, &value.path, problem));
                        continue;
                    }
                    let shown = join(&value.path, key);
                    let entry = FieldValue { value: &property.value, path: shown, ..*value };
                    match &property.value {
                        Value::Object(object) => self.object(object, table, &path, settings),
                        _ => self.mistakes.record(entry.error(Some(entries.to_owned()))),
                    }
                }
            }
            _ => {
                if let Some(setting) = self.mistakes.take(self.leaf(value, path)) {
                    settings.push(setting);
                }
            }
        }
    }

    /// Reads a value other than a table.
    fn leaf(&self, value: &FieldValue<'r>, path: &[String]) -> Result<Setting, ManifestError> {
        let mut is_secret = false;
        let mut path_of = |value: &FieldValue<'_>| {
            let text = value.parse_string(rules::not_blank)?;
            // Paths are shown, though they may have a variable.
            let text = self.interpolated(&text, value, &mut false)?;
            Ok(Json::String(self.folder().join(text).display().to_string()))
        };
        let read =
            match &value.field.shape {
                Shape::Text => value.string()?.into(),
                Shape::Texts => texts(value, |text| Ok(text.to_owned()))?,
                Shape::Patterns(_) => texts(value, granted)?,
                Shape::Words(words) => value
                    .parse_string(|text| words.contains(&text).then(|| text.into()).ok_or(None))?,
                Shape::Pattern(_) => value.parse_string(public_key)?.into(),
                Shape::Host(HostShape::NamePatterns(_)) => texts(value, name_pattern)?,
                Shape::Host(HostShape::Date) => value.parse_string(date)?,
                Shape::Number { .. } => value.number()?.into(),
                Shape::Entries(entries) => value.entries(*entries)?,
                Shape::Decimal => value.decimal()?,
                Shape::Flag => value.flag()?,
                Shape::Host(HostShape::Path) => path_of(value)?,
                Shape::Host(HostShape::Paths) => {
                    let elements = value.elements()?;
                    Json::Array(elements.iter().map(&mut path_of).collect::<Result<_, _>>()?)
                }
                Shape::Host(HostShape::Duration) => value.parse_string(duration)?,
                Shape::Host(HostShape::DurationOrNone) => value.parse_string(|text| {
                    if is_none(text) { Ok(text.into()) } else { duration(text) }
                })?,
                Shape::Host(HostShape::NumberOrNone { min, max }) => match value.value {
                    Value::StringLit(text) if is_none(&text.value) => text.value.as_ref().into(),
                    Value::NumberLit(number) => {
                        let number = number.value.parse().map_err(|_| value.error(None))?;
                        let bounds = Shape::Number { min: *min, max: *max };
                        let number = rules::check_bounds(number, &bounds);
                        number.map_err(|expected| value.error(expected))?.into()
                    }
                    _ => return Err(value.error(None)),
                },
                _ => self.json(value.value, value, &mut is_secret)?,
            };
        Ok(self.setting(path, read, value.value, is_secret))
    }

    fn providers(&self, value: &FieldValue<'r>, path: &[String], settings: &mut Vec<Setting>) {
        let Some(object) = self.mistakes.take(value.object()) else { return };
        for property in &object.properties {
            let key = property.name.as_str();
            let entry =
                FieldValue { value: &property.value, path: join(&value.path, key), ..*value };
            let expected = || Some("a list of plugins".to_owned());
            let names = match entry.value {
                Value::Array(_) => texts(&entry, |text| {
                    plugin_name(text)?;
                    Ok(text.to_owned())
                }),
                _ => Err(entry.error(expected())),
            };
            if let Some(names) = self.mistakes.take(names) {
                let path = [path, &[key.to_owned()]].concat();
                settings.push(self.setting(&path, names, entry.value, false));
            }
        }
    }

    /// Reads the values of a plugin's config, each with its own place.
    fn config(
        &self,
        value: &'r Value<'r>,
        path: &[String],
        shown: &str,
        settings: &mut Vec<Setting>,
    ) {
        match value {
            Value::Object(object) if !object.properties.is_empty() => {
                for property in &object.properties {
                    let key = property.name.as_str();
                    let path = [path, &[key.to_owned()]].concat();
                    self.config(&property.value, &path, &join(shown, key), settings);
                }
            }
            _ => {
                let field = HOST_FILE.last().expect("the table is not empty");
                let place =
                    FieldValue { source: self.source, field, value, path: shown.to_owned() };
                let mut is_secret = false;
                let read = self.json(value, &place, &mut is_secret);
                if let Some(read) = self.mistakes.take(read) {
                    settings.push(self.setting(path, read, value, is_secret));
                }
            }
        }
    }

    /// Converts a value of a config, with the references in its texts replaced.
    fn json(
        &self,
        value: &Value<'_>,
        place: &FieldValue<'_>,
        is_secret: &mut bool,
    ) -> Result<Json, ManifestError> {
        let mut json = self.source.json(value, &place.path)?;
        self.replace(&mut json, place, is_secret)?;
        Ok(json)
    }

    fn replace(
        &self,
        json: &mut Json,
        place: &FieldValue<'_>,
        is_secret: &mut bool,
    ) -> Result<(), ManifestError> {
        match json {
            Json::String(text) => *text = self.interpolated(text, place, is_secret)?,
            Json::Array(list) => {
                list.iter_mut().try_for_each(|one| self.replace(one, place, is_secret))?;
            }
            Json::Object(object) => {
                object.values_mut().try_for_each(|one| self.replace(one, place, is_secret))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn interpolated(
        &self,
        text: &str,
        place: &FieldValue<'_>,
        is_secret: &mut bool,
    ) -> Result<String, ManifestError> {
        let mut look_up = |reference: &Reference<'_>| match *reference {
            Reference::Variable { name, default } => {
                let value = (self.environment.variable)(name).map(OsString::into_string);
                match (value, default) {
                    (Some(Ok(value)), _) => Ok(value),
                    (Some(Err(_)), _) => {
                        Err(format!("UTF-8 text as the value of the variable `{name}`"))
                    }
                    (None, Some(default)) => Ok(default.to_owned()),
                    (None, None) => Err(format!(
                        "a value for the variable `{name}`: set it, or write `${{{name}:-DEFAULT}}`"
                    )),
                }
            }
            Reference::File(path) => {
                let text = (self.environment.read)(&self.folder().join(path));
                let text =
                    text.map_err(|error| format!("the text of the file `{path}`: {error}"))?;
                // Editors end a file with a newline, which does not belong to a secret.
                Ok(text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r').to_owned())
            }
        };
        match interpolate(text, &mut look_up) {
            Ok(Interpolated::Plain(text)) => Ok(text),
            Ok(Interpolated::Secret(text)) => {
                *is_secret = true;
                Ok(text)
            }
            Err(expected) => Err(place.error(Some(expected))),
        }
    }

    fn setting(&self, path: &[String], value: Json, at: &Value<'_>, is_secret: bool) -> Setting {
        let (line, column) = self.source.position(at);
        let origin = Origin { file: self.file.to_owned(), line, column };
        Setting { path: path.to_vec(), value, origin, is_secret }
    }
}

fn texts(
    value: &FieldValue<'_>,
    rule: impl Fn(&str) -> Result<String, Expected>,
) -> Result<Json, ManifestError> {
    let read = |one: &FieldValue<'_>| {
        one.string()?;
        let element = |expected: Expected| expected.or_else(|| element_of(one.field.expected));
        Ok(Json::String(one.parse_string(|text| rule(text).map_err(element))?))
    };
    Ok(Json::Array(value.elements()?.iter().map(read).collect::<Result<_, _>>()?))
}

/// Returns the words for one element of a list.
fn element_of(expected: &str) -> Expected {
    expected.strip_prefix("a list of permissions").map(|rest| format!("a permission{rest}"))
}

fn plugin_name(text: &str) -> Result<(), Expected> {
    rules::name(text).map(drop).map_err(|_| Some(form_of_name("a plugin's name")))
}

fn form_of_name(name: &str) -> String {
    format!("{name}: a lower-case letter, then at most 63 of `a-z`, `0-9`, `-`")
}

/// Checks a permission, or the beginning of one and `*`.
fn granted(text: &str) -> Result<String, Expected> {
    let start = text.strip_suffix('*');
    let is_valid = match start {
        Some("" | "call:") => true,
        Some(start) => rules::permission(start.trim_end_matches([':', '.'])).is_ok(),
        None => rules::permission(text).is_ok(),
    };
    is_valid.then(|| text.to_owned()).ok_or(None)
}

fn is_none(text: &str) -> bool {
    text == "none"
}

fn duration(text: &str) -> Result<Json, Expected> {
    parse_duration(text).map(|_| text.into()).ok_or(None)
}

/// Parses a duration longer than zero.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let parsed: SignedDuration = text.parse().ok()?;
    Duration::try_from(parsed).ok().filter(|duration| !duration.is_zero())
}
