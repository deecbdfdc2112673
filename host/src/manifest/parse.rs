//! The tree of a manifest to a `Manifest`, guided by the table of fields.
//! Reads no disk: whether the files it names exist is found out later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;
use semver::VersionReq;

use super::fields::{self, Field, LIMITS, MANIFEST, PROVIDED, Presence, Shape};
use super::rules::{self, Wanted};
use super::tree::{Source, found, join, key_at, quoted};
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
    let fields = Fields::open(source, object, MANIFEST, String::new())?;

    let kind = fields.word("kind", Kind::from_word)?;
    fields.suit(kind)?;
    let name = fields.required("name")?.text_by(rules::name)?;
    let package = fields.get("package").map(|value| value.text_by(rules::package)).transpose()?;
    let package = package.unwrap_or_else(|| name.to_string());
    let stem = |text: &str| rules::stem(text, &package);

    Ok(Manifest {
        version: fields.required("version")?.text_by(rules::version)?,
        api: fields.required("api")?.text_by(rules::parsed)?,
        kind,
        library: fields.get("library").map(|value| value.text_by(stem)).transpose()?,
        command: command(&fields)?,
        socket_type: fields.word("type", SocketType::from_word)?,
        description: fields.optional_text("description")?,
        authors: fields.texts("authors")?,
        license: fields.optional_text("license")?,
        homepage: fields.optional_text("homepage")?,
        config: config(&fields)?,
        config_schema: schema(&fields, "config_schema")?,
        input_schema: schema(&fields, "input_schema")?,
        provides: provides(&fields)?,
        requires: requires(&fields, &name)?,
        limits: limits(&fields)?,
        handover: fields.word("handover", Handover::from_word)?,
        unload: fields.word("unload", Unload::from_word)?,
        permissions: permissions(&fields)?,
        sha256: fields.get("sha256").map(|value| value.text_by(rules::parsed)).transpose()?,
        length: fields.get("length").map(|value| value.number()).transpose()?,
        name,
        package,
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
    let arguments = arguments.iter().map(Found::owned_text);
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

fn provides(fields: &Fields<'_>) -> Result<Vec<Provided>, ManifestError> {
    let Some(value) = fields.get("provides") else {
        return Ok(Vec::new());
    };
    let entry = |entry: Found<'_>| {
        let wanted = || Some("an object with `contract` and `version`".to_owned());
        let Value::Object(object) = entry.value else {
            return Err(entry.refuse(wanted()));
        };
        let fields = Fields::open(entry.source, object, PROVIDED, entry.path)?;
        Ok(Provided {
            contract: fields.required("contract")?.text_by(rules::contract)?,
            version: fields.required("version")?.text_by(rules::version)?,
        })
    };
    value.elements()?.into_iter().map(entry).collect()
}

fn requires(
    fields: &Fields<'_>,
    own: &PluginName,
) -> Result<BTreeMap<PluginName, VersionReq>, ManifestError> {
    let Some(value) = fields.get("requires") else {
        return Ok(BTreeMap::new());
    };
    let mut requires = BTreeMap::new();
    for property in &value.object()?.properties {
        let key = property.name.as_str();
        let path = join(&value.path, key);
        let Ok(name) = rules::name(key) else {
            let wanted = format!("a plugin's name: {}", fields.field("name").wanted);
            let problem = Problem::Value { found: quoted(key), wanted, nearest: None };
            return Err(value.source.mistake(key_at(property), &value.path, problem));
        };
        if name == *own {
            let problem = Problem::RequiresItself;
            return Err(value.source.mistake(key_at(property), &path, problem));
        }
        let wanted = Found { value: &property.value, field: fields.field("api"), path, ..value };
        requires.insert(name, wanted.text_by(rules::parsed)?);
    }
    Ok(requires)
}

fn limits(fields: &Fields<'_>) -> Result<Limits, ManifestError> {
    let mut limits = Limits::default();
    let Some(value) = fields.get("limits") else {
        return Ok(limits);
    };
    let fields = Fields::open(value.source, value.object()?, LIMITS, value.path)?;
    for name in LIMITS.iter().map(|field| field.name) {
        if let Some(value) = fields.get(name) {
            limits.set(name, value.number()?);
        }
    }
    Ok(limits)
}

fn permissions(fields: &Fields<'_>) -> Result<BTreeSet<String>, ManifestError> {
    let Some(value) = fields.get("permissions") else {
        return Ok(BTreeSet::new());
    };
    value.elements()?.iter().map(|word| word.text_by(rules::permission)).collect()
}

/// An object whose fields are all in its table.
struct Fields<'t> {
    source: Source<'t>,
    object: &'t Object<'t>,
    table: &'static [Field],
    path: String,
}

impl<'t> Fields<'t> {
    /// Refuses unknown fields first: a misspelt field is often also a missing one.
    fn open(
        source: Source<'t>,
        object: &'t Object<'t>,
        table: &'static [Field],
        path: String,
    ) -> Result<Self, ManifestError> {
        for property in &object.properties {
            let key = property.name.as_str();
            if fields::is_ignored(key) || fields::find(table, key).is_some() {
                continue;
            }
            let known: Vec<_> = table.iter().map(|field| field.name).collect();
            let nearest = fields::nearest(key, known.iter().copied());
            let problem = Problem::Unknown { nearest, known };
            return Err(source.mistake(key_at(property), &join(&path, key), problem));
        }
        Ok(Self { source, object, table, path })
    }

    /// Refuses fields that are not for `kind`, and asks for those that only it needs.
    fn suit(&self, kind: Kind) -> Result<(), ManifestError> {
        for field in self.table {
            let (Presence::OnlyFor(only) | Presence::RequiredFor(only)) = field.presence else {
                continue;
            };
            match self.object.get(field.name) {
                Some(property) if only != kind => {
                    let problem = Problem::OnlyFor { kind: only.as_str(), other: kind.as_str() };
                    return Err(self.source.mistake(key_at(property), field.name, problem));
                }
                None if only == kind && matches!(field.presence, Presence::RequiredFor(_)) => {
                    return Err(self.missing(field));
                }
                _ => {}
            }
        }
        Ok(())
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

    fn optional_text(&self, name: &str) -> Result<Option<String>, ManifestError> {
        self.get(name).map(|value| value.owned_text()).transpose()
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
