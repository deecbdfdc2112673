//! Builds a `Manifest` in code, under the same rules as a parsed one.

use std::collections::{BTreeMap, BTreeSet};

use semver::VersionReq;
use serde_json::Value;

use super::fields::{self, LIMITS, MANIFEST, PROVIDED};
use super::rules::{self, Expected};
use super::tree::quoted;
use super::words::{Handover, Isolation, Kind, SocketType, Unload};
use super::{ConfigSchema, Limits, Manifest, Provided};
use crate::error::{ManifestError, Problem};

impl Manifest {
    /// Returns a manifest with this name and version, and defaults otherwise. It accepts any
    /// released plugin API.
    ///
    /// # Errors
    ///
    /// Fails if `name` is not a valid plugin name, or `version` is not MAJOR.MINOR.PATCH.
    pub fn new(name: &str, version: &str) -> Result<Self, ManifestError> {
        let plugin = rules::name(name).map_err(|expected| error("name", name, expected))?;
        let version =
            rules::version(version).map_err(|expected| error("version", version, expected))?;
        Ok(Self {
            package: plugin.to_string(),
            name: plugin,
            version,
            api: VersionReq::STAR,
            kind: Kind::Library,
            library: None,
            isolation: Isolation::default(),
            command: Vec::new(),
            socket_type: SocketType::default(),
            description: None,
            authors: Vec::new(),
            license: None,
            homepage: None,
            config: Value::Object(serde_json::Map::new()),
            config_schema: None,
            input_schema: None,
            provides: Vec::new(),
            requires: BTreeMap::new(),
            limits: Limits::default(),
            handover: Handover::default(),
            unload: Unload::default(),
            permissions: BTreeSet::new(),
            sandbox: None,
            sha256: None,
            length: None,
        })
    }

    /// Sets the name. The package stays the same.
    ///
    /// # Errors
    ///
    /// If `name` is not a valid plugin name.
    pub fn with_name(mut self, name: &str) -> Result<Self, ManifestError> {
        self.name = rules::name(name).map_err(|expected| error("name", name, expected))?;
        Ok(self)
    }

    /// Sets where the library runs. A program and a plugin that is compiled in ignore it.
    #[must_use]
    pub fn with_isolation(mut self, isolation: Isolation) -> Self {
        if self.kind == Kind::Library {
            self.isolation = isolation;
        }
        self
    }

    /// Sets the description.
    #[must_use]
    pub fn with_description(mut self, description: &str) -> Self {
        self.description = Some(description.to_owned());
        self
    }

    /// Sets the config.
    ///
    /// # Errors
    ///
    /// Fails if `config` is not an object.
    pub fn with_config(mut self, config: Value) -> Result<Self, ManifestError> {
        self.config = object("config", config)?;
        Ok(self)
    }

    /// Sets the JSON Schema that the config is validated against before the plugin starts.
    ///
    /// # Errors
    ///
    /// Fails if `schema` is not an object.
    pub fn with_config_schema(mut self, schema: Value) -> Result<Self, ManifestError> {
        self.config_schema = Some(ConfigSchema::Inline(object("config_schema", schema)?));
        Ok(self)
    }

    /// Sets the JSON Schema that the input of each call is validated against. Calls with an invalid
    /// input fail with `InvalidInput` and never reach the plugin.
    ///
    /// # Errors
    ///
    /// Fails if `schema` is not an object.
    pub fn with_input_schema(mut self, schema: Value) -> Result<Self, ManifestError> {
        self.input_schema = Some(ConfigSchema::Inline(object("input_schema", schema)?));
        Ok(self)
    }

    /// Adds a permission: `log`, `metrics`, `call:NAME`, or an operation that requests may name:
    /// `read`, `write`, `exec`, or one that the application defines.
    ///
    /// # Errors
    ///
    /// Fails if `permission` is not valid.
    pub fn with_permission(mut self, permission: &str) -> Result<Self, ManifestError> {
        let checked = rules::permission(permission);
        self.permissions
            .insert(checked.map_err(|expected| error("permissions", permission, expected))?);
        Ok(self)
    }

    /// Adds a contract that the plugin provides, in this version of the contract, by which
    /// `Host::providers` finds it.
    ///
    /// # Errors
    ///
    /// Fails if `contract` is empty, or `version` is not MAJOR.MINOR.PATCH.
    pub fn with_contract(mut self, contract: &str, version: &str) -> Result<Self, ManifestError> {
        let error = |field, text, expected: Expected| {
            let default = fields::find(PROVIDED, field).map_or("", |field| field.expected);
            let expected = expected.unwrap_or_else(|| default.to_owned());
            let problem = Problem::Value { found: quoted(text), expected, nearest: None };
            let path = format!("provides[{}].{field}", self.provides.len());
            ManifestError::new("", None, &path, problem)
        };
        let contract =
            rules::not_blank(contract).map_err(|expected| error("contract", contract, expected))?;
        let version =
            rules::version(version).map_err(|expected| error("version", version, expected))?;
        self.provides.push(Provided { contract, version, methods: BTreeMap::new() });
        Ok(self)
    }

