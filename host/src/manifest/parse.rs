//! The tree of a manifest to a `Manifest`, guided by the table of fields.
//! Reads no disk: whether the files it names exist is found out later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;
use semver::VersionReq;

use super::fields::{self, Field, LIMITS, MANIFEST, PROVIDED, Presence, Shape};
use super::rules::{self, Wanted};
use super::tree::{Mistakes, Source, found, join, key_at, quoted};
use super::words::{Handover, Kind, SocketType, Unload};
use super::{ConfigSchema, Limits, Manifest, Provided};
use crate::error::manifest::{ManifestError, Problem};
use crate::id::PluginName;

/// Reads the text of a plugin.json; `file` is only its label in messages.
pub(crate) fn manifest(text: &str, file: &Path) -> Result<Manifest, ManifestError> {
    let file = file.display().to_string();
    let source = Source::new(text, &file);
    let tree = source.tree()?;
    let Value::Object(object) = &tree else {
        let (found, wanted) = (found(&tree), "an object".to_owned());
        let problem = Problem::Value { found, wanted, nearest: None };
        return Err(source.mistake(tree.start(), "", problem));
    };
    let mistakes = Mistakes::default();
    let read = read(&Fields::open(source, object, MANIFEST, String::new(), &mistakes), &mistakes);
    mistakes.finish(read)
}

/// Reads every field and notes every mistake; `None` if there was one.
fn read(fields: &Fields<'_>, mistakes: &Mistakes) -> Option<Manifest> {
    let kind = mistakes.take(fields.word("kind", Kind::from_word));
    if let Some(kind) = kind {
        fields.suit(kind);
    }
    let name = fields.required("name").and_then(|value| value.text_by(rules::name));
    let name = mistakes.take(name);
    let package = mistakes.take(fields.optional("package", |value| value.text_by(rules::package)));
    let package = package
        .map(|package| package.or(name.as_ref().map(ToString::to_string)).unwrap_or_default());
    let stem = |text: &str| rules::stem(text, package.as_deref().unwrap_or_default());

    // All of them are read before the first that is wrong ends it.
    let version = fields.required("version").and_then(|value| value.text_by(rules::version));
    let version = mistakes.take(version);
    let api = fields.required("api").and_then(|value| value.text_by(rules::parsed));
    let api = mistakes.take(api);
    let library = mistakes.take(fields.optional("library", |value| value.text_by(stem)));
    let command = mistakes.take(command(fields));
    let socket_type = mistakes.take(fields.word("type", SocketType::from_word));
    let description = mistakes.take(fields.optional_text("description"));
    let authors = mistakes.take(fields.texts("authors"));
    let license = mistakes.take(fields.optional_text("license"));
    let homepage = mistakes.take(fields.optional_text("homepage"));
    let config = mistakes.take(config(fields));
    let config_schema = mistakes.take(schema(fields, "config_schema"));
    let input_schema = mistakes.take(schema(fields, "input_schema"));
    let provides = provides(fields, mistakes);
    let requires = requires(fields, name.as_ref(), mistakes);
    let limits = limits(fields, mistakes);
    let handover = mistakes.take(fields.word("handover", Handover::from_word));
    let unload = mistakes.take(fields.word("unload", Unload::from_word));
    let permissions = permissions(fields, mistakes);
    let sha256 = mistakes.take(fields.optional("sha256", |value| value.text_by(rules::parsed)));
    let length = mistakes.take(fields.optional("length", Found::number));
    Some(Manifest {
        name: name?,
        package: package?,
        version: version?,
        api: api?,
        kind: kind?,
        library: library?,
        command: command?,
        socket_type: socket_type?,
        description: description?,
        authors: authors?,
        license: license?,
        homepage: homepage?,
        config: config?,
        config_schema: config_schema?,
        input_schema: input_schema?,
        provides,
        requires,
        limits,
        handover: handover?,
        unload: unload?,
        permissions,
        sha256: sha256?,
        length: length?,
    })
}

fn command(fields: &Fields<'_>) -> Result<Vec<String>, ManifestError> {
    let Some(value) = fields.get("command") else {
        return Ok(Vec::new());
    };
    let words = value.elements()?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(value.refuse_as("an empty list", None));
    };
    let program = program.text_by(|text| {
        rules::inside_folder(text).map_err(|_| Some("a program inside the plugin's folder".into()))
    })?;
    let argument = |found: &Found<'_>| {
        found.owned_text()?;
        found.text_by(rules::argument)
    };
    let arguments = arguments.iter().map(argument);
    std::iter::once(Ok(program)).chain(arguments).collect()
}

