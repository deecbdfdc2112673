//! The fields of a `plugin.json` that a build needs, and the two fields that it sets. The host
//! validates the rest.

use anyhow::{Context, bail};
use hotbay_manifest::PluginName;
use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::{Map, Value};

/// The members of a manifest that decide what is built and installed.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    /// The crate; `name` if the manifest does not set it.
    pub(crate) package: String,
    /// Whether the manifest sets `package`.
    pub(crate) names_package: bool,
    pub(crate) version: String,
    pub(crate) kind: Kind,
    /// The files that `config_schema` and `input_schema` name.
    pub(crate) schema_files: Vec<String>,
    text: String,
}

/// The kind of the plugin, with its file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `stem` is `transform` for `libtransform.so`.
    Library { stem: String },
    /// `program` is the file of `command[0]`.
    Process { program: String },
}

impl Manifest {
    /// Reads the text of a `plugin.json`.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        let Value::Object(fields) = serde_json::from_str(text).context("not JSON")? else {
            bail!("expected a JSON object");
        };
        let name = required(&fields, "name")?;
        PluginName::new(&name)?;
        let package = optional(&fields, "package")?;
        let kind = match optional(&fields, "kind")?.as_deref() {
            None | Some("library") => {
                Kind::Library { stem: inside(required(&fields, "library")?)? }
            }
            Some("process") => Kind::Process { program: inside(program(&fields)?)? },
            Some(other) => bail!("`kind` is `{other}`; expected `library` or `process`"),
        };
        let mut schema_files = Vec::new();
        for field in ["config_schema", "input_schema"] {
            if let Some(Value::String(file)) = fields.get(field) {
                schema_files.push(inside(file.clone())?);
            }
        }
        schema_files.dedup();
        Ok(Self {
            names_package: package.is_some(),
            package: package.unwrap_or_else(|| name.clone()),
            name,
            version: required(&fields, "version")?,
            kind,
            schema_files,
            text: text.to_owned(),
        })
    }

    /// Returns the text with the digest and length of the library or program; the rest stays as its
    /// author wrote it.
    pub(crate) fn sealed(&self, sha256: &str, length: usize) -> anyhow::Result<String> {
        let root = CstRootNode::parse(&self.text, &ParseOptions::default())?;
        let object = root.object_value().context("expected a JSON object")?;
        set(&object, "sha256", CstInputValue::String(sha256.to_owned()));
        set(&object, "length", CstInputValue::Number(length.to_string()));
        Ok(root.to_string())
    }
}

fn set(object: &CstObject, name: &str, value: CstInputValue) {
    match object.get(name) {
        Some(member) => member.set_value(value),
        None => drop(object.append(name, value)),
    }
}

fn required(fields: &Map<String, Value>, name: &str) -> anyhow::Result<String> {
    optional(fields, name)?.with_context(|| format!("`{name}` is missing"))
}

fn optional(fields: &Map<String, Value>, name: &str) -> anyhow::Result<Option<String>> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => bail!("`{name}` is {other}; expected a string"),
    }
}

fn program(fields: &Map<String, Value>) -> anyhow::Result<String> {
    let command = fields.get("command").context("`command` is missing")?;
    let program = command.get(0).and_then(Value::as_str);
    let expected = "expected a list that begins with the program, such as [\"serve\"]";
    Ok(program.with_context(|| format!("`command` is {command}; {expected}"))?.to_owned())
}

/// Rejects names that lead out of the plugin's folder, since they become paths to write to.
fn inside(file: String) -> anyhow::Result<String> {
    let plain = !file.is_empty() && !file.starts_with('.') && !file.contains(['/', '\\', ':']);
    if !plain {
        bail!("`{file}` does not name a file in the plugin's own folder");
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_sealed(text: &str, expected: &str) {
        let manifest = Manifest::read(text).unwrap();
        assert_eq!(manifest.sealed("ab12", 7).unwrap(), expected);
    }

    #[test]
    fn sealing_adds_two_members_and_keeps_layout() {
        check_sealed(
            "{\n    \"name\": \"a\",   \"version\": \"1.0.0\",\n\n    \"library\": \"a\"\n}\n",
            "{\n    \"name\": \"a\",   \"version\": \"1.0.0\",\n\n    \"library\": \"a\",\n    \
             \"sha256\": \"ab12\",\n    \"length\": 7\n}\n",
        );
    }

    #[test]
    fn sealing_replaces_existing_values() {
        check_sealed(
            "{\n\t\"sha256\": null, \"length\": 12,\n\t\"name\": \"a\", \"version\": \"1.0.0\", \
             \"library\": \"a\"\n}",
            "{\n\t\"sha256\": \"ab12\", \"length\": 7,\n\t\"name\": \"a\", \"version\": \
             \"1.0.0\", \"library\": \"a\"\n}",
        );
    }

    #[test]
    fn sealing_twice_equals_sealing_once() {
        let text = r#"{"name": "a", "version": "1.0.0", "library": "a"}"#;
        let once = Manifest::read(text).unwrap().sealed("ab12", 7).unwrap();
        check_sealed(&once, &once);
    }

    #[test]
    fn members_have_defaults() {
        let manifest =
            Manifest::read(r#"{"name": "a", "version": "1.0.0", "library": "b"}"#).unwrap();
        assert_eq!(manifest.package, "a");
        assert!(!manifest.names_package);
        assert_eq!(manifest.kind, Kind::Library { stem: "b".to_owned() });
        assert!(manifest.schema_files.is_empty());
        let process =
            r#"{"name": "a", "version": "1.0.0", "kind": "process", "command": ["s", "x"]}"#;
        let process = Manifest::read(process).unwrap();
        assert_eq!(process.kind, Kind::Process { program: "s".to_owned() });
    }

    #[test]
    fn unbuildable_plugin_is_reported() {
        let check = |text: &str, expected: &str| {
            let error = format!("{:#}", Manifest::read(text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        check("{", "not JSON");
        check("[]", "expected a JSON object");
        check("{\"name\": \"a\", // why\n}", "not JSON");
        check(r#"{"name": "a", "version": "1.0.0"}"#, "`library` is missing");
        check(r#"{"name": 1}"#, "`name` is 1; expected a string");
        check(
            r#"{"name": "a", "version": "1.0.0", "library": "../a"}"#,
            "`../a` does not name a file in the plugin's own folder",
        );
        for name in ["..", "", "A", "a_b", "a/b", &"a".repeat(65)] {
            let text = format!(r#"{{"name": "{name}", "version": "1.0.0", "library": "a"}}"#);
            check(&text, &format!("`{name}` is not a valid plugin name"));
        }
        let process = |command: &str| {
            format!(r#"{{"name": "a", "version": "1.0.0", "kind": "process"{command}}}"#)
        };
        check(&process(""), "`command` is missing");
        check(&process(r#", "command": []"#), "`command` is []; expected a list that begins with");
        check(
            &process(r#", "command": ["../serve"]"#),
            "`../serve` does not name a file in the plugin's own folder",
        );
        check(
            r#"{"name": "a", "version": "1.0.0", "kind": "wasm"}"#,
            "`kind` is `wasm`; expected `library` or `process`",
        );
    }
}
