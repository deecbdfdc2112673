//! Generates the JSON Schema of `plugin.json` from the table of fields. Reads no manifest.

use serde_json::{Map, Value, json};

#[cfg(feature = "host-file")]
use super::fields::HostShape;
use super::fields::{Field, MANIFEST, NAME_PATTERN, Presence, Shape};
use super::words::Kind;

/// Returns the JSON Schema of `plugin.json`.
pub(crate) fn json_schema() -> Value {
    let mut schema = object(MANIFEST);
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), "plugin.json of a hotbay plugin".into());
    schema.insert(
        "if".into(),
        json!({
            "properties": { "kind": { "const": Kind::Process.as_str() } },
            "required": ["kind"],
        }),
    );
    schema.insert("then".into(), rules_for(Kind::Process, MANIFEST).into());
    schema.insert("else".into(), rules_for(Kind::Library, MANIFEST).into());
    Value::Object(schema)
}

/// Returns the JSON Schema of a file with these fields.
#[cfg(feature = "host-file")]
pub(crate) fn schema_of(table: &[Field], title: &str) -> Value {
    let mut schema = object(table);
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), title.into());
    Value::Object(schema)
}

fn object(table: &[Field]) -> Map<String, Value> {
    let properties: Map<_, _> =
        table.iter().map(|field| (field.name.to_owned(), field_schema(field))).collect();
    let required = table.iter().filter(|field| matches!(field.presence, Presence::Required));
    let required: Vec<_> = required.map(|field| field.name).collect();
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), properties.into());
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    schema.insert("patternProperties".into(), json!({ r"^(\$schema$|x-)": true }));
    schema.insert("additionalProperties".into(), false.into());
    schema
}

fn field_schema(field: &Field) -> Value {
    let mut schema = shape(&field.shape);
    schema.insert("description".into(), field.doc.into());
    if let Presence::Default(text) = field.presence {
        let default = serde_json::from_str(text).expect("the table's defaults are JSON");
        schema.insert("default".into(), default);
    }
    schema.into()
}