fn config(fields: &Fields<'_>) -> Result<serde_json::Value, ManifestError> {
    let Some(value) = fields.get("config") else {
        return Ok(serde_json::json!({}));
    };
    let object = value.object()?;
    Ok(value.source.json_object(object, &value.path)?.into())
}

fn schema(fields: &Fields<'_>, name: &str) -> Result<Option<ConfigSchema>, ManifestError> {
    let Some(value) = fields.get(name) else {
        return Ok(None);
    };
    Ok(Some(match value.value {
        Value::StringLit(_) => ConfigSchema::File(value.text_by(rules::inside_folder)?),
        _ => {
            let object = value.source.json_object(value.object()?, &value.path)?;
            ConfigSchema::Inline(object.into())
        }
    }))
}

fn provides(fields: &Fields<'_>, mistakes: &Mistakes) -> Vec<Provided> {
    let entry = |entry: Found<'_>| {
        let wanted = || Some("an object with `contract` and `version`".to_owned());
        let Value::Object(object) = entry.value else {
            mistakes.note(entry.refuse(wanted()));
            return None;
        };
        let fields = Fields::open(entry.source, object, PROVIDED, entry.path, mistakes);
        let contract = fields.required("contract").and_then(|value| value.text_by(rules::contract));
        let contract = mistakes.take(contract);
        let version = fields.required("version").and_then(|value| value.text_by(rules::version));
        let version = mistakes.take(version);
        Some(Provided { contract: contract?, version: version? })
    };
    let entries = fields.get("provides").and_then(|value| mistakes.take(value.elements()));
    entries.unwrap_or_default().into_iter().filter_map(entry).collect()
}

fn requires(
    fields: &Fields<'_>,
    own: Option<&PluginName>,
    mistakes: &Mistakes,
) -> BTreeMap<PluginName, VersionReq> {
    let mut requires = BTreeMap::new();
    let Some(value) = fields.get("requires") else { return requires };
    let Some(object) = mistakes.take(value.object()) else { return requires };
    for property in &object.properties {
        let key = property.name.as_str();
        let path = join(&value.path, key);
        let Ok(name) = rules::name(key) else {
            let wanted = format!("a plugin's name: {}", fields.field("name").wanted);
            let problem = Problem::Value { found: quoted(key), wanted, nearest: None };
            mistakes.note(value.source.mistake(key_at(property), &value.path, problem));
            continue;
        };
        if Some(&name) == own {
            let problem = Problem::RequiresItself;
            mistakes.note(value.source.mistake(key_at(property), &path, problem));
            continue;
        }
        let wanted = Found { value: &property.value, field: fields.field("api"), path, ..value };
        if let Some(wanted) = mistakes.take(wanted.text_by(rules::parsed)) {
            requires.insert(name, wanted);
        }
    }
    requires
}

fn limits(fields: &Fields<'_>, mistakes: &Mistakes) -> Limits {
    let mut limits = Limits::default();
    let Some(value) = fields.get("limits") else { return limits };
    let Some(object) = mistakes.take(value.object()) else { return limits };
    let fields = Fields::open(value.source, object, LIMITS, value.path, mistakes);
    for name in LIMITS.iter().map(|field| field.name) {
        let number = fields.get(name).and_then(|value| mistakes.take(value.number()));
        if let Some(number) = number {
            limits.set(name, number);
        }
    }
    limits
}

fn permissions(fields: &Fields<'_>, mistakes: &Mistakes) -> BTreeSet<String> {
    let words = fields.get("permissions").and_then(|value| mistakes.take(value.elements()));
    let words = words.unwrap_or_default();
    words.iter().filter_map(|word| mistakes.take(word.text_by(rules::permission))).collect()
}

/// An object whose fields are all in its table.
struct Fields<'t> {
    source: Source<'t>,
    object: &'t Object<'t>,
    table: &'static [Field],
    path: String,
    mistakes: &'t Mistakes,
}

