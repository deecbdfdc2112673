//! Reads a `Manifest` from a JSON tree, guided by the table of fields. Does not access the disk:
//! whether the named files exist is checked later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;
use semver::VersionReq;

use super::fields::{LIMITS, MANIFEST, MAPPED, PROVIDED, Shape};
use super::reader::{FieldValue, Fields};
use super::rules;
use super::tree::{Mistakes, Source, found, join, key_at, quoted};
use super::words::{Handover, Isolation, Kind, SocketType, Unload};
use super::{ConfigSchema, Limits, Manifest, MappedMethod, Provided, Sandbox};
use crate::error::{ManifestError, Problem};
use crate::name::PluginName;

/// Parses the text of a `plugin.json`; `file` is only used in messages.
pub(crate) fn manifest(text: &str, file: &Path) -> Result<Manifest, ManifestError> {
    let file = file.display().to_string();
    let source = Source::new(text, &file);
    let tree = source.tree()?;
    let Value::Object(object) = &tree else {
        let (found, expected) = (found(&tree), "an object".to_owned());
        let problem = Problem::Value { found, expected, nearest: None };
        return Err(source.mistake(tree.start(), "", problem));
    };
    let mistakes = Mistakes::default();
    let manifest =
        read_fields(&Fields::new(source, object, MANIFEST, String::new(), &mistakes), &mistakes);
    mistakes.finish(manifest)
}

/// Reads every field and records every mistake; `None` if there was one.
fn read_fields(fields: &Fields<'_>, mistakes: &Mistakes) -> Option<Manifest> {
    let kind = mistakes.take(fields.word("kind", Kind::from_word));
    if let Some(kind) = kind {
        fields.check_kind(kind);
    }
    let name = fields.required("name").and_then(|value| value.parse_string(rules::name));
    let name = mistakes.take(name);
    let package =
        mistakes.take(fields.optional("package", |value| value.parse_string(rules::package)));
    let package = package
        .map(|package| package.or(name.as_ref().map(ToString::to_string)).unwrap_or_default());
    let stem = |text: &str| rules::stem(text, package.as_deref().unwrap_or_default());

    // All fields are read before the first invalid one returns.
    let version = fields.required("version").and_then(|value| value.parse_string(rules::version));
    let version = mistakes.take(version);
    let api = fields.required("api").and_then(|value| value.parse_string(rules::parsed));
    let api = mistakes.take(api);
    let library = mistakes.take(fields.optional("library", |value| value.parse_string(stem)));
    let isolation = mistakes.take(fields.word("isolation", Isolation::from_word));
    let command = mistakes.take(command(fields));
    let socket_type = mistakes.take(fields.word("type", SocketType::from_word));
    let description = mistakes.take(fields.optional_string("description"));
    let authors = mistakes.take(fields.strings("authors"));
    let license = mistakes.take(fields.optional_string("license"));
    let homepage = mistakes.take(fields.optional_string("homepage"));
    let config = mistakes.take(config(fields));
    let config_schema = mistakes.take(schema(fields, "config_schema"));
    let input_schema = mistakes.take(schema(fields, "input_schema"));
    let provides = provides(fields, kind, mistakes);
    let requires = requires(fields, name.as_ref(), mistakes);
    let limits = limits(fields, mistakes);
    let handover = mistakes.take(fields.word("handover", Handover::from_word));
    let unload = mistakes.take(fields.word("unload", Unload::from_word));
    let permissions = permissions(fields, mistakes);
    let sandbox = sandbox(fields, mistakes);
    let sha256 =
        mistakes.take(fields.optional("sha256", |value| value.parse_string(rules::parsed)));
    let length = mistakes.take(fields.optional("length", FieldValue::number));
    Some(Manifest {
        name: name?,
        package: package?,
        version: version?,
        api: api?,
        kind: kind?,
        library: library?,
        isolation: isolation?,
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
        sandbox,
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
        return Err(value.error_with("an empty list", None));
    };
    let program = program.parse_string(|text| {
        rules::inside_folder(text).map_err(|_| Some("a program inside the plugin's folder".into()))
    })?;
    let argument = |found: &FieldValue<'_>| {
        found.string()?;
        found.parse_string(rules::argument)
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
        Value::StringLit(_) => ConfigSchema::File(value.parse_string(rules::inside_folder)?),
        _ => {
            let object = value.source.json_object(value.object()?, &value.path)?;
            ConfigSchema::Inline(object.into())
        }
    }))
}

fn provides(fields: &Fields<'_>, kind: Option<Kind>, mistakes: &Mistakes) -> Vec<Provided> {
    let mut mapped = BTreeSet::new();
    let entry = |entry: FieldValue<'_>| {
        let expected = || Some("an object with `contract` and `version`".to_owned());
        let Value::Object(object) = entry.value else {
            mistakes.record(entry.error(expected()));
            return None;
        };
        let fields = Fields::new(entry.source, object, PROVIDED, entry.path, mistakes);
        if let Some(kind) = kind {
            fields.check_kind(kind);
        }
        let is_mapped = fields.get("methods").is_some();
        let contract = fields.required("contract").and_then(|value| {
            let contract: String = value.parse_string(rules::not_blank)?;
            // Which endpoint a call of such a contract means would be unclear.
            if is_mapped && !mapped.insert(contract.clone()) {
                return Err(value.error(Some("a contract that no earlier entry maps".to_owned())));
            }
            Ok(contract)
        });
        let contract = mistakes.take(contract);
        let version =
            fields.required("version").and_then(|value| value.parse_string(rules::version));
        let version = mistakes.take(version);
        let methods = mapped_methods(&fields, mistakes);
        Some(Provided { contract: contract?, version: version?, methods })
    };
    let entries = fields.get("provides").and_then(|value| mistakes.take(value.elements()));
    entries.unwrap_or_default().into_iter().filter_map(entry).collect()
}