    /// Adds a required plugin, of a version that `accepted` accepts, such as `^1.0`.
    ///
    /// # Errors
    ///
    /// Fails if `name` is this plugin's or not a valid plugin name, or `accepted` is not a
    /// requirement.
    pub fn with_requirement(mut self, name: &str, accepted: &str) -> Result<Self, ManifestError> {
        let required = rules::name(name).map_err(|expected| error("name", name, expected))?;
        let path = format!("requires.{required}");
        if required == self.name {
            return Err(ManifestError::new("", None, &path, Problem::RequiresItself));
        }
        let accepted = rules::parsed(accepted).map_err(|expected| {
            ManifestError::new("", None, &path, problem("api", quoted(accepted), expected))
        })?;
        self.requires.insert(required, accepted);
        Ok(self)
    }

    /// Replaces the limits.
    ///
    /// # Errors
    ///
    /// Fails if one of them is zero.
    pub fn with_limits(mut self, limits: Limits) -> Result<Self, ManifestError> {
        rules::limits(&limits).map_err(|(name, number, expected)| {
            let default = fields::find(LIMITS, name).map_or("", |field| field.expected);
            let expected = expected.unwrap_or_else(|| default.to_owned());
            let problem = Problem::Value { found: number.to_string(), expected, nearest: None };
            ManifestError::new("", None, &format!("limits.{name}"), problem)
        })?;
        self.limits = limits;
        Ok(self)
    }
}

fn object(field: &str, value: Value) -> Result<Value, ManifestError> {
    if value.is_object() {
        return Ok(value);
    }
    let found = match &value {
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    };
    let problem = problem(field, found, Some("an object".to_owned()));
    Err(ManifestError::new("", None, field, problem))
}

fn error(field: &str, text: &str, expected: Expected) -> ManifestError {
    ManifestError::new("", None, field, problem(field, quoted(text), expected))
}

fn problem(field: &str, found: String, expected: Expected) -> Problem {
    let default = fields::find(MANIFEST, field).map_or("", |field| field.expected);
    Problem::Value {
        found,
        expected: expected.unwrap_or_else(|| default.to_owned()),
        nearest: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn built_manifest_follows_the_same_rules() {
        let new = || Manifest::new("greet", "1.0.0").unwrap();
        let zero = Limits { queue: Some(0), ..Limits::default() };
        let cases = [
            (
                Manifest::new("Greet", "1.0.0"),
                "`name` is \"Greet\"; expected a lower-case letter, then at most 63 of `a-z`, \
                 `0-9`, `-`",
            ),
            (
                Manifest::new("greet", "1.2"),
                "`version` is \"1.2\"; expected MAJOR.MINOR.PATCH, for example `1.2.0`",
            ),
            (new().with_config(json!([1])), "`config` is a list; expected an object"),
            (new().with_config_schema(json!(true)), "`config_schema` is true; expected an object"),
            (new().with_input_schema(json!([])), "`input_schema` is a list; expected an object"),
            (
                new().with_permission("call:"),
                "`permissions` is \"call:\"; expected `log`, `metrics`, `call:NAME`, `read`, \
                 `write`, `exec`, or a permission that the application defines",
            ),
            (
                new().with_contract(" ", "1.0.0"),
                "`provides[0].contract` is \" \"; expected the contract's name",
            ),
            (
                new().with_contract("table", "1"),
                "`provides[0].version` is \"1\"; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
            ),
            (
                new().with_requirement("clock", "one"),
                "`requires.clock` is \"one\"; expected a semver requirement, for example `^1.0`",
            ),
            (new().with_requirement("greet", "*"), "`requires.greet` is the plugin itself"),
            (new().with_limits(zero), "`limits.queue` is 0; expected at least 1"),
        ];
        for (result, expect) in cases {
            let error = result.unwrap_err();
            assert_eq!(error.to_string(), expect);
            assert_eq!((error.line(), error.column()), (None, None));
        }
    }

    #[test]
    fn built_manifest_round_trips_through_json() {
        let manifest = Manifest::new("greet", "1.0.0")
            .and_then(|manifest| manifest.with_config(json!({ "mode": "loud" })))
            .and_then(|manifest| manifest.with_config_schema(json!({ "type": "object" })))
            .and_then(|manifest| manifest.with_input_schema(json!({ "type": "string" })))
            .and_then(|manifest| manifest.with_permission("log"))
            .and_then(|manifest| manifest.with_permission("write"))
            .and_then(|manifest| manifest.with_contract("greeter", "2.1.0"))
            .and_then(|manifest| manifest.with_requirement("clock", "^1.2"))
            .and_then(|manifest| {
                manifest.with_limits(Limits { workers: Some(2), ..Limits::default() })
            })
            .unwrap()
            .with_description("Greets.");
        let text = manifest.to_json().to_string();
        assert_eq!(Manifest::parse(&text, "".as_ref()).unwrap(), manifest);
        assert!(manifest.api().matches(&semver::Version::new(1, 4, 0)));
        assert_eq!(manifest.description(), Some("Greets."));
    }
}