fn shape(shape: &Shape) -> Map<String, Value> {
    let schema = match *shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Pattern(pattern) => json!({ "type": "string", "pattern": pattern }),
        Shape::Words(words) => json!({ "enum": words }),
        Shape::Number { min, max: u64::MAX } => json!({ "type": "integer", "minimum": min }),
        Shape::Number { min, max } => {
            json!({ "type": "integer", "minimum": min, "maximum": max })
        }
        Shape::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Patterns(pattern) => {
            json!({ "type": "array", "items": { "type": "string", "pattern": pattern } })
        }
        Shape::Entries(entries) => json!({ "type": "array", "items": entries.schema() }),
        Shape::Decimal => json!({ "type": "number", "minimum": 0.001, "maximum": 4096 }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::FreeObject => json!({ "type": "object" }),
        Shape::FreeObjectOrText => json!({ "type": ["object", "string"] }),
        Shape::Requirements => json!({
            "type": "object",
            "propertyNames": { "pattern": NAME_PATTERN },
            "additionalProperties": { "type": "string" },
        }),
        Shape::Object(table) => return object(table),
        Shape::Objects(table) => json!({ "type": "array", "items": object(table) }),
        Shape::ObjectsByName(table) => {
            json!({ "type": "object", "additionalProperties": object(table) })
        }
        #[cfg(feature = "host-file")]
        Shape::Host(ref shape) => host_shape(shape),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

#[cfg(feature = "host-file")]
fn host_shape(shape: &HostShape) -> Value {
    let duration = || json!({ "type": "string", "pattern": r"^\s*[0-9.].*[a-zµ]\s*$" });
    let or_none = |schema: Value| json!({ "anyOf": [schema, { "const": "none" }] });
    match *shape {
        HostShape::Path => json!({ "type": "string", "minLength": 1 }),
        HostShape::Paths => {
            json!({ "type": "array", "items": { "type": "string", "minLength": 1 } })
        }
        HostShape::Duration => duration(),
        HostShape::DurationOrNone => or_none(duration()),
        HostShape::NumberOrNone { min, max } => {
            or_none(self::shape(&Shape::Number { min, max }).into())
        }
        HostShape::Providers => json!({
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "items": { "type": "string", "pattern": NAME_PATTERN },
            },
        }),
        HostShape::NamePatterns(pattern) => self::shape(&Shape::Patterns(pattern)).into(),
        HostShape::Date => json!({ "type": "string", "format": "date" }),
        HostShape::ObjectsByPlugin(table) | HostShape::Keys(table) => json!({
            "type": "object",
            "propertyNames": { "pattern": NAME_PATTERN },
            "additionalProperties": object(table),
        }),
    }
}

/// Returns the rules of one kind: requires its own fields, rejects those of the other kind.
fn rules_for(kind: Kind, table: &[Field]) -> Map<String, Value> {
    let mut required = Vec::new();
    let mut properties = Map::new();
    for field in table {
        let rules = match (&field.presence, &field.shape) {
            (Presence::RequiredFor(other), _) if *other == kind => {
                required.push(field.name);
                continue;
            }
            (Presence::RequiredFor(other) | Presence::OnlyFor(other), _) if *other != kind => {
                false.into()
            }
            (_, Shape::Objects(entry)) => match rules_for(kind, entry) {
                rules if rules.is_empty() => continue,
                rules => json!({ "items": rules }),
            },
            _ => continue,
        };
        properties.insert(field.name.to_owned(), rules);
    }
    let mut rules = Map::new();
    if !required.is_empty() {
        rules.insert("required".to_owned(), required.into());
    }
    if !properties.is_empty() {
        rules.insert("properties".to_owned(), properties.into());
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::super::Checker;
    use super::super::Manifest;
    use super::*;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.schema.json");

    #[test]
    fn shipped_schema_matches_the_table() {
        let generated = format!("{:#}\n", json_schema());
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(FILE, &generated).unwrap();
        }
        let shipped = std::fs::read_to_string(FILE).unwrap_or_default();
        assert!(shipped == generated, "run this test with UPDATE_SCHEMA=1, then check {FILE}");
    }

    #[test]
    fn schema_and_parser_accept_the_same_manifests() {
        let checker = Checker::new(&json_schema(), None).unwrap();
        let check = |extra: &str, is_valid: bool| {
            let mut manifest = json!({ "name": "a", "version": "1.0.0", "api": "^1" });
            let extra: Map<_, _> = serde_json::from_str(extra).unwrap();
            manifest.as_object_mut().unwrap().extend(extra);
            let checked = checker.check(&manifest, None);
            assert_eq!(checked.is_ok(), is_valid, "{manifest}: {checked:?}");
            let parsed = Manifest::parse(&manifest.to_string(), "".as_ref());
            assert_eq!(parsed.is_ok(), is_valid, "{manifest}: {parsed:?}");
        };
        check(
            r#"{ "$schema": 1, "x-tool": null, "limits": { "x-why": "slow", "queue": 1 } }"#,
            true,
        );
        check(r#"{ "kind": "process", "command": ["serve", "--fast"] }"#, true);
        check(r#"{ "permissions": ["log", "call:store", "caller", "db:read"] }"#, true);
        check(r#"{ "requires": { "b": ">=1, <3" }, "config": { "any": [1, null] } }"#, true);
        check(r#"{ "permissions": ["read", "write", "exec"], "input_schema": {} }"#, true);
        check(r#"{ "input_schema": "input.json" }"#, true);
        check(r#"{ "input_schema": true }"#, false);
        check(r#"{ "permissions": [""] }"#, false);
        let provides = |kind: &str, mapped: &str| {
            format!(
                r#"{{ {kind} "provides": [{{ "contract": "a", "version": "1.0.0",
                    "methods": {{ "f": {mapped} }} }}] }}"#
            )
        };
        let process = r#""kind": "process", "command": ["serve"], "#;
        check(&provides(process, r#"{ "endpoint": "a/b" }"#), true);
        check(&provides(process, r#"{ "endpoint": "f", "body": "n", "x-why": 1 }"#), true);
        check(&provides("", r#"{ "endpoint": "f" }"#), false);
        check(&provides(process, r#"{ "endpoint": "/f" }"#), false);
        check(&provides(process, r#"{ "endpoint": "f/" }"#), false);
        check(&provides(process, r#"{ "endpoint": "a//b" }"#), false);
        check(&provides(process, r#"{ "endpoint": "f?x" }"#), false);
        check(&provides(process, r#"{ "body": "n" }"#), false);
        check(&provides(process, r#"{ "endpoint": "f", "body": "" }"#), false);
        check(&provides(process, r#"{ "endpoint": "f", "path": "f" }"#), false);
        check(&provides(process, r#""f""#), false);
        check(r#"{ "color": "red" }"#, false);
        check(r#"{ "name": "A" }"#, false);
        check(r#"{ "version": "1.0" }"#, false);
        check(r#"{ "kind": "process" }"#, false);
        check(r#"{ "kind": "process", "command": ["serve"], "library": "a" }"#, false);
        check(r#"{ "command": ["serve"] }"#, false);
        check(r#"{ "permissions": ["call:"] }"#, false);
        check(r#"{ "limits": { "queue": 0 } }"#, false);
        check(r#"{ "limits": { "workers": 4294967296 } }"#, false);
        check(r#"{ "requires": { "B": "*" } }"#, false);
    }
}