/// Returns the endpoints that serve the methods of a contract.
fn mapped_methods(fields: &Fields<'_>, mistakes: &Mistakes) -> BTreeMap<String, MappedMethod> {
    let mut methods = BTreeMap::new();
    let Some(value) = fields.get("methods") else { return methods };
    let Some(object) = mistakes.take(value.object()) else { return methods };
    for property in &object.properties {
        let key = property.name.as_str();
        let path = join(&value.path, key);
        let Value::Object(object) = &property.value else {
            let entry = FieldValue { value: &property.value, path, ..value };
            mistakes.record(entry.error(Some("an object with `endpoint`".to_owned())));
            continue;
        };
        let fields = Fields::new(value.source, object, MAPPED, path, mistakes);
        let endpoint =
            fields.required("endpoint").and_then(|value| value.parse_string(rules::endpoint));
        let endpoint = mistakes.take(endpoint);
        let body = fields.optional("body", |value| value.parse_string(rules::not_blank));
        let body = mistakes.take(body).flatten();
        if let Some(endpoint) = endpoint {
            methods.insert(key.to_owned(), MappedMethod { endpoint, body });
        }
    }
    methods
}

fn requires(
    fields: &Fields<'_>,
    own_name: Option<&PluginName>,
    mistakes: &Mistakes,
) -> BTreeMap<PluginName, VersionReq> {
    let mut requires = BTreeMap::new();
    let Some(value) = fields.get("requires") else { return requires };
    let Some(object) = mistakes.take(value.object()) else { return requires };
    for property in &object.properties {
        let key = property.name.as_str();
        let path = join(&value.path, key);
        let Ok(name) = rules::name(key) else {
            let expected = format!("a plugin's name: {}", fields.field("name").expected);
            let problem = Problem::Value { found: quoted(key), expected, nearest: None };
            mistakes.record(value.source.mistake(key_at(property), &value.path, problem));
            continue;
        };
        if Some(&name) == own_name {
            let problem = Problem::RequiresItself;
            mistakes.record(value.source.mistake(key_at(property), &path, problem));
            continue;
        }
        let expected =
            FieldValue { value: &property.value, field: fields.field("api"), path, ..value };
        if let Some(expected) = mistakes.take(expected.parse_string(rules::parsed)) {
            requires.insert(name, expected);
        }
    }
    requires
}

fn limits(fields: &Fields<'_>, mistakes: &Mistakes) -> Limits {
    let mut limits = Limits::default();
    let Some(value) = fields.get("limits") else { return limits };
    let Some(object) = mistakes.take(value.object()) else { return limits };
    let fields = Fields::new(value.source, object, LIMITS, value.path, mistakes);
    for name in LIMITS.iter().map(|field| field.name) {
        let number = fields.get(name).and_then(|value| mistakes.take(value.number()));
        if let Some(number) = number {
            limits.set(name, number);
        }
    }
    limits
}

fn sandbox(fields: &Fields<'_>, mistakes: &Mistakes) -> Option<Sandbox> {
    let mut sandbox = Sandbox::default();
    let value = fields.get("sandbox")?;
    set_sandbox(&value, &mut Vec::new(), &mut sandbox, mistakes);
    Some(sandbox)
}

/// Sets the values of the section, or of an object inside it.
fn set_sandbox(
    value: &FieldValue<'_>,
    path: &mut Vec<&'static str>,
    sandbox: &mut Sandbox,
    mistakes: &Mistakes,
) {
    let read = match &value.field.shape {
        Shape::Object(table) => {
            let Some(object) = mistakes.take(value.object()) else { return };
            let fields = Fields::new(value.source, object, table, value.path.clone(), mistakes);
            for name in table.iter().map(|field| field.name) {
                if let Some(value) = fields.get(name) {
                    path.push(name);
                    set_sandbox(&value, path, sandbox, mistakes);
                    path.pop();
                }
            }
            return;
        }
        Shape::Entries(entries) => value.entries(*entries),
        Shape::Decimal => value.decimal(),
        Shape::Flag => value.flag(),
        Shape::Words(words) => value.parse_string(|text| match words.contains(&text) {
            true => Ok(text.into()),
            false => Err(None),
        }),
        _ => value.number().map(Into::into),
    };
    if let Some(read) = mistakes.take(read) {
        sandbox.set(path, &read);
    }
}

fn permissions(fields: &Fields<'_>, mistakes: &Mistakes) -> BTreeSet<String> {
    let words = fields.get("permissions").and_then(|value| mistakes.take(value.elements()));
    let words = words.unwrap_or_default();
    words.iter().filter_map(|word| mistakes.take(word.parse_string(rules::permission))).collect()
}
