//! Renders a `Manifest` as JSON, and sets digest and length in a manifest's text. Only the latter
//! keeps the author's layout. Writes no file.

use std::path::Path;

use jsonc_parser::cst::{CstInputValue, CstRootNode};
use serde_json::{Map, Value, json};

use super::tree::{STRICT, Source, without_mark};
use super::words::{Handover, Isolation, SocketType, Unload};
use super::{ConfigSchema, Digest, Manifest, MappedMethod, Provided, Sandbox};
use crate::error::{ManifestError, Problem};

impl Manifest {
    /// Returns the manifest as in `plugin.json`, without the fields that have their default.
    ///
    /// [`Manifest::parse`] reads its text as an equal manifest.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            object.extend(value.map(|value| (name.to_owned(), value)));
        };
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        put("name", Some(self.name.as_str().into()));
        put("package", Some(self.package.as_str().into()));
        put("version", Some(self.version.to_string().into()));
        put("api", Some(self.api.to_string().into()));
        put("kind", Some(self.kind.as_str().into()));
        put("library", text(&self.library));
        let isolation = self.isolation;
        let is_default = isolation == Isolation::default();
        put("isolation", (!is_default).then(|| isolation.as_str().into()));
        put("command", non_empty(self.command.as_slice().into()));
        let socket_type = self.socket_type;
        let is_default = socket_type == SocketType::default();
        put("type", (!is_default).then(|| socket_type.as_str().into()));
        put("description", text(&self.description));
        put("authors", non_empty(self.authors.as_slice().into()));
        put("license", text(&self.license));
        put("homepage", text(&self.homepage));
        put("config", non_empty(self.config.clone()));
        for (name, schema) in self.schemas() {
            put(name, schema.map(json_of));
        }
        put("provides", non_empty(self.provides().iter().map(provided).collect()));
        put(
            "requires",
            non_empty(
                self.requires
                    .iter()
                    .map(|(name, accepted)| (name.to_string(), accepted.to_string()))
                    .collect(),
            ),
        );
        put(
            "limits",
            non_empty(
                self.limits
                    .entries()
                    .into_iter()
                    .filter_map(|(name, number)| Some((name.to_owned(), Value::from(number?))))
                    .collect(),
            ),
        );
        let handover = self.handover;
        put("handover", (handover != Handover::default()).then(|| handover.as_str().into()));
        let unload = self.unload;
        put("unload", (unload != Unload::default()).then(|| unload.as_str().into()));
        put("permissions", non_empty(self.permissions.iter().map(String::as_str).collect()));
        put("sandbox", self.sandbox.as_ref().map(Sandbox::to_json));
        put("sha256", self.sha256.map(|digest| digest.to_string().into()));
        put("length", self.length.map(Value::from));
        Value::Object(object)
    }
}

fn provided(provided: &Provided) -> Value {
    let Provided { contract, version, methods } = provided;
    let mut entry = json!({ "contract": contract, "version": version.to_string() });
    if !methods.is_empty() {
        let methods = methods.iter().map(|(name, mapped)| (name.clone(), mapped_method(mapped)));
        entry["methods"] = methods.collect();
    }
    entry
}

fn mapped_method(MappedMethod { endpoint, body }: &MappedMethod) -> Value {
    match body {
        Some(body) => json!({ "endpoint": endpoint, "body": body }),
        None => json!({ "endpoint": endpoint }),
    }
}

/// Returns `None` for an empty list or object.
fn non_empty(value: Value) -> Option<Value> {
    let empty =
        value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    (!empty).then_some(value)
}

fn json_of(schema: &ConfigSchema) -> Value {
    match schema {
        ConfigSchema::Inline(schema) => schema.clone(),
        ConfigSchema::File(file) => file.as_str().into(),
    }
}

/// The file name in messages about a text without a known file.
const FILE: &str = "plugin.json";

/// Returns `text` with `sha256` and `length` set; the result is a valid manifest.
pub(crate) fn seal(text: &str, sha256: &Digest, length: u64) -> Result<String, ManifestError> {
    let source = Source::new(text, FILE);
    source.tree()?;
    let (mark, text) = text.split_at(text.len() - without_mark(text).len());
    let not_json =
        |reason: &str| source.mistake(0, "", Problem::NotJson { reason: reason.to_owned() });
    let root = CstRootNode::parse(text, &STRICT).map_err(|error| not_json(&error.to_string()))?;
    if let Some(object) = root.object_value() {
        let values = [
            ("sha256", CstInputValue::String(sha256.to_string())),
            ("length", CstInputValue::Number(length.to_string())),
        ];
        for (name, value) in values {
            match object.get(name) {
                Some(property) => property.set_value(value),
                None => drop(object.append(name, value)),
            }
        }
    }
    let sealed = format!("{mark}{root}");
    Manifest::parse(&sealed, Path::new(FILE))?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = Digest::new([0xab; 32]);

    fn check(text: &str, expect: &str) {
        let expect = expect.replace("DIGEST", &DIGEST.to_string());
        let sealed = Manifest::seal_text(text, &DIGEST, 12).unwrap();
        assert_eq!(sealed, expect);
        let manifest = Manifest::parse(&sealed, Path::new(FILE)).unwrap();
        assert_eq!((manifest.sha256(), manifest.length()), (Some(&DIGEST), Some(12)));
        assert_eq!(Manifest::seal_text(&sealed, &DIGEST, 12).unwrap(), sealed);
    }

    #[test]
    fn seal_keeps_layout_of_author() {
        check(
            "{\n    \"name\": \"a\", \"version\":\"1.0.0\",\n\n    \"api\" : \"^1\"\n}\n",
            "{\n    \"name\": \"a\", \"version\":\"1.0.0\",\n\n    \"api\" : \"^1\",\n    \
             \"sha256\": \"DIGEST\",\n    \"length\": 12\n}\n",
        );
        check(
            "\u{feff}{\r\n\t\"name\": \"a\",\r\n\t\"version\": \"1.0.0\",\r\n\t\"api\": \"^1\"\r\n}",
            "\u{feff}{\r\n\t\"name\": \"a\",\r\n\t\"version\": \"1.0.0\",\r\n\t\"api\": \"^1\",\r\n\t\
             \"sha256\": \"DIGEST\",\r\n\t\"length\": 12\r\n}",
        );
    }

    #[test]
    fn seal_splits_single_line_manifest() {
        check(
            r#"{"name":"a","version":"1.0.0","api":"^1"}"#,
            "{\n  \"name\":\"a\",\n  \"version\":\"1.0.0\",\n  \"api\":\"^1\",\n  \
             \"sha256\": \"DIGEST\",\n  \"length\": 12\n}",
        );
    }

    #[test]
    fn seal_replaces_digest_and_length_in_place() {
        check(
            "{ \"length\": \"?\", \"name\": \"a\",\n\"sha256\": null, \"version\": \"1.0.0\", \
             \"api\": \"^1\" }",
            "{ \"length\": 12, \"name\": \"a\",\n\"sha256\": \"DIGEST\", \"version\": \"1.0.0\", \
             \"api\": \"^1\" }",
        );
    }

    #[test]
    fn seal_rejects_invalid_manifest() {
        let check = |text: &str, expect: &str| {
            let error = Manifest::seal_text(text, &DIGEST, 12).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check("[]", "plugin.json:1:1: the manifest is a list; expected an object");
        check("{,}", "plugin.json:1:2: the manifest is not JSON: unexpected token in object");
        check(
            "{ \"name\": \"a\", \"version\": 1, \"api\": \"*\" }",
            "plugin.json:3:14: `version` is 1; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
        );
    }
}