impl<'t> Fields<'t> {
    /// Notes the unknown fields.
    fn open(
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
            let nearest = fields::nearest(key, known.iter().copied());
            let problem = Problem::Unknown { nearest, known };
            mistakes.note(source.mistake(key_at(property), &join(&path, key), problem));
        }
        Self { source, object, table, path, mistakes }
    }

    /// Notes fields that are not for `kind`, and those that only it needs and that are missing.
    fn suit(&self, kind: Kind) {
        for field in self.table {
            let (Presence::OnlyFor(only) | Presence::RequiredFor(only)) = field.presence else {
                continue;
            };
            match self.object.get(field.name) {
                Some(property) if only != kind => {
                    let problem = Problem::OnlyFor { kind: only.as_str(), other: kind.as_str() };
                    let at = key_at(property);
                    self.mistakes.note(self.source.mistake(at, field.name, problem));
                }
                None if only == kind && matches!(field.presence, Presence::RequiredFor(_)) => {
                    self.mistakes.note(self.missing(field));
                }
                _ => {}
            }
        }
    }

    fn field(&self, name: &str) -> &'static Field {
        fields::find(self.table, name).expect("every field that is read stands in the table")
    }

    fn get(&self, name: &str) -> Option<Found<'t>> {
        let field = self.field(name);
        let value = &self.object.get(name)?.value;
        Some(Found { source: self.source, field, value, path: join(&self.path, name) })
    }

    fn required(&self, name: &str) -> Result<Found<'t>, ManifestError> {
        self.get(name).ok_or_else(|| self.missing(self.field(name)))
    }

    fn missing(&self, field: &Field) -> ManifestError {
        let problem = Problem::Missing { wanted: field.wanted.to_owned() };
        self.source.mistake(self.object.range.start, &join(&self.path, field.name), problem)
    }

    fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Found<'t>) -> Result<T, ManifestError>,
    ) -> Result<Option<T>, ManifestError> {
        self.get(name).map(|value| read(&value)).transpose()
    }

    fn optional_text(&self, name: &str) -> Result<Option<String>, ManifestError> {
        self.optional(name, Found::owned_text)
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, ManifestError> {
        let Some(value) = self.get(name) else {
            return Ok(Vec::new());
        };
        value.elements()?.iter().map(Found::owned_text).collect()
    }

    /// One of the field's words, or the default.
    fn word<T: Default>(
        &self,
        name: &str,
        from_word: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ManifestError> {
        let Some(value) = self.get(name) else {
            return Ok(T::default());
        };
        value.text_by(|text| from_word(text).ok_or(None))
    }
}

/// A value and the field it stands in.
struct Found<'t> {
    source: Source<'t>,
    field: &'static Field,
    value: &'t Value<'t>,
    path: String,
}

impl<'t> Found<'t> {
    fn refuse(&self, wanted: Wanted) -> ManifestError {
        self.refuse_as(&found(self.value), wanted)
    }

    fn refuse_as(&self, found: &str, wanted: Wanted) -> ManifestError {
        let nearest = match (&self.field.shape, self.value) {
            (Shape::Words(words), Value::StringLit(text)) => {
                fields::nearest(&text.value, words.iter().copied())
            }
            _ => None,
        };
        let wanted = wanted.unwrap_or_else(|| self.field.wanted.to_owned());
        let problem = Problem::Value { found: found.to_owned(), wanted, nearest };
        self.source.mistake(self.value.start(), &self.path, problem)
    }

    /// The text by a rule for it.
    fn text_by<T>(&self, rule: impl Fn(&str) -> Result<T, Wanted>) -> Result<T, ManifestError> {
        let Value::StringLit(text) = self.value else {
            return Err(self.refuse(None));
        };
        rule(&text.value).map_err(|wanted| self.refuse(wanted))
    }

    fn owned_text(&self) -> Result<String, ManifestError> {
        let Value::StringLit(text) = self.value else {
            return Err(self.refuse(Some("a text".to_owned())));
        };
        Ok(text.value.clone().into_owned())
    }

    fn number(&self) -> Result<u64, ManifestError> {
        let Value::NumberLit(number) = self.value else {
            return Err(self.refuse(None));
        };
        let number = number.value.parse().map_err(|_| self.refuse(None))?;
        rules::within(number, &self.field.shape).map_err(|wanted| self.refuse(wanted))
    }

    fn object(&self) -> Result<&'t Object<'t>, ManifestError> {
        let Value::Object(object) = self.value else {
            return Err(self.refuse(None));
        };
        Ok(object)
    }

    /// The values of the list, each with its own path.
    fn elements(&self) -> Result<Vec<Found<'t>>, ManifestError> {
        let Value::Array(list) = self.value else {
            return Err(self.refuse(None));
        };
        let element = |(at, value)| Found { value, path: format!("{}[{at}]", self.path), ..*self };
        Ok(list.elements.iter().enumerate().map(element).collect())
    }
}
